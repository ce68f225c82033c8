"""The reader of WebSocket frames sent by a client: pure, without I/O.

The readers of aiohttp and websockets pass each message on through a queue and a task wake-up; both together
cost more than all other work for one client event. ``FrameReader.feed`` returns each message at the message's
last byte.

A compressed message may be a thousand times as long as the frame, and a read may bring 40,000 frames. So
``feed`` and ``more`` end with the first inflated message, or after FRAMES_PER_STEP frames. The caller decides
when the next step follows.

Sources: RFC 6455 sections 5 and 7.4; RFC 7692 section 7.2 for compressed messages.
"""

from __future__ import annotations

import zlib
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias


class CloseCode(IntEnum):
    """The status code of a close frame (RFC 6455 section 7.4.1)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_TEXT = 1007
    TOO_BIG = 1009


class Ping(NamedTuple):
    """A ping; the server replies with a pong of the same payload."""

    payload: bytes


class Close(NamedTuple):
    """The client sent a close frame or violated the protocol. No message follows."""

    code: int
    """The status code for the server's close frame: the client's own code, or the kind of violation."""


FRAMES_PER_STEP: Final = 128
"""The most frames in a call, which take 0.5 ms at most."""

Message: TypeAlias = "str | bytes | Ping | Close"

_FIN: Final = 0x80
_COMPRESSED: Final = 0x40
_CONTINUATION, _TEXT, _BINARY = 0x0, 0x1, 0x2
_WHOLE_TEXT: Final = _FIN | _TEXT
_CONTROL: Final = 0x08
_MASKED: Final = 0x80
_LONGEST_CONTROL: Final = 125
_SHORT_HEAD_BYTES: Final = 6
"""The size of the head of a masked frame with the length in the second byte."""
_TWO_BYTES_FOLLOW: Final = 126
_REPEATED_BYTES: Final = 128
_REPEATED: Final = int.from_bytes(b"\x01\x00\x00\x00" * (_REPEATED_BYTES // 4), "little")
"""The factor that repeats a mask of four bytes over the longest short frame."""
_SENDABLE: Final = (range(1000, 1004), range(1007, 1015), range(3000, 5000))
"""The status codes allowed in a close frame (RFC 6455 section 7.4 and the IANA registry of section 11.7)."""
_END_OF_BLOCK: Final = b"\x00\x00\xff\xff"
"""The four bytes that a sender removes from the end of a compressed message (RFC 7692 section 7.2.1)."""


class _ProtocolViolation(Exception):
    def __init__(self, code: CloseCode) -> None:
        self.code = code


class FrameReader:
    """Assembles the messages of one client, each of at most ``max_message_bytes``."""

    __slots__ = (
        "_buffer",
        "_closed",
        "_head",
        "_inflates",
        "_max_bytes",
        "_message",
        "_needed_bytes",
        "_short_bytes",
        "_unread",
        "has_more",
        "inflated_bytes",
    )

    def __init__(self, max_message_bytes: int, *, inflates: bool = False) -> None:
        """``inflates`` accepts compressed messages; the handshake agreed on no context takeover."""
        self._max_bytes = max_message_bytes
        self._short_bytes = min(_LONGEST_CONTROL, max_message_bytes)
        self._inflates = inflates
        self._buffer: bytearray | None = None
        self._needed_bytes = 0  # below so many buffered bytes there is no complete frame
        self._message: bytearray | None = None  # the fragments received of an incomplete message
        self._head = 0  # the first byte of the first fragment
        self._closed = False
        self._unread: tuple[bytes, int] | None = None  # bytes for ``more``, and their start
        self.has_more = False
        """Whether complete frames may be left for ``more``."""
        self.inflated_bytes = 0
        """The length of the message inflated by the last call; 0 without an inflated message."""

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages completed by ``data``, up to the end of a step; see ``more``.

        After a ``Close`` every further call returns none.
        """
        if self._closed:
            return []
        if self._unread is not None:
            unread, start = self._unread
            self._unread = (unread[start:] + data, 0)
            return []
        size = len(data) - _SHORT_HEAD_BYTES
        if (
            0 <= size <= self._short_bytes
            and data[0] == _WHOLE_TEXT
            and data[1] == _MASKED | size
            and self._buffer is None
            and self._message is None
        ):  # most reads bring one frame of a short text, and nothing else
            self.inflated_bytes = 0
            payload = _unmask(data[_SHORT_HEAD_BYTES:], data[2:_SHORT_HEAD_BYTES])
            try:
                return [payload.decode()]
            except UnicodeDecodeError:
                self._closed = True
                return [Close(CloseCode.INVALID_TEXT)]
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._needed_bytes:
                return []
            data, self._buffer = bytes(self._buffer), None
        return self._read(data, 0)

    def more(self) -> list[Message]:
        """Return the messages behind the last step, up to the end of the next step."""
        if self._unread is None:
            return []
        (data, start), self._unread = self._unread, None
        return self._read(data, start)

    def _read(self, data: bytes, start: int) -> list[Message]:
        messages: list[Message] = []
        self.inflated_bytes = self._needed_bytes = 0
        try:
            consumed = self._read_frames(data, start, messages)
        except _ProtocolViolation as violation:
            messages.append(Close(violation.code))
        except UnicodeDecodeError:
            messages.append(Close(CloseCode.INVALID_TEXT))
        else:
            if consumed < len(data):
                if self._needed_bytes:
                    self._buffer = bytearray(data[consumed:])
                else:
                    self._unread = (data, consumed)
        if messages and type(messages[-1]) is Close:
            self._closed, self._unread = True, None
        self.has_more = self._unread is not None
        return messages

    def _read_frames(self, data: bytes, start: int, messages: list[Message]) -> int:
        """Read the complete frames of a step. Returns the index of the first unread frame."""
        size, short_bytes = len(data), self._short_bytes
        for _ in range(FRAMES_PER_STEP):
            payload_at = start + _SHORT_HEAD_BYTES
            if (
                payload_at <= size
                and data[start] == _WHOLE_TEXT
                and 0 <= (length := data[start + 1] - _MASKED) <= short_bytes
                and (end := payload_at + length) <= size
                and self._message is None
            ):  # as in ``feed``
                messages.append(_unmask(data[payload_at:end], data[payload_at - 4 : payload_at]).decode())
                start = end
                continue
            bounds = self._payload_bounds(data, start)
            if bounds is None:
                break
            head = data[start]
            payload_at, end = bounds
            payload = _unmask(data[payload_at:end], data[payload_at - 4 : payload_at])
            start = end
            if head == _WHOLE_TEXT and self._message is None:
                messages.append(payload.decode())
                continue
            message = (
                self._read_control(head, payload) if head & _CONTROL else self._add_fragment(head, payload)
            )
            if message is not None:
                messages.append(message)
            if self.inflated_bytes or type(message) is Close:
                break
        return start

    def _payload_bounds(self, data: bytes, start: int) -> tuple[int, int] | None:
        """Return the start and end of a frame's payload, after the mask; None for an incomplete frame."""
        size = len(data)
        if size - start < 2:
            self._needed_bytes = 2
            return None
        length = data[start + 1] - _MASKED
        if length < 0:  # a client must mask (section 5.1)
            raise _ProtocolViolation(CloseCode.PROTOCOL_ERROR)
        payload_at = start + 6
        if length > _LONGEST_CONTROL:
            if data[start] & _CONTROL:
                raise _ProtocolViolation(CloseCode.PROTOCOL_ERROR)
            payload_at += 2 if length == _TWO_BYTES_FOLLOW else 8
            if payload_at > size:
                self._needed_bytes = payload_at - start
                return None
            length = int.from_bytes(data[start + 2 : payload_at - 4])
        before = 0 if data[start] & _CONTROL or self._message is None else len(self._message)
        if before + length > self._max_bytes:
            raise _ProtocolViolation(CloseCode.TOO_BIG)
        end = payload_at + length
        if end > size:
            self._needed_bytes = end - start
            return None
        return payload_at, end

    def _read_control(self, head: int, payload: bytes) -> Message | None:
        match head:
            case 0x88:  # close
                return Close(_status_code(payload))
            case 0x89:  # ping
                return Ping(payload)
            case 0x8A:  # an unsolicited pong (section 5.5.3)
                return None
            case _:
                raise _ProtocolViolation(CloseCode.PROTOCOL_ERROR)

    def _add_fragment(self, head: int, payload: bytes) -> Message | None:
        opcode = head & 0x0F
        if self._message is None:
            known = _FIN | 0x0F | (_COMPRESSED if self._inflates else 0)
            if opcode not in (_TEXT, _BINARY) or head & ~known:
                raise _ProtocolViolation(CloseCode.PROTOCOL_ERROR)
            self._head, self._message = head, bytearray()
        elif opcode != _CONTINUATION or head & ~_FIN:
            raise _ProtocolViolation(CloseCode.PROTOCOL_ERROR)
        self._message += payload
        if not head & _FIN:
            return None
        content, first, self._message = bytes(self._message), self._head, None
        if first & _COMPRESSED:
            content = self._inflate(content)
        return content.decode() if first & 0x0F == _TEXT else content

    def _inflate(self, content: bytes) -> bytes:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            inflated = inflater.decompress(content + _END_OF_BLOCK, self._max_bytes + 1)
        except zlib.error as error:
            raise _ProtocolViolation(CloseCode.PROTOCOL_ERROR) from error
        if len(inflated) > self._max_bytes:
            raise _ProtocolViolation(CloseCode.TOO_BIG)
        self.inflated_bytes = len(inflated)
        return inflated


def _status_code(payload: bytes) -> int:
    if not payload:
        return CloseCode.NORMAL
    code = int.from_bytes(payload[:2])
    if len(payload) == 1 or not any(code in codes for codes in _SENDABLE):
        raise _ProtocolViolation(CloseCode.PROTOCOL_ERROR)
    payload[2:].decode()  # the reason
    return code


def _unmask(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    if size <= _LONGEST_CONTROL:  # nearly all frames, in two thirds of the time
        repeated = int.from_bytes(mask, "little") * _REPEATED
        return (int.from_bytes(payload, "little") ^ repeated).to_bytes(_REPEATED_BYTES, "little")[:size]
    key = (mask * (size // 4 + 1))[:size]
    # One exclusive-or of two large integers: a loop over the bytes takes 50 times as long.
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")
