"""Random ids: connection ids, session ids and private ids."""

from __future__ import annotations

from binascii import b2a_base64
from os import urandom
from typing import Final

_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")

ID_BYTES: Final = 15
"""120 random bits: python-engineio's ids have 96, and a counter."""
PRIVATE_ID_BYTES: Final = 18


def random_id(size_bytes: int = ID_BYTES) -> str:
    """Return random bytes as URL-safe text; ``size_bytes`` is a multiple of 3, so there is no padding."""
    return b2a_base64(urandom(size_bytes), newline=False).translate(_URL_SAFE).decode()
