"""WebSockets of the two frameworks that python-socketio runs on, as the transport needs them.

A fan-out writes to thousands of them, so a write is a plain call that never waits; how much is unsent
can be asked. On aiohttp the frames go straight to the TCP transport, on ASGI through a task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from aiohttp import WSMsgType, web

from socketio_eventstore.server.packets import Frames, close_frame

GOING_AWAY = 1001
"""The status code of a close frame when the server ends the connection (RFC 6455 section 7.4.1)."""

CLOSE_PATIENCE_SECONDS = 10.0
"""How long a client may take to read what is unsent when its WebSocket is closed."""

Environ = dict[str, Any]
Serve = Callable[["WebSocket"], Coroutine[Any, Any, None]]


class WebSocket(Protocol):
    """An open WebSocket."""

    @property
    def unsent_bytes(self) -> int:
        """What was written and has not been given to the operating system."""
        ...

    def write(self, batch: Sequence[Frames]) -> None:
        """Send frames in order, without waiting."""
        ...

    async def receive(self) -> str | bytes | None:
        """The next message of the client; None when the WebSocket has ended."""
        ...

    def close(self, *, abort: bool) -> None:
        """End it, at once or after what was written."""
        ...


def websocket_class(driver: dict[str, Any]) -> type[AiohttpWebSocket] | type[AsgiWebSocket]:
    """The class for the framework that python-engineio's driver is made for.

    Raises RuntimeError for other frameworks.
    """
    match driver["translate_request"].__module__.rpartition(".")[2]:
        case "aiohttp":
            return AiohttpWebSocket
        case "asgi":
            return AsgiWebSocket
        case other:
            raise RuntimeError(f"async_mode is {other!r}; recovery works with 'aiohttp' and 'asgi'")


class AiohttpWebSocket:
    """A WebSocket of aiohttp, written to without its writer and without compression.

    permessage-deflate is declined: it costs 90 KiB per idle connection and more processor time than
    the small frames of a Socket.IO server save.
    """

    def __init__(self, serve: Serve, max_message_bytes: int) -> None:
        self._serve = serve
        self._response = web.WebSocketResponse(max_msg_size=max_message_bytes, compress=False)
        self._transport: asyncio.Transport

    async def __call__(self, environ: Environ) -> web.StreamResponse:
        """Shake hands, then serve until the WebSocket ends; python-engineio's way to start one."""
        request: web.Request = environ["aiohttp.request"]
        try:
            await self._response.prepare(request)
        except ConnectionResetError:
            return web.Response()  # the client has left during the handshake; nobody reads this
        if not isinstance(request.transport, asyncio.Transport):
            return self._response  # the client has left after it
        self._transport = request.transport
        await self._serve(self)
        return self._response

    @property
    def unsent_bytes(self) -> int:
        """What is in the TCP transport's buffer."""
        return self._transport.get_write_buffer_size()

    def write(self, batch: Sequence[Frames]) -> None:
        """Send frames as one piece."""
        if not self._transport.is_closing():
            self._transport.write(b"".join([frames.websocket for frames in batch]))

    async def receive(self) -> str | bytes | None:
        """The next text or binary message."""
        message = await self._response.receive()
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            data: str | bytes = message.data
            return data
        return None

    def close(self, *, abort: bool) -> None:
        """Send a close frame unless aborted, and end the TCP connection."""
        if abort:
            self._transport.abort()
        elif not self._transport.is_closing():
            if not self._response.closed:
                self._transport.write(close_frame(GOING_AWAY))
            self._transport.close()
            # Closing waits for what is unsent, and for ever if the client does not read.
            asyncio.get_running_loop().call_later(CLOSE_PATIENCE_SECONDS, self._transport.abort)


class AsgiWebSocket:
    """A WebSocket of an ASGI server, whose ``send`` waits while the client does not read."""

    def __init__(self, serve: Serve, max_message_bytes: int) -> None:
        self._serve = serve
        self._max_message_bytes = max_message_bytes
        self._queue: deque[str | bytes] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._incoming: asyncio.Future[dict[str, Any]] | None = None
        self.unsent_bytes = 0

    async def __call__(self, environ: Environ) -> str:
        """Accept, then serve until the WebSocket ends; python-engineio's way to start one."""
        self._receive = environ["asgi.receive"]
        self._send = environ["asgi.send"]
        await self._send({"type": "websocket.accept"})
        self._writer = asyncio.create_task(self._write_out())
        try:
            await self._serve(self)
        finally:
            self.close(abort=False)
            await asyncio.wait([self._writer], timeout=CLOSE_PATIENCE_SECONDS)
            self._writer.cancel()
        return ""

    def write(self, batch: Sequence[Frames]) -> None:
        """Queue frames for the writing task; the caller watches ``unsent_bytes``."""
        if not self._closing:
            for frames in batch:
                self._queue.extend(frames.packets)
                self.unsent_bytes += frames.size_bytes
            self._wake.set()

    async def receive(self) -> str | bytes | None:
        """The next text or binary message; one that is too large ends the WebSocket."""
        self._incoming = asyncio.ensure_future(self._receive())
        try:
            event = await self._incoming
        except asyncio.CancelledError:
            if self._incoming.cancelled() and self._closing:
                return None
            raise
        if event["type"] != "websocket.receive":
            self._queue.clear()
            return None
        data: str | bytes | None = event.get("bytes")
        if data is None:
            data = event.get("text")
        return None if data is None or len(data) > self._max_message_bytes else data

    def close(self, *, abort: bool) -> None:
        """End it, at once or after what was queued."""
        self._closing = True
        if abort:
            self._writer.cancel()
            if self._incoming is not None:
                self._incoming.cancel()
        self._wake.set()

    async def _write_out(self) -> None:
        try:
            while self._queue or not self._closing:
                while self._queue:
                    packet = self._queue.popleft()
                    kind = "text" if isinstance(packet, str) else "bytes"
                    await self._send({"type": "websocket.send", kind: packet})
                    self.unsent_bytes -= len(packet)
                self._wake.clear()
                if not self._closing:
                    await self._wake.wait()
            await self._send({"type": "websocket.close", "code": GOING_AWAY})
        except (OSError, RuntimeError):
            # The server below says in its own way that the client is gone; receive() will say it too.
            self._queue.clear()
