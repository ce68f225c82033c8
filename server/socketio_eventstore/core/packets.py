"""Pure wire text: Engine.IO packets and WebSocket frames, built once and shared by all who receive them.

Sources: Engine.IO protocol 4 ("Packet encoding"), Socket.IO protocol 5 ("Packet encoding"), RFC 6455
section 5.2. Nothing here reads, writes or waits.
"""

from __future__ import annotations

import json
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

RECORD_SEPARATOR = "\x1e"
"""Stands between the packets of one HTTP long-polling body (Engine.IO protocol, "HTTP long-polling")."""

_TEXT, _BINARY = 0x81, 0x82  # the FIN bit and the opcode
_COMPRESSED = 0x40  # RSV1 (RFC 7692 section 7.2.3)

Dumps = Callable[[Any], str]
"""Compact JSON, as the ``json`` argument of python-socketio's server makes it."""


class Frames:
    """Engine.IO packets that belong together, encoded once for each transport that asks.

    A text packet starts with its type digit; a binary packet is always a message. A binary event is
    one text packet and its attachments, which nothing may separate.
    """

    __slots__ = ("_deflated", "_polling", "_websocket", "packets", "size_bytes")

    def __init__(self, *packets: str | bytes) -> None:
        self.packets = packets
        self.size_bytes = sum(map(len, packets))
        """What the frames weigh in a buffer: characters of text plus bytes of attachments."""
        self._websocket: bytes | None = None
        self._deflated: bytes | None = None
        self._polling: str | None = None

    @staticmethod
    def join(parts: Sequence[Frames]) -> Frames:
        """Several frames as one, for receivers that all get the same."""
        return parts[0] if len(parts) == 1 else _JoinedFrames(parts)

    @property
    def websocket(self) -> bytes:
        """The packets as unmasked WebSocket frames, one after the other."""
        if self._websocket is None:
            self._websocket = self._as_websocket()
        return self._websocket

    @property
    def polling(self) -> str:
        """The packets as a part of a long-polling body; binary ones in base64 behind a ``b``."""
        if self._polling is None:
            self._polling = RECORD_SEPARATOR.join(
                [p if isinstance(p, str) else "b" + b64encode(p).decode("ascii") for p in self.packets]
            )
        return self._polling

    def deflated(self, threshold_bytes: int) -> bytes:
        """The packets as WebSocket frames, compressed from so many bytes on."""
        if self._deflated is None:
            self._deflated = self._as_deflated(threshold_bytes)
        return self._deflated

    def _as_websocket(self) -> bytes:
        if len(self.packets) == 1:
            return _frame(*_payload(self.packets[0]))
        return b"".join([_frame(*_payload(packet)) for packet in self.packets])

    def _as_deflated(self, threshold_bytes: int) -> bytes:
        return b"".join([_deflated_frame(*_payload(packet), threshold_bytes) for packet in self.packets])


