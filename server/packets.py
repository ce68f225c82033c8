"""Pure wire text: Engine.IO packets and WebSocket frames, built once and shared by all who receive them.

Sources: Engine.IO protocol 4 ("Packet encoding"), Socket.IO protocol 5 ("Packet encoding"), RFC 6455
section 5.2. Nothing here reads, writes or waits.
"""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol

RECORD_SEPARATOR = "\x1e"
"""Stands between the packets of one HTTP long-polling body (Engine.IO protocol, "HTTP long-polling")."""

_TEXT, _BINARY = 0x81, 0x82  # the FIN bit and the opcode

Dumps = Callable[[Any], str]
"""Compact JSON, as the ``json`` argument of python-socketio's server makes it."""


class Frames:
    """Engine.IO packets that belong together, encoded once for each transport that asks.

    A text packet starts with its type digit; a binary packet is always a message. A binary event is
    one text packet and its attachments, which nothing may separate.
    """

    def __init__(self, *packets: str | bytes) -> None:
        self.packets = packets

    @staticmethod
    def join(parts: Sequence[Frames]) -> Frames:
        """Several frames as one, for receivers that all get the same."""
        return parts[0] if len(parts) == 1 else _JoinedFrames(parts)

    @cached_property
    def websocket(self) -> bytes:
        """The packets as unmasked WebSocket frames, one after the other."""
        return b"".join(
            [
                _frame(_TEXT, packet.encode()) if isinstance(packet, str) else _frame(_BINARY, packet)
                for packet in self.packets
            ]
        )

    @cached_property
    def polling(self) -> str:
        """The packets as a part of a long-polling body; binary ones in base64 behind a ``b``."""
        return RECORD_SEPARATOR.join(
            [p if isinstance(p, str) else "b" + b64encode(p).decode("ascii") for p in self.packets]
        )

    @cached_property
    def size_bytes(self) -> int:
        """What the frames weigh in a buffer: characters of text plus bytes of attachments."""
        return sum(map(len, self.packets))


class _JoinedFrames(Frames):
    """What was encoded already is not encoded again."""

    def __init__(self, parts: Sequence[Frames]) -> None:
        super().__init__(*[packet for part in parts for packet in part.packets])
        self._parts = parts

    @cached_property
    def websocket(self) -> bytes:
        return b"".join([part.websocket for part in self._parts])


CLOSE = Frames("1")
PING = Frames("2")
NOOP = Frames("6")
PONG_PROBE = Frames("3probe")


def _frame(head: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((head, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", head, 126, size) + payload
    return struct.pack("!BBQ", head, 127, size) + payload


def close_frame(code: int) -> bytes:
    """A WebSocket close frame with a status code (RFC 6455 section 5.5.1)."""
    return struct.pack("!BBH", 0x88, 2, code)


_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_escaped = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def dumps(value: Any) -> str:
    """JSON as it goes on the wire and into the log: compact, readable, and always valid UTF-8.

    Raises ValueError for a number that JSON does not have (NaN, infinity) and TypeError for a value
    of a type that it does not have; both name the culprit.
    """
    text = _compact.encode(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate is legal in JSON only when escaped
            return _escaped.encode(value)
    return text


def event_payload(name: str, arguments: Sequence[Any], dumps: Dumps = dumps) -> tuple[str, tuple[bytes, ...]]:
    """The JSON array of an event and the binary arguments that were taken out of it.

    Raises TypeError or ValueError for what JSON cannot hold.
    """
    attachments: list[bytes] = []
    text = dumps([name, *(_without_binary(argument, attachments) for argument in arguments)])
    return text, tuple(attachments)


def _without_binary(value: Any, attachments: list[bytes]) -> Any:
    match value:
        case str() | int() | float() | None:
            return value
        case bytes() | bytearray() | memoryview():
            attachments.append(bytes(value))
            return {"_placeholder": True, "num": len(attachments) - 1}
        case dict():
            return {key: _without_binary(item, attachments) for key, item in value.items()}
        case list() | tuple():
            return [_without_binary(item, attachments) for item in value]
        case _:
            return value


def with_binary(value: Any, attachments: Sequence[bytes]) -> Any:
    """The inverse of what ``event_payload`` does to binary arguments."""
    match value:
        case {"_placeholder": True, "num": int(number)} if 0 <= number < len(attachments):
            return attachments[number]
        case dict():
            return {key: with_binary(item, attachments) for key, item in value.items()}
        case list():
            return [with_binary(item, attachments) for item in value]
        case _:
            return value


class Codec(Protocol):
    """How packets of the server become frames; python-socketio's ``serializer`` decides which."""

    def event(self, namespace: str, payload: str, attachments: Sequence[bytes], offset: str | None) -> Frames:
        """An EVENT without acknowledgement, the offset as its last argument."""
        ...

    def connect(self, namespace: str, sid: str, pid: str | None) -> Frames:
        """The CONNECT packet of the server; the pid is there when recovery is enabled."""
        ...

    def disconnect(self, namespace: str) -> Frames:
        """The DISCONNECT packet, after which the client does not return by itself."""
        ...


class TextCodec:
    """The standard encoding (Socket.IO protocol 5, "Packet encoding")."""

    def event(self, namespace: str, payload: str, attachments: Sequence[bytes], offset: str | None) -> Frames:
        """An EVENT or BINARY_EVENT; the stored text is spliced, never parsed.

        Clients read their position from the last argument (socket.io 4.6, connectionStateRecovery).
        """
        text = payload if offset is None else f'{payload[:-1]},"{offset}"]'
        if attachments:
            return Frames(f"45{len(attachments)}-{_prefix(namespace)}{text}", *attachments)
        return Frames(f"42{_prefix(namespace)}{text}")

    def connect(self, namespace: str, sid: str, pid: str | None) -> Frames:
        """``40{"sid":…,"pid":…}``."""
        ids = {"sid": sid} if pid is None else {"sid": sid, "pid": pid}
        return Frames(f"40{_prefix(namespace)}{dumps(ids)}")

    def disconnect(self, namespace: str) -> Frames:
        """``41``."""
        return Frames(f"41{_prefix(namespace)}")


def _prefix(namespace: str) -> str:
    return "" if namespace == "/" else namespace + ","


def polling_body(batch: Iterable[Frames]) -> bytes:
    """The body of one long-polling response."""
    return RECORD_SEPARATOR.join([frames.polling for frames in batch]).encode()
