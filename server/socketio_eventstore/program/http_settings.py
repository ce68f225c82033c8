"""The types of the table ``[http]``: hashes of API keys, and the address of the HTTP interface."""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from socketio_eventstore.program import keys

API_PATH: Final = "/api/"
"""The path of the HTTP interface."""
INSPECT_PATH: Final = "/inspect/"
"""The path of the inspector."""
UNIX = "unix:"
"""The prefix of a Unix socket's path as a host."""
CONTROL_SUFFIX: Final = "-api"
"""The end of the name of the socket beside the database; the owner needs no key there."""
MAX_PORT: Final = 65535
_PORT = re.compile(r"[0-9]{1,5}")
_HOST = re.compile(r"[^\s:\[\]]+|\[[0-9a-fA-F:.]+\]")


def parse_address(text: str) -> tuple[str, int] | None:
    """Return host and port of an address such as ``127.0.0.1:9000``; None for another text.

    The path of a Unix socket, ``unix:/path``, is a host with the port 0.
    """
    if text.startswith(UNIX):
        return (text, 0) if text != UNIX and "\0" not in text else None
    host, _, port = text.rpartition(":")
    if _HOST.fullmatch(host) is None or _PORT.fullmatch(port) is None or int(port) > MAX_PORT:
        return None
    return host.strip("[]"), int(port)


def named_hashes(text: str) -> object:
    """Read ``name=hash,name=hash``, the form of the environment. Another text stays text."""
    found: dict[str, list[str]] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        name, separator, value = item.partition("=")
        if not separator:
            return text
        found.setdefault(name.strip(), []).append(value.strip())
    return found


def _address(text: str) -> str:
    if text and parse_address(text) is None:
        raise ValueError(text)
    return text


def _api_keys(value: object) -> object:
    """Check the keys; a single hash becomes a list. The errors have no text of the value."""
    if not isinstance(value, dict):
        raise ValueError("not a table")
    found: dict[str, tuple[str, ...]] = {}
    for name, hashes in value.items():
        several = [hashes] if isinstance(hashes, str) else hashes
        if not keys.is_name(name) or not isinstance(several, list | tuple):
            raise ValueError("not a name with hashes")
        if not several or not all(map(keys.is_hash, several)):
            raise ValueError("not a hash")
        found[name] = tuple(several)
    return found


ApiAddress: TypeAlias = Annotated[
    str,
    AfterValidator(_address),
    Field(description='an address such as "127.0.0.1:9000", "unix:/path", or "" for that of [server]'),
]
ApiKeyHashes: TypeAlias = Annotated[
    dict[str, tuple[str, ...]],
    BeforeValidator(_api_keys),
    Field(description='a hash, or a list of them, by name: { ci = "sha256:…" }; genkey prints it'),
]
