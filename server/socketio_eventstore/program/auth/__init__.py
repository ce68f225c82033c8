"""The tokens of ``[auth]``: keys and checks. Only this folder imports PyJWT and cryptography."""
