"""The WebSocket frames of a client, read from its bytes: pure, without I/O.

The libraries' readers hand each message over through a queue and a task that wakes up for it; that cost
more than all else that an event of a client takes. Here the messages of a chunk of bytes are there when
the bytes are. Source: RFC 6455 sections 5 and 7.4, RFC 7692 section 7.2 for compressed messages.
"""

from __future__ import annotations

import zlib
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias


class CloseCode(IntEnum):
    """Why a WebSocket ends (RFC 6455 section 7.4.1)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_TEXT = 1007
    TOO_BIG = 1009


class Ping(NamedTuple):
    """To be answered by a pong with the same payload."""

    payload: bytes


class End(NamedTuple):
    """The client has closed the WebSocket, or broken the protocol; nothing follows."""

    code: int
    """What it is told in return: its own status code, or what it has broken."""


Message: TypeAlias = "str | bytes | Ping | End"

_FIN: Final = 0x80
_COMPRESSED: Final = 0x40
_CONTINUATION, _TEXT, _BINARY = 0x0, 0x1, 0x2
_WHOLE_TEXT: Final = _FIN | _TEXT
_CONTROL: Final = 0x08
_MASKED: Final = 0x80
_LONGEST_CONTROL: Final = 125
_TWO_BYTES_FOLLOW: Final = 126
_SENDABLE: Final = (range(1000, 1004), range(1007, 1015), range(3000, 5000))
"""The status codes that a close frame may carry (section 7.4, and the registry that it founds)."""
_END_OF_BLOCK: Final = b"\x00\x00\xff\xff"
"""What a sender of a compressed message leaves out of it (RFC 7692 section 7.2.1)."""


class _Broken(Exception):
    def __init__(self, code: CloseCode) -> None:
        self.code = code


class FrameReader:
    """Puts the messages of one client together, each at most as long as it may be."""

    __slots__ = ("_buffer", "_head", "_inflates", "_max_bytes", "_message", "_needed", "_over")

    def __init__(self, max_message_bytes: int, *, inflates: bool = False) -> None:
        """``inflates``: compression without context takeover has been agreed upon."""
        self._max_bytes = max_message_bytes
        self._inflates = inflates
        self._buffer: bytearray | None = None
        self._needed = 0  # bytes in the buffer before it is worth looking into it again
        self._message: bytearray | None = None  # the fragments that there are of one
        self._head = 0  # of its first fragment
        self._over = False

    def feed(self, data: bytes) -> list[Message]:
        """The messages that these bytes complete; an ``End`` is the last one ever."""
        if self._over:
            return []
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []
            data, self._buffer = bytes(self._buffer), None
        messages: list[Message] = []
        try:
            taken = self._read(data, messages)
        except _Broken as broken:
            messages.append(End(broken.code))
        else:
            if taken < len(data):
                self._buffer = bytearray(data[taken:])
        self._over = bool(messages) and type(messages[-1]) is End
        return messages

    def _read(self, data: bytes, messages: list[Message]) -> int:
        """Read whole frames; return where the first one begins that is not there completely."""
        start = 0
        while (bounds := self._bounds(data, start)) is not None:
            head = data[start]
            payload_at, end = bounds
            payload = _unmasked(data[payload_at:end], data[payload_at - 4 : payload_at])
            start = end
            if head == _WHOLE_TEXT and self._message is None:
                messages.append(_text(payload))
                continue
            message = self._control(head, payload) if head & _CONTROL else self._fragment(head, payload)
            if message is not None:
                messages.append(message)
            if type(message) is End:
                break
        return start

    def _bounds(self, data: bytes, start: int) -> tuple[int, int] | None:
        """Where the payload of a frame begins and ends, behind its mask; None if it is not there yet."""
        size = len(data)
        if size - start < 2:
            self._needed = 2
            return None
        length = data[start + 1] - _MASKED
        if length < 0:  # a client must mask (section 5.1)
            raise _Broken(CloseCode.PROTOCOL_ERROR)
        payload_at = start + 6
        if length > _LONGEST_CONTROL:
            if data[start] & _CONTROL:
                raise _Broken(CloseCode.PROTOCOL_ERROR)
            payload_at += 2 if length == _TWO_BYTES_FOLLOW else 8
            if payload_at > size:
                self._needed = payload_at - start
                return None
            length = int.from_bytes(data[start + 2 : payload_at - 4])
        before = 0 if data[start] & _CONTROL or self._message is None else len(self._message)
        if before + length > self._max_bytes:
            raise _Broken(CloseCode.TOO_BIG)
        end = payload_at + length
        if end > size:
            self._needed = end - start
            return None
        return payload_at, end

    def _control(self, head: int, payload: bytes) -> Message | None:
        match head:
            case 0x88:  # close
                return End(_status_code(payload))
            case 0x89:  # ping
                return Ping(payload)
            case 0x8A:  # pong, which nobody has asked for
                return None
            case _:
                raise _Broken(CloseCode.PROTOCOL_ERROR)

    def _fragment(self, head: int, payload: bytes) -> Message | None:
        opcode = head & 0x0F
        if self._message is None:
            known = _FIN | 0x0F | (_COMPRESSED if self._inflates else 0)
            if opcode not in (_TEXT, _BINARY) or head & ~known:
                raise _Broken(CloseCode.PROTOCOL_ERROR)
            self._head, self._message = head, bytearray()
        elif opcode != _CONTINUATION or head & ~_FIN:
            raise _Broken(CloseCode.PROTOCOL_ERROR)
        self._message += payload
        if not head & _FIN:
            return None
        content, first, self._message = bytes(self._message), self._head, None
        if first & _COMPRESSED:
            content = self._inflated(content)
        return _text(content) if first & 0x0F == _TEXT else content

    def _inflated(self, content: bytes) -> bytes:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            inflated = inflater.decompress(content + _END_OF_BLOCK, self._max_bytes + 1)
        except zlib.error as error:
            raise _Broken(CloseCode.PROTOCOL_ERROR) from error
        if len(inflated) > self._max_bytes:
            raise _Broken(CloseCode.TOO_BIG)
        return inflated


def _status_code(payload: bytes) -> int:
    if not payload:
        return CloseCode.NORMAL
    code = int.from_bytes(payload[:2])
    if len(payload) == 1 or not any(code in codes for codes in _SENDABLE):
        raise _Broken(CloseCode.PROTOCOL_ERROR)
    _text(payload[2:])  # the reason
    return code


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    # One exclusive-or of two large numbers, since a loop over the bytes would take 50 times as long.
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise _Broken(CloseCode.INVALID_TEXT) from error
