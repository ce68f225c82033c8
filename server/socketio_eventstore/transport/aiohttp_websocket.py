"""A WebSocket on a TCP connection that aiohttp has accepted.

The connection is taken over after the handshake: aiohttp's own machinery takes a task, a queue and a
wake-up per message, and several KiB per client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context, copy_context
from typing import cast

from aiohttp import hdrs, web

from socketio_eventstore.core.packets import Frames, close_frame, pong_frame
from socketio_eventstore.transport.frame_reader import CloseCode, End, FrameReader, Ping
from socketio_eventstore.transport.websocket import CLOSE_TIMEOUT_SECONDS, Environ, Receiver, Serve

UNREAD_BYTES_WITHOUT_PONG = 64_000
"""Beyond so much that a client has not read, its WebSocket pings are not answered."""

_FITTING = frozenset({"client_max_window_bits", "client_no_context_takeover", "server_no_context_takeover"})
_DEFLATE = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
"""No memory per client, and frames that all clients can share (RFC 7692 section 7.1.1)."""


class AiohttpWebSocket(asyncio.Protocol):
    """A WebSocket on a TCP connection that aiohttp has accepted and shaken hands on."""

    __slots__ = (
        "_compression_threshold",
        "_context",
        "_max_message_bytes",
        "_reader",
        "_serve",
        "_transport",
        "receiver",
    )

    def __init__(self, serve: Serve, max_message_bytes: int, compression_threshold: int) -> None:
        """``compression_threshold``: frames from so many bytes on are compressed, 0: none."""
        self._serve = serve
        self._max_message_bytes = max_message_bytes
        self._compression_threshold = compression_threshold
        self._context: Context
        self._reader: FrameReader
        self._transport: asyncio.Transport
        self.receiver: Receiver

    async def __call__(self, environ: Environ) -> web.StreamResponse:
        """Shake hands and take the connection over; python-engineio's way to start a WebSocket."""
        request: web.Request = environ["aiohttp.request"]
        handshake = web.WebSocketResponse(compress=False)  # what is agreed upon here is not aiohttp's to do
        compresses = self._compression_threshold > 0 and _offers_deflate(request)
        if compresses:
            handshake.headers[hdrs.SEC_WEBSOCKET_EXTENSIONS] = _DEFLATE
        else:
            self._compression_threshold = 0
        try:
            await handshake.prepare(request)
        except ConnectionResetError:
            return _NoResponse()  # the client has left during the handshake
        if request.transport is None:
            return _NoResponse()  # or right after it
        self._context = copy_context()  # handlers find in it what middlewares have set for the request
        self._reader = FrameReader(self._max_message_bytes, inflates=compresses)
        self._transport = _take_over(request, self)
        self.receiver = self._serve(self)
        return _NoResponse()

    @property
    def unsent_bytes(self) -> int:
        """What is in the TCP transport's buffer."""
        return self._transport.get_write_buffer_size()

    def write(self, batch: Sequence[Frames]) -> int:
        """Send frames as one piece. Returns ``unsent_bytes``."""
        transport = self._transport
        if transport.is_closing():
            return 0
        if threshold := self._compression_threshold:
            transport.write(b"".join([frames.deflated(threshold) for frames in batch]))
        elif len(batch) == 1:
            transport.write(batch[0].websocket)
        else:
            transport.write(b"".join([frames.websocket for frames in batch]))
        return transport.get_write_buffer_size()

    def data_received(self, data: bytes) -> None:
        """Hand over the messages that have become complete; called by the event loop."""
        self._context.run(self._receive, data)

    def _receive(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            match message:
                case str() | bytes():
                    self.receiver.data_received(message)
                case Ping(payload):
                    self._answer(payload)
                case End(code):
                    self._close(code)
                    self.receiver.connection_lost()

    def _answer(self, ping: bytes) -> None:
        # A client that does not read gets no more of them: only the newest is owed (RFC 6455 section 5.5.3).
        unread = self._transport.get_write_buffer_size()
        if not self._transport.is_closing() and unread <= UNREAD_BYTES_WITHOUT_PONG:
            self._transport.write(pong_frame(ping))

    def connection_lost(self, error: Exception | None) -> None:
        """The TCP connection has ended; called by the event loop."""
        self._context.run(self.receiver.connection_lost)

    def pause_reading(self) -> None:
        """Let TCP hold the client back."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def close(self, *, abort: bool) -> None:
        """Send a close frame unless aborted, and end the TCP connection."""
        if abort:
            self._transport.abort()
        else:
            self._close(CloseCode.GOING_AWAY)

    def _close(self, code: int) -> None:
        transport = self._transport
        if not transport.is_closing():
            transport.write(close_frame(code))
            transport.close()
        if transport.get_write_buffer_size() or transport.get_extra_info("sslcontext") is not None:
            # Closing waits for what is unsent, and for ever if the client does not read. TLS does not count
            # what it has handed on to TCP.
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_SECONDS, transport.abort)


def _offers_deflate(request: web.Request) -> bool:
    """Whether the client takes compressed messages of any window, each on its own."""
    offers = ",".join(request.headers.getall(hdrs.SEC_WEBSOCKET_EXTENSIONS, []))
    for offer in offers.split(","):
        name, *parameters = [part.strip().partition("=")[0].strip() for part in offer.split(";")]
        if name == "permessage-deflate" and _FITTING.issuperset(parameters):
            return True
    return False


def _take_over(request: web.Request, protocol: asyncio.Protocol) -> asyncio.Transport:
    """The TCP connection of a request, which belongs to another protocol from now on.

    When the request is over, aiohttp is told what it would be told if the connection had ended, so that it
    lets go of everything. Not before: it might cancel the request (``handler_cancellation``).
    """
    former, transport = request.protocol, cast("asyncio.Transport", request.transport)

    def let_go(_: object) -> None:
        former.connection_lost(None)
        former.transport = transport  # handlers ask the request for the peer's address or certificate

    transport.set_protocol(protocol)
    former.transport = None  # or aiohttp would close what it believes to be its own
    request.task.add_done_callback(let_go)
    if not transport.is_reading():
        transport.resume_reading()
    return transport


class _NoResponse(web.StreamResponse):
    """Nothing is left to be answered on this connection."""

    def __init__(self) -> None:
        super().__init__(status=101)

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send no headers."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Send no end."""