class _JoinedFrames(Frames):
    """What was encoded already is not encoded again."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Frames]) -> None:
        super().__init__(*[packet for part in parts for packet in part.packets])
        self._parts = parts

    def _as_websocket(self) -> bytes:
        return b"".join([part.websocket for part in self._parts])

    def _as_deflated(self, threshold_bytes: int) -> bytes:
        return b"".join([part.deflated(threshold_bytes) for part in self._parts])


CLOSE = Frames("1")
PING = Frames("2")
NOOP = Frames("6")
PONG_PROBE = Frames("3probe")


def _payload(packet: str | bytes) -> tuple[int, bytes]:
    return (_TEXT, packet.encode()) if isinstance(packet, str) else (_BINARY, packet)


def _deflated_frame(head: int, payload: bytes, threshold_bytes: int) -> bytes:
    if len(payload) < threshold_bytes:
        return _frame(head, payload)
    # Nothing refers back to earlier messages, so that one frame serves all clients (RFC 7692 section 7.2.1).
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
    return _frame(head | _COMPRESSED, deflated.removesuffix(b"\x00\x00\xff\xff"))


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


def pong_frame(payload: bytes) -> bytes:
    """A WebSocket pong frame, the answer to a ping with this payload (RFC 6455 section 5.5.3)."""
    return _frame(0x8A, payload)


_escaped = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
# JSONEncoder.encode makes such a function anew for each value, which takes twice as long as the rest of it.
_compact = json.encoder.c_make_encoder(  # type: ignore[attr-defined]  # not documented, but there since 2.6
    None, _escaped.default, json.encoder.encode_basestring, None, ":", ",", False, False, False
)


def dumps(value: Any) -> str:
    """JSON as it goes on the wire and into the log: compact, readable, and always valid UTF-8.

    Raises ValueError for a number that JSON does not have (NaN, infinity) and TypeError for a value
    of a type that it does not have; both name the culprit.
    """
    try:
        text = "".join(_compact(value, 0))
    except RecursionError as error:
        raise ValueError("a value that contains itself, or is nested too deeply, is not JSON") from error
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate is legal in JSON only when escaped
            return _escaped.encode(value)
    return text


def payload_of(values: Sequence[Any], encode: Dumps = dumps) -> tuple[str, tuple[bytes, ...]]:
    """The JSON array of an event's name and arguments, or of an answer, without its binary parts, and those.

    Raises TypeError or ValueError for what JSON cannot hold.
    """
    if encode is dumps:
        try:
            return dumps(values), ()
        except TypeError:
            pass  # It has binary parts. Looking for them first would take longer than all the rest.
    attachments: list[bytes] = []
    text = encode([_without_binary(value, attachments) for value in values])
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
    """The inverse of what ``payload_of`` does to binary arguments."""
    match value:
        case {"_placeholder": True, "num": int(sequence)} if 0 <= sequence < len(attachments):
            return attachments[sequence]
        case dict():
            return {key: with_binary(item, attachments) for key, item in value.items()}
        case list():
            return [with_binary(item, attachments) for item in value]
        case _:
            return value


class PacketEncoder(Protocol):
    """How packets of the server become frames; python-socketio's ``serializer`` decides which."""

    def event(self, namespace: str, payload: str, attachments: Sequence[bytes], offset: str | None) -> Frames:
        """An EVENT without acknowledgement, the offset as its last argument."""
        ...

    def ack(self, namespace: str, ack_id: int, values: Sequence[Any]) -> Frames:
        """The answer to an event of a client. Raises TypeError or ValueError for what cannot be sent."""
        ...

    def connect(self, namespace: str, sid: str, pid: str | None) -> Frames:
        """The CONNECT packet of the server; the pid is there when recovery is enabled."""
        ...

    def disconnect(self, namespace: str) -> Frames:
        """The DISCONNECT packet, after which the client does not return by itself."""
        ...


class TextEncoder:
    """The standard encoding (Socket.IO protocol 5, "Packet encoding")."""

    def __init__(self, encode: Dumps = dumps) -> None:
        """``encode`` makes the JSON of answers; that of events comes from the log."""
        self._encode = encode

    def event(self, namespace: str, payload: str, attachments: Sequence[bytes], offset: str | None) -> Frames:
        """An EVENT or BINARY_EVENT; the stored text is spliced, never parsed.

        Clients read their position from the last argument (socket.io 4.6, connectionStateRecovery).
        """
        text = payload if offset is None else f'{payload[:-1]},"{offset}"]'
        if attachments:
            return Frames(f"45{len(attachments)}-{_prefix(namespace)}{text}", *attachments)
        return Frames(f"42{_prefix(namespace)}{text}")

    def ack(self, namespace: str, ack_id: int, values: Sequence[Any]) -> Frames:
        """An ACK or BINARY_ACK."""
        text, attachments = payload_of(values, self._encode)
        if attachments:
            return Frames(f"46{len(attachments)}-{_prefix(namespace)}{ack_id}{text}", *attachments)
        return Frames(f"43{_prefix(namespace)}{ack_id}{text}")

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
