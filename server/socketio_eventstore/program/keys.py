"""API keys: form, hashes, and the check of a presented key.

A key has 32 random bytes, so a plain SHA-256 is enough: 2**256 keys are too many to try. The config file has
only the hashes, which are useless to a reader of the file.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

PREFIX: Final = "sioes_"
"""The start of each key: people and scanners of secrets recognise a key by the start."""
SCHEME: Final = "bearer"
HASH_PREFIX: Final = "sha256:"
KEY_BYTES: Final = 32
LONGEST_KEY: Final = 200
"""Characters; a longer text is no key, and is not hashed."""
_HASH = re.compile(rf"{HASH_PREFIX}[0-9a-f]{{64}}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def new_key() -> str:
    """Make a key: 32 random bytes, safe in a URL and in a shell."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hash_of(key: str) -> str:
    """Return the hash of a key, in the form of the config file."""
    return HASH_PREFIX + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def is_hash(text: object) -> bool:
    """Whether a text has the form of a hash."""
    return isinstance(text, str) and _HASH.fullmatch(text) is not None


def is_name(text: object) -> bool:
    """Whether a text can be the name of a key: letters, digits, ``_`` and ``-``."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


class ApiKeys:
    """The valid keys. ``replace`` serves a reload."""

    def __init__(self, hashes: Mapping[str, Sequence[str]]) -> None:
        """``hashes`` by name; several hashes of a name allow the exchange of a key without a gap."""
        self.replace(hashes)

    def replace(self, hashes: Mapping[str, Sequence[str]]) -> None:
        """Replace the present keys."""
        self._hashes = [(name, one) for name, several in hashes.items() for one in several]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def has(self, key_hash: str) -> bool:
        """Whether a hash belongs to a valid key."""
        return any(hmac.compare_digest(key_hash.encode(), known.encode()) for _, known in self._hashes)

    def caller(self, authorization: str) -> str | None:
        """Return the name of the key in a header ``Authorization: Bearer KEY``, None without a valid key."""
        scheme, _, key = authorization.partition(" ")
        return self.name_of(key.strip()) if scheme.lower() == SCHEME else None

    def name_of(self, key: str) -> str | None:
        """Return the name of a valid key, None for any other text.

        The duration depends neither on the number of right characters, nor on the key.
        """
        if len(key) > LONGEST_KEY:
            return None
        presented, found = hash_of(key).encode(), None
        for name, known in self._hashes:
            if hmac.compare_digest(presented, known.encode()):
                found = name
        return found
