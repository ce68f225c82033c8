"""A WebSocket on a TCP connection accepted by aiohttp.

After the handshake ``AiohttpWebSocket`` replaces aiohttp's protocol on the TCP connection. aiohttp's own
WebSocket needs a task, a queue and a wake-up per message, and several KiB per client.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextvars import Context, copy_context
from operator import attrgetter
from typing import Any, Final, cast

from aiohttp import web

from socketio_eventstore.core.frames import Frames, close_frame, pong_frame
from socketio_eventstore.transport.frame_reader import Close, CloseCode, FrameReader, Message, Ping
from socketio_eventstore.transport.shared_rounds import SharedRounds
from socketio_eventstore.transport.websocket import (
    CLOSE_TIMEOUT_SECONDS,
    CLOSED_BY_APPLICATION,
    NO_RECEIVER,
    MakeReceiver,
    Receiver,
)
from socketio_eventstore.transport.websocket_handshake import Acceptance, accept

try:
    import fcntl
    import termios
except ImportError:  # Windows, which does not tell how much a client has acknowledged
    HAS_SOCKET_QUEUES = False
else:
    HAS_SOCKET_QUEUES = True

_WEBSOCKET: Final = attrgetter("websocket")
INFLATED_BYTES_PER_STEP = 100_000
"""Bytes of a client to inflate before the event loop serves others."""
UNREAD_BYTES_WITHOUT_PONG = 64_000
"""Unsent bytes of one client beyond which its WebSocket pings get no pong."""


class AiohttpWebSocket(asyncio.Protocol):
    """A WebSocket on a TCP connection accepted by aiohttp."""

    __slots__ = (
        "_abort_timer",
        "_compression_threshold",
        "_context",
        "_early_data",
        "_greeting",
        "_is_paused",
        "_is_reading_on",
        "_make_receiver",
        "_max_message_bytes",
        "_reader",
        "_rounds",
        "_transport",
        "receiver",
    )

    def __init__(
        self,
        make_receiver: MakeReceiver,
        max_message_bytes: int,
        compression_threshold: int,
        rounds: SharedRounds,
        greeting: Frames | None = None,
    ) -> None:
        """``compression_threshold`` is the smallest payload to compress, in bytes; 0 compresses none.

        ``rounds``: shared by all clients of the server. ``greeting`` is written with the handshake's
        response.
        """
        self._make_receiver: MakeReceiver | None = make_receiver
        self._max_message_bytes = max_message_bytes
        self._compression_threshold = compression_threshold
        self._rounds = rounds
        self._greeting = greeting
        self._early_data = b""
        self._abort_timer: asyncio.TimerHandle | None = None
        self._is_paused = False  # by the receiver
        self._is_reading_on = False  # a step of _read_on is scheduled
        self._context: Context
        self._reader: FrameReader
        self._transport: asyncio.Transport
        self.receiver: Receiver

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Complete the handshake and take over the TCP connection. Raises HTTPBadRequest."""
        acceptance = await accept(request, may_compress=self._compression_threshold > 0)
        if request.transport is None or request.transport.is_closing():
            return _NoResponse()  # the client disconnected during the handshake
        transport = _take_over(request, self)
        self.begin(transport, acceptance, self._early_data)
        self._early_data = b""
        return _NoResponse()

    def begin(self, transport: asyncio.Transport, acceptance: Acceptance, early_data: bytes) -> None:
        """Send the response on a TCP connection whose protocol is this object.

        ``early_data`` are the client's bytes right behind the handshake.
        """
        response, compresses = acceptance
        if not compresses:
            self._compression_threshold = 0
        self._context = copy_context()  # handlers see the context variables set by middlewares
        self._reader = FrameReader(self._max_message_bytes, inflates=compresses)
        self._transport = transport
        if (greeting := self._greeting) is not None:
            self._greeting, threshold = None, self._compression_threshold
            response += greeting.deflated(threshold) if threshold else greeting.websocket
        transport.write(response)
        make_receiver, self._make_receiver = self._make_receiver, None
        assert make_receiver is not None
        self.receiver = make_receiver(self)
        if early_data:
            self._context.run(self._receive, early_data)  # uvloop's present context is the listener's

    def feed_data(self, data: bytes) -> None:
        """Keep the client's bytes right behind the handshake. Called by aiohttp at the takeover."""
        self._early_data = data

    def feed_eof(self) -> None:
        """Do nothing; ``connection_lost`` tells the end. Called by aiohttp after the takeover."""

    @property
    def unsent_bytes(self) -> int:
        """The bytes in the buffer of the TCP transport."""
        return self._transport.get_write_buffer_size()

    def write(self, batch: Sequence[Frames]) -> int:
        """Send frames with one write. Returns ``unsent_bytes``."""
        transport = self._transport
        if transport.is_closing():
            return 0
        if threshold := self._compression_threshold:
            transport.write(b"".join([frames.deflated(threshold) for frames in batch]))
        elif len(batch) == 1:
            transport.write(batch[0].websocket)
        else:
            transport.write(b"".join(map(_WEBSOCKET, batch)))
        return transport.get_write_buffer_size()

    def data_received(self, data: bytes) -> None:
        """Pass complete messages to the receiver. Called by the event loop."""
        self._context.run(self._receive, data)

    def _receive(self, data: bytes) -> None:
        reader = self._reader
        for message in reader.feed(data):
            if type(message) is str:  # nearly all of them
                self.receiver.data_received(message)
            else:
                self._pass_on(message)
        if reader.has_more and not self._is_reading_on:
            self._read_on(reader.inflated_bytes or INFLATED_BYTES_PER_STEP)

    def _read_on(self, inflated_bytes: int = 0) -> None:
        """Read further frames while the receiver reads, one inflated message after the other.

        ``inflated_bytes``: the inflated bytes of this round of the event loop; a full step of frames counts
        as a full step of bytes.
        """
        reader, transport = self._reader, self._transport
        self._is_reading_on = False
        while reader.has_more and not self._is_paused and not transport.is_closing():
            if inflated_bytes >= INFLATED_BYTES_PER_STEP:
                self._read_on_later()
                return
            for message in reader.more():
                self._pass_on(message)
            inflated_bytes += reader.inflated_bytes or INFLATED_BYTES_PER_STEP
        if not self._is_paused and not transport.is_closing():
            transport.resume_reading()

    def _read_on_later(self) -> None:
        if not self._is_reading_on:
            self._is_reading_on = True
            self._transport.pause_reading()
            self._rounds.wait(self._read_in_round, floods=True)

    def _read_in_round(self, most: int) -> int:
        """Read the next step, in about the time for ``most`` packets of a flooding client."""
        self._context.run(self._read_on)
        return most

    def _pass_on(self, message: Message) -> None:
        match message:
            case str() | bytes():
                self.receiver.data_received(message)
            case Ping(payload):
                self._send_pong(payload)
            case Close(code):
                is_written = not self.unsent_bytes and not _unacknowledged_bytes(self._transport)
                in_order = code in CLOSED_BY_APPLICATION and is_written
                self._close(code)
                self.receiver.connection_lost(in_order=in_order)

    def _send_pong(self, payload: bytes) -> None:
        # While the client does not read, pongs stop: RFC 6455 section 5.5.3 requires only the newest.
        unread = self._transport.get_write_buffer_size()
        if not self._transport.is_closing() and unread <= UNREAD_BYTES_WITHOUT_PONG:
            self._transport.write(pong_frame(payload))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the receiver that the TCP connection has ended. Called by the event loop."""
        receiver, self.receiver = self.receiver, NO_RECEIVER
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._context.run(receiver.connection_lost)

    def pause_reading(self) -> None:
        """Stop reading: TCP flow control then slows the client."""
        self._is_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._is_paused = False
        if self._reader.has_more:
            self._read_on_later()
        elif not self._is_reading_on:
            self._transport.resume_reading()

    def close(self) -> None:
        """Send a close frame and close the TCP connection after sending the unsent bytes."""
        self._close(CloseCode.GOING_AWAY)

    def abort(self) -> None:
        """Close the TCP connection at once, without a close frame."""
        self._transport.abort()

    def _close(self, code: int) -> None:
        transport = self._transport
        if not transport.is_closing():
            transport.write(close_frame(code))
            transport.close()
        if transport.get_write_buffer_size() or transport.get_extra_info("sslcontext") is not None:
            # asyncio's close() waits for the unsent bytes, and waits for ever if the client does not read.
            # With TLS, get_write_buffer_size() leaves out the bytes already passed on to TCP.
            loop = asyncio.get_running_loop()
            self._abort_timer = loop.call_later(CLOSE_TIMEOUT_SECONDS, transport.abort)


def _unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """Return the client's bytes in the operating system; 0 if unknown."""
    if not HAS_SOCKET_QUEUES:
        return 0
    try:
        file = transport.get_extra_info("socket").fileno()
        answer = fcntl.ioctl(file, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)


def _take_over(request: web.Request, websocket: AiohttpWebSocket) -> asyncio.Transport:
    """Give the TCP connection of a request to a WebSocket. Returns the connection's transport.

    After the request, aiohttp's protocol gets ``connection_lost`` and so releases the request's resources.
    An earlier call might cancel the request (``handler_cancellation``).
    """
    former, transport = request.protocol, cast("asyncio.Transport", request.transport)

    def release(_: object) -> None:
        former.connection_lost(None)
        former.transport = transport  # handlers read the peer's address or certificate from the request

    former.set_parser(cast("Any", websocket))  # otherwise aiohttp goes on with HTTP after the request
    former.keep_alive(False)
    transport.set_protocol(websocket)
    former.transport = None  # otherwise aiohttp closes the transport
    request.task.add_done_callback(release)
    if not transport.is_reading():
        transport.resume_reading()
    return transport


class _NoResponse(web.StreamResponse):
    """A response without any bytes, since the connection no longer belongs to aiohttp."""

    def __init__(self) -> None:
        super().__init__(status=101)

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send no headers."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Send no end of body."""
