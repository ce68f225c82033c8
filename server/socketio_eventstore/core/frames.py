"""Frames: Engine.IO packets as bytes for each transport, built once and shared by all recipients.

Sources: Engine.IO protocol 4 ("Packet encoding"), RFC 6455 section 5.2, RFC 7692 section 7.2. Pure, without
I/O.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Final

RECORD_SEPARATOR: Final = "\x1e"
"""Separates the packets of one HTTP long-polling body (Engine.IO protocol 4, "HTTP long-polling")."""

_TEXT, _BINARY = 0x81, 0x82  # the FIN bit and the opcode
_COMPRESSED: Final = 0x40  # RSV1 (RFC 7692 section 7.2.3)
_LONG: Final = 126  # payloads from this size on have a longer length field
_SHORT_TEXT: Final = tuple(bytes((_TEXT, size)) for size in range(_LONG))
"""The beginnings of short text frames, by the size of the payload."""


class Frames:
    """A sequence of Engine.IO packets, encoded once for each kind of transport.

    A text packet starts with the type digit; a binary packet is always a message. A binary event is a text
    packet followed by the attachments, without other packets in between.
    """

    __slots__ = ("_deflated", "_in_base64", "_polling", "_websocket", "packets", "size_bytes")
    _in_base64: Frames  # missing until asked for

    def __init__(self, *packets: str | bytes) -> None:
        self.packets = packets
        self.size_bytes = len(packets[0]) if len(packets) == 1 else sum(map(len, packets))
        """The weight in a buffer: characters of text plus bytes of attachments."""
        self._websocket: bytes | None = None
        self._deflated: bytes | None = None
        self._polling: str | None = None

    @staticmethod
    def join(parts: Sequence[Frames]) -> Frames:
        """Join several frames into one object, for recipients of the same frames."""
        return parts[0] if len(parts) == 1 else _JoinedFrames(parts)

    @property
    def without_offset(self) -> Frames:
        """The same packets for a client without offsets; only events have an offset."""
        return self

    @property
    def in_base64(self) -> Frames:
        """The same packets, with binary packets as text, as on long-polling."""
        try:
            return self._in_base64
        except AttributeError:
            self._in_base64 = Frames(*map(_as_text, self.packets))
            return self._in_base64

    @property
    def websocket(self) -> bytes:
        """The packets as unmasked WebSocket frames, in order."""
        if self._websocket is None:
            packets = self.packets
            if (
                len(packets) == 1
                and type(packet := packets[0]) is str
                and ((size := len(payload := packet.encode())) < _LONG)
            ):  # the usual case, with two calls less
                self._websocket = _SHORT_TEXT[size] + payload
            else:
                self._websocket = b"".join(map(_websocket_frame, packets))
        return self._websocket

    @property
    def polling(self) -> str:
        """The packets as part of a long-polling body; binary packets in base64 behind a ``b``."""
        if self._polling is None:
            self._polling = RECORD_SEPARATOR.join(map(_as_text, self.packets))
        return self._polling

    def deflated(self, threshold_bytes: int) -> bytes:
        """Return WebSocket frames; payloads of at least ``threshold_bytes`` are compressed."""
        if self._deflated is None:
            self._deflated = self._as_deflated(threshold_bytes)
        return self._deflated

    def _as_deflated(self, threshold_bytes: int) -> bytes:
        return b"".join([_deflated_frame(*_payload(packet), threshold_bytes) for packet in self.packets])


class FramesWithOffset(Frames):
    """Frames with offsets of events, and the same frames without, made once and only when asked for."""

    __slots__ = ("_without_offset",)
    _without_offset: Frames  # absent until the first use: an assignment for each event would cost time

    @property
    def without_offset(self) -> Frames:
        """The frames for all clients without offsets."""
        try:
            return self._without_offset
        except AttributeError:
            self._without_offset = self._make_without_offset()
            return self._without_offset

    def _make_without_offset(self) -> Frames:
        raise NotImplementedError


class _JoinedFrames(FramesWithOffset):
    """Joins the encoded parts, instead of encoding the packets again."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Frames]) -> None:
        super().__init__(*[packet for part in parts for packet in part.packets])
        self._parts = parts

    def _make_without_offset(self) -> Frames:
        return _JoinedFrames([part.without_offset for part in self._parts])

    @property
    def websocket(self) -> bytes:
        """The packets of all parts."""
        if self._websocket is None:
            self._websocket = b"".join([part.websocket for part in self._parts])
        return self._websocket

    def _as_deflated(self, threshold_bytes: int) -> bytes:
        return b"".join([part.deflated(threshold_bytes) for part in self._parts])


CLOSE = Frames("1")
PING = Frames("2")
NOOP = Frames("6")
PONG_PROBE = Frames("3probe")


def _as_text(packet: str | bytes) -> str:
    return packet if isinstance(packet, str) else "b" + b64encode(packet).decode("ascii")


def _payload(packet: str | bytes) -> tuple[int, bytes]:
    return (_TEXT, packet.encode()) if isinstance(packet, str) else (_BINARY, packet)


def _websocket_frame(packet: str | bytes) -> bytes:
    if isinstance(packet, bytes):
        return _frame(_BINARY, packet)
    payload = packet.encode()
    size = len(payload)
    return _SHORT_TEXT[size] + payload if size < _LONG else _frame(_TEXT, payload)


def _deflated_frame(head: int, payload: bytes, threshold_bytes: int) -> bytes:
    if len(payload) < threshold_bytes:
        return _frame(head, payload)
    # No reference to earlier messages, so a frame serves all clients (RFC 7692 section 7.2.1).
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
    return _frame(head | _COMPRESSED, deflated.removesuffix(b"\x00\x00\xff\xff"))


def _frame(head: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < _LONG:
        return bytes((head, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", head, 126, size) + payload
    return struct.pack("!BBQ", head, 127, size) + payload


def close_frame(code: int) -> bytes:
    """Return a WebSocket close frame with a status code (RFC 6455 section 5.5.1)."""
    return struct.pack("!BBH", 0x88, 2, code)


def pong_frame(payload: bytes) -> bytes:
    """Return the WebSocket pong frame for a ping with a payload (RFC 6455 section 5.5.3)."""
    return _frame(0x8A, payload)


def polling_body(batch: Iterable[Frames]) -> bytes:
    """Return the body of one long-polling response."""
    return RECORD_SEPARATOR.join([frames.polling for frames in batch]).encode()
