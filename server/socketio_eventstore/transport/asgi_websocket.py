"""A WebSocket of an ASGI server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from socketio_eventstore.core.packets import Frames
from socketio_eventstore.transport.frame_reader import CloseCode
from socketio_eventstore.transport.websocket import CLOSE_TIMEOUT_SECONDS, Environ, Receiver, Serve


class AsgiWebSocket:
    """A WebSocket of an ASGI server, whose ``send`` waits while the client does not read."""

    def __init__(self, serve: Serve, max_message_bytes: int, compression_threshold: int) -> None:
        """``compression_threshold`` is the ASGI server's business and ignored here."""
        self._serve = serve
        self._max_message_bytes = max_message_bytes
        self._queue: deque[str | bytes] = deque()
        self._wake = asyncio.Event()
        self._may_receive = asyncio.Event()
        self._may_receive.set()
        self._closing = False
        self._incoming: asyncio.Future[dict[str, Any]] | None = None
        self.receiver: Receiver
        self.unsent_bytes = 0

    async def __call__(self, environ: Environ) -> str:
        """Accept, then serve until the WebSocket ends; python-engineio's way to start one."""
        self._receive = environ["asgi.receive"]
        self._send = environ["asgi.send"]
        await self._send({"type": "websocket.accept"})
        self._writer = asyncio.create_task(self._write_out())
        self.receiver = self._serve(self)
        try:
            while (message := await self._next()) is not None:
                self.receiver.data_received(message)
        finally:
            self.receiver.connection_lost()
            self.close(abort=False)
            await asyncio.wait([self._writer], timeout=CLOSE_TIMEOUT_SECONDS)
            self._writer.cancel()
        return ""

    def write(self, batch: Sequence[Frames]) -> int:
        """Queue frames for the writing task. Returns ``unsent_bytes``."""
        if not self._closing:
            for frames in batch:
                self._queue.extend(frames.packets)
                self.unsent_bytes += frames.size_bytes
            self._wake.set()
        return self.unsent_bytes

    def pause_reading(self) -> None:
        """Ask the ASGI server for no more messages."""
        self._may_receive.clear()

    def resume_reading(self) -> None:
        """Ask again."""
        self._may_receive.set()

    async def _next(self) -> str | bytes | None:
        """The next text or binary message, None at the end; one that is too large ends the WebSocket."""
        await self._may_receive.wait()
        if self._closing:
            return None
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
        self._may_receive.set()
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
            await self._send({"type": "websocket.close", "code": CloseCode.GOING_AWAY.value})
        except (OSError, RuntimeError):
            # The server below says in its own way that the client is gone; receive() will say it too.
            self._queue.clear()
