"""Socket.IO packets of a client, without I/O. Source: Socket.IO protocol 5, "Packet encoding"."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, NoReturn

CONNECT: Final = "0"
DISCONNECT: Final = "1"
EVENT: Final = "2"
ACK: Final = "3"
CONNECT_ERROR: Final = "4"
BINARY_EVENT: Final = "5"

RESERVED: Final = {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
MAX_ATTACHMENTS: Final = 10
"""As socket.io-parser 4.2.6 and later. An official client closes the transport on such a packet."""

_PACKET = re.compile(r"([0-6])(?:(\d+)-)?(?:(/[^,]*),?)?(\d+)?(.*)", re.DOTALL)


class InvalidPacket(ValueError):
    """The server sent data that is not a Socket.IO packet."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A decoded packet; ``data`` has placeholders for the attachments."""

    kind: str
    attachments: int
    """The number of attachments."""
    namespace: str
    id: int | None
    data: Any


def decode(text: str) -> Packet:
    """Decode a packet. Raises InvalidPacket."""
    match = _PACKET.fullmatch(text)
    if match is None:
        raise InvalidPacket(text[:80])
    kind, attachments, namespace, ack_id, data = match.groups()
    try:
        content = json.loads(data, parse_constant=_refuse) if data else None
    except ValueError as error:
        raise InvalidPacket(text[:80]) from error
    is_reserved = kind in (EVENT, BINARY_EVENT) and isinstance(content, list) and content[0] in RESERVED
    if is_reserved or int(attachments or 0) > MAX_ATTACHMENTS:
        raise InvalidPacket(text[:80])
    return Packet(
        kind, int(attachments or 0), namespace or "/", None if ack_id is None else int(ack_id), content
    )


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def encode(kind: str, namespace: str, data: object = None, ack_id: int | None = None) -> str:
    """Encode a packet as an Engine.IO message."""
    prefix = "" if namespace == "/" else f"{namespace},"
    content = "" if data is None else json.dumps(data)
    return f"4{kind}{prefix}{'' if ack_id is None else ack_id}{content}"


def with_attachments(value: Any, attachments: list[bytes]) -> Any:
    """Return the data with each placeholder replaced by its attachment. Raises InvalidPacket."""
    match value:
        case {"_placeholder": True, "num": int(index)} if 0 <= index < len(attachments):
            return attachments[index]
        case {"_placeholder": True}:
            raise InvalidPacket(f"no attachment for {value}")
        case dict():
            return {key: with_attachments(item, attachments) for key, item in value.items()}
        case list():
            return [with_attachments(item, attachments) for item in value]
        case _:
            return value
