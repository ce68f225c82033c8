"""A WebSocket of an ASGI server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from socketio_eventstore.core.frames import Frames
from socketio_eventstore.transport.asgi_transport import find_transport
from socketio_eventstore.transport.frame_reader import CloseCode
from socketio_eventstore.transport.websocket import (
    CLOSE_TIMEOUT_SECONDS,
    CLOSED_BY_APPLICATION,
    NO_RECEIVER,
    Environ,
    MakeReceiver,
    Receiver,
)


class AsgiWebSocket:
    """A WebSocket of an ASGI server.

    ASGI's ``send`` waits while the client does not read. So ``write`` fills a queue, and a task sends from
    the queue.
    """

    def __init__(
        self,
        make_receiver: MakeReceiver,
        max_message_bytes: int,
        compression_threshold: int,
        greeting: Frames | None = None,
    ) -> None:
        """``compression_threshold`` has no effect here: the ASGI server decides about compression.

        ``greeting`` is sent first.
        """
        self._make_receiver: MakeReceiver | None = make_receiver
        self._max_message_bytes = max_message_bytes
        self._queue: deque[str | bytes] = deque()
        self._wake_writer = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()
        self._closing = False
        self._closed_in_order = False
        self._incoming: asyncio.Future[dict[str, Any]] | None = None
        self._writer: asyncio.Task[None] | None = None
        self.receiver: Receiver
        self.unsent_bytes = 0
        if greeting is not None:
            self.write([greeting])

    async def __call__(self, environ: Environ) -> str:
        """Accept the WebSocket, then pass messages to the receiver until the WebSocket ends."""
        self._receive = environ["asgi.receive"]
        self._send = environ["asgi.send"]
        offered = environ["asgi.scope"].get("subprotocols") or [None]
        await self._send({"type": "websocket.accept", "subprotocol": offered[0]})
        self._writer = writer = asyncio.create_task(self._send_queued())
        make_receiver, self._make_receiver = self._make_receiver, None
        assert make_receiver is not None
        self.receiver = make_receiver(self)
        try:
            while (message := await self._next_message()) is not None:
                self.receiver.data_received(message)
        finally:
            receiver, self.receiver = self.receiver, NO_RECEIVER
            receiver.connection_lost(in_order=self._closed_in_order)
            self.close()
            await asyncio.wait([writer], timeout=CLOSE_TIMEOUT_SECONDS)
            writer.cancel()
            self._writer = self._incoming = None  # the error of a cancelled task leads back to this object
        return ""

    def write(self, batch: Sequence[Frames]) -> int:
        """Queue frames for the sending task. Returns ``unsent_bytes``."""
        if not self._closing:
            for frames in batch:
                self._queue.extend(frames.packets)
                self.unsent_bytes += frames.size_bytes
            self._wake_writer.set()
        return self.unsent_bytes

    def pause_reading(self) -> None:
        """Receive no further message from the ASGI server."""
        self._reading.clear()

    def resume_reading(self) -> None:
        """Receive messages again."""
        self._reading.set()

    async def _next_message(self) -> str | bytes | None:
        """The next text or binary message; None at the end and after a message above the limit."""
        await self._reading.wait()
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
            self._closed_in_order = not self.unsent_bytes and event.get("code") in CLOSED_BY_APPLICATION
            self._queue.clear()
            return None
        data: str | bytes | None = event.get("bytes")
        if data is None:
            data = event.get("text")
        return None if data is None or len(data) > self._max_message_bytes else data

    def close(self) -> None:
        """Close the WebSocket after sending the queued packets."""
        if not self._closing:  # a client without reads delays the writer and the close frame for ever
            self._closing = True
            if self._writer is not None:
                timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_SECONDS, self.abort)
                self._writer.add_done_callback(lambda _: timer.cancel())
        self._reading.set()
        self._wake_writer.set()

    def abort(self) -> None:
        """Close the WebSocket at once and drop the queued packets."""
        self._closing = True
        if self._writer is not None and not self._writer.done():
            self._writer.cancel()
            transport = find_transport(self._send)
            if transport is not None:
                transport.abort()
        if self._incoming is not None:
            self._incoming.cancel()
        self._reading.set()
        self._wake_writer.set()

    async def _send_queued(self) -> None:
        try:
            while self._queue or not self._closing:
                while self._queue:
                    packet = self._queue.popleft()
                    kind = "text" if isinstance(packet, str) else "bytes"
                    await self._send({"type": "websocket.send", kind: packet})
                    self.unsent_bytes -= len(packet)
                self._wake_writer.clear()
                if not self._closing:
                    await self._wake_writer.wait()
            await self._send({"type": "websocket.close", "code": CloseCode.GOING_AWAY.value})
        except (OSError, RuntimeError):
            # Each ASGI server has another exception for a lost client; receive() reports the loss, too.
            self._queue.clear()


def can_deny(scope: dict[str, Any]) -> bool:
    """Whether the ASGI server can answer the handshake of a WebSocket with a response of HTTP.

    Source: ASGI, "WebSocket Denial Response". Other servers answer 403 without a body.
    """
    return scope["type"] == "websocket" and "websocket.http.response" in (scope.get("extensions") or {})


async def deny(environ: Environ, response: dict[str, Any], headers: Sequence[tuple[str, str]]) -> None:
    """Answer the handshake of a WebSocket with a response, in the form for python-engineio's drivers."""
    send, kind = environ["asgi.send"], "websocket.http.response"
    encoded = [(name.lower().encode(), value.encode()) for name, value in [*response["headers"], *headers]]
    await send({"type": f"{kind}.start", "status": int(response["status"].split()[0]), "headers": encoded})
    await send({"type": f"{kind}.body", "body": response["response"]})
