"""As much of WebSocket, Engine.IO 4 and Socket.IO 5 as a load generator needs."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

UPGRADE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n"
    b"Host: 127.0.0.1\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
"""No extension is offered, so nothing is compressed."""


def text_frame(text: str) -> bytes:
    """A client's text frame, with a mask of zero, which the protocol allows and which costs nothing."""
    payload = text.encode()
    if len(payload) < 126:
        return struct.pack("!BB4x", 0x81, 0x80 | len(payload)) + payload
    return struct.pack("!BBH4x", 0x81, 0x80 | 126, len(payload)) + payload


def event(name: str, *arguments: Any, ack: int | None = None) -> bytes:
    """An EVENT packet as a frame."""
    number = "" if ack is None else ack
    return text_frame(f"42{number}{json.dumps([name, *arguments], separators=(',', ':'))}")


def connect(auth: dict[str, Any] | None) -> bytes:
    """A CONNECT packet as a frame."""
    return text_frame("40" + (json.dumps(auth) if auth else ""))


def take_frames(buffer: bytearray) -> Iterator[tuple[bytes, int]]:
    """Take the complete frames of a server out of a buffer: payload, and size on the wire."""
    start, end = 0, len(buffer)
    while end - start >= 2:
        length, head = buffer[start + 1], 2
        if length == 126:
            if end - start < 4:
                break
            (length,), head = struct.unpack_from("!H", buffer, start + 2), 4
        elif length == 127:
            if end - start < 10:
                break
            (length,), head = struct.unpack_from("!Q", buffer, start + 2), 10
        if end - start < head + length:
            break
        yield bytes(buffer[start + head : start + head + length]), head + length
        start += head + length
    del buffer[:start]


def end_of_upgrade(buffer: bytearray) -> bool:
    """Take a complete response to ``UPGRADE`` out of a buffer. Raises ConnectionError."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return False
    if b" 101 " not in buffer[:20]:
        raise ConnectionError(f"no WebSocket: {bytes(buffer[:200])!r}")
    del buffer[: end + 4]
    return True
