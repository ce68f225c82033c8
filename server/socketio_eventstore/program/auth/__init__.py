"""The tokens of ``[auth]``: their keys and their check. Only this folder knows PyJWT and cryptography."""
