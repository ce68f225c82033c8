"""Socket.IO packets as a client reads and writes them (protocol 5, "Packet encoding"). No I/O."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

CONNECT: Final = "0"
DISCONNECT: Final = "1"
EVENT: Final = "2"
ACK: Final = "3"
CONNECT_ERROR: Final = "4"
BINARY_EVENT: Final = "5"

_PACKET = re.compile(r"([0-6])(?:(\d+)-)?(?:(/[^,]*),?)?(\d+)?(.*)", re.DOTALL)


class NotAPacket(ValueError):
    """The server sent something that is no Socket.IO packet."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet, its attachments not yet in place."""

    kind: str
    attachments: int
    namespace: str
    id: int | None
    data: Any


def decode(text: str) -> Packet:
    """Read a packet. Raises NotAPacket."""
    match = _PACKET.fullmatch(text)
    if match is None:
        raise NotAPacket(text[:80])
    kind, attachments, namespace, number, data = match.groups()
    try:
        content = json.loads(data) if data else None
    except ValueError as error:
        raise NotAPacket(text[:80]) from error
    return Packet(
        kind, int(attachments or 0), namespace or "/", None if number is None else int(number), content
    )


def encode(kind: str, namespace: str, data: object = None, number: int | None = None) -> str:
    """The Engine.IO message of a packet."""
    place = "" if namespace == "/" else f"{namespace},"
    content = "" if data is None else json.dumps(data)
    return f"4{kind}{place}{'' if number is None else number}{content}"


def filled(value: Any, attachments: list[bytes]) -> Any:
    """The data with the attachments in the places of their placeholders."""
    match value:
        case {"_placeholder": True, "num": int(number)}:
            return attachments[number]
        case dict():
            return {key: filled(item, attachments) for key, item in value.items()}
        case list():
            return [filled(item, attachments) for item in value]
        case _:
            return value
