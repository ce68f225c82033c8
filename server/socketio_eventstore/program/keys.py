"""API keys: their form, their hashes, and the check of a presented key.

A key has 32 random bytes, so a plain SHA-256 is enough: nobody can try 2**256 keys. The config file has the
hashes only, and a reader of the file cannot use them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

PREFIX: Final = "sioes_"
"""The start of each key, by which people and scanners of secrets recognise it."""
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
    """Return the hash of a key, as the config file has it."""
    return HASH_PREFIX + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def is_hash(text: object) -> bool:
    """Whether a text has the form of a hash."""
    return isinstance(text, str) and _HASH.fullmatch(text) is not None


def is_name(text: object) -> bool:
    """Whether a text can be the name of a key: letters, digits, ``_`` and ``-``."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


class ApiKeys:
    """The keys that are valid at present. ``replace`` serves a reload."""

    def __init__(self, hashes: Mapping[str, Sequence[str]]) -> None:
        """``hashes`` by name; a name may have several, so that a key can be exchanged without a gap."""
        self.replace(hashes)

    def replace(self, hashes: Mapping[str, Sequence[str]]) -> None:
        """Take these keys instead of the present ones."""
        self._hashes = [(name, one) for name, several in hashes.items() for one in several]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def has(self, key_hash: str) -> bool:
        """Whether a key with this hash is valid."""
        return any(hmac.compare_digest(key_hash.encode(), known.encode()) for _, known in self._hashes)

    def caller(self, authorization: str) -> str | None:
        """Return the name of the key in a header ``Authorization: Bearer KEY``, None without a valid key."""
        scheme, _, key = authorization.partition(" ")
        return self.name_of(key.strip()) if scheme.lower() == SCHEME else None

    def name_of(self, key: str) -> str | None:
        """Return the name of a valid key, None for any other text.

        The time does not depend on how much of a hash is right, nor on which key it is.
        """
        if len(key) > LONGEST_KEY:
            return None
        presented, found = hash_of(key).encode(), None
        for name, known in self._hashes:
            if hmac.compare_digest(presented, known.encode()):
                found = name
        return found
