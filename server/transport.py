"""Engine.IO: connections whose bytes leave in the order of dispatch, from a buffer that is bounded.

python-engineio keeps the request handling (routes, CORS, handshake checks); its socket with a queue,
a task and a wake-up per packet is replaced by ``EngineConnection``. Together with ``websockets`` this
is the only part that knows engine.io and the frameworks below it.

Sources: Engine.IO protocol 4; python-engineio 4.15 ``AsyncServer._handle_connect``, ``handle_request``.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import engineio
from engineio import exceptions

from socketio_eventstore.server.packets import (
    NOOP,
    PING,
    PONG_PROBE,
    RECORD_SEPARATOR,
    Frames,
    dumps,
    polling_body,
)
from socketio_eventstore.server.registry import Connection
from socketio_eventstore.server.websockets import WebSocket, websocket_class

logger = logging.getLogger(__name__)

Environ = dict[str, Any]


class InvalidPacket(ValueError):
    """The client sent something that is not an Engine.IO packet; its connection is closed."""


class EngineConnection(Connection):
    """One Engine.IO session: long-polling, WebSocket, or the one upgraded to the other.

    ``connected``, ``upgraded``, ``upgrading``, ``closing``, ``closed`` and ``session`` are read by
    python-engineio.
    """

    def __init__(self, engine: Engine, connection_id: str) -> None:
        super().__init__(connection_id)
        self.sid = connection_id
        self.session: dict[str, Any] = {}
        self.connected = False
        self.upgraded = False
        self.upgrading = False
        self.closed = False
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._websocket: WebSocket | None = None
        self._waiting: list[Frames] = []
        self._waiting_bytes = 0
        self._poll: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def closing(self) -> bool:
        """For python-engineio, which knows a state between open and closed."""
        return self.closed

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait for a poll, or in the WebSocket's buffers."""
        return self._waiting_bytes + (self._websocket.unsent_bytes if self._websocket else 0)

    def write(self, batch: Sequence[Frames]) -> None:
        """Send, or keep for the next poll. A client that leaves too much unread is cut off."""
        if self.closed:
            return
        if self._websocket is not None:
            self._websocket.write(batch)
        else:
            self._waiting.extend(batch)
            self._waiting_bytes += sum([frames.size_bytes for frames in batch])
            self._end_poll()
        if self.unsent_bytes > self._engine.max_client_buffer:
            self._engine.slow_clients += 1
            self.abort("it does not read what it is sent")

    def abort(self, reason: str) -> None:
        """Drop the transport with everything unsent, and without any packet."""
        logger.info("%s: transport aborted: %s", self.id, reason)
        self._shut(self._engine.reason.TRANSPORT_ERROR, abort=True)

    def leave(self, reason: str) -> None:
        """End the transport after what was written before has gone out."""
        self._shut(reason, abort=False)

    async def close(self, wait: bool = True, abort: bool = False, reason: str | None = None) -> None:
        """End the transport; python-engineio's name for it."""
        self._shut(reason or self._engine.reason.SERVER_DISCONNECT, abort=abort)

    async def send(self, packet: Any) -> None:
        """Send one of python-engineio's packets."""
        encoded = packet.data if packet.binary else packet.encode()
        self.write([Frames(encoded)])

    def open(self, handshake: Frames) -> None:
        """Begin with the handshake and the heartbeat."""
        self.connected = True
        self.write([handshake])
        self._timer = self._loop.call_later(self._engine.ping_interval, self._ping)

    def _ping(self) -> None:
        self.write([PING])
        self._engine.ping_written(self)
        self._timer = self._loop.call_later(self._engine.ping_timeout, self._ping_timed_out)

    def _ping_timed_out(self) -> None:
        self._shut(self._engine.reason.PING_TIMEOUT, abort=True)

    def _pong(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.pong_received()
        self._timer = self._loop.call_later(self._engine.ping_interval, self._ping)

    def _shut(self, reason: str, *, abort: bool) -> None:
        if self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._websocket is not None:
            self._websocket.close(abort=abort)
        self._end_poll()
        self._engine.sockets.pop(self.id, None)
        self._engine.closed(self, reason)

    async def receive(self, packet: str | bytes) -> None:
        """Act on a packet of the client. Raises InvalidPacket."""
        if isinstance(packet, bytes):
            await self._engine.message(self, packet)
        elif packet[:1] == "4":
            await self._engine.message(self, packet[1:])
        elif packet[:1] == "3":
            self._pong()
        elif packet[:1] == "1":
            self._shut(self._engine.reason.CLIENT_DISCONNECT, abort=False)
        elif packet[:1] not in ("5", "6"):
            raise InvalidPacket(f"unknown packet {packet[:20]!r}")

    # Long-polling -----------------------------------------------------------------------------------

    async def handle_get_request(self, environ: Environ) -> Any:
        """Answer a poll, or take over the connection as a WebSocket."""
        wants = {token.strip() for token in environ.get("HTTP_CONNECTION", "").lower().split(",")}
        if "upgrade" in wants and environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            if self.upgraded or self.upgrading:
                raise exceptions.EngineIOError("the connection has been upgraded already")
            return await self._engine.websocket(self.serve)(environ)
        if self.upgrading:
            return self._engine.body([NOOP])
        return self._engine.body(await self._next_poll())

    async def _next_poll(self) -> list[Frames]:
        if self._poll is not None:
            self.abort("a second poll was sent while one was open")
            raise exceptions.EngineIOError("a second poll was sent while one was open")
        if not self._waiting and not self.closed:
            self._poll = self._loop.create_future()
            try:
                await self._poll
            finally:
                self._poll = None
        if self.closed and not self._waiting:
            raise exceptions.EngineIOError("the connection is closed")
        return self.take_waiting() or [NOOP]

    def take_waiting(self) -> list[Frames]:
        """What waits for a poll, which carries it now."""
        batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return batch

    def _end_poll(self) -> None:
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(None)

    async def handle_post_request(self, environ: Environ) -> None:
        """Act on the packets of a POST. Raises EngineIOError, upon which the connection is closed."""
        limit = self._engine.max_http_buffer_size
        body = b""
        while chunk := await environ["wsgi.input"].read(limit + 1 - len(body)):
            body += chunk
            if len(body) > limit:
                raise exceptions.ContentTooLongError
        try:
            for packet in body.decode().split(RECORD_SEPARATOR):
                if not self.closed:
                    await self.receive(b64decode(packet[1:], validate=True) if packet[:1] == "b" else packet)
        except (UnicodeDecodeError, Base64Error, InvalidPacket) as error:
            raise exceptions.EngineIOError(str(error)) from error

    # WebSocket --------------------------------------------------------------------------------------

    async def serve(self, websocket: WebSocket, handshake: Frames | None = None) -> None:
        """Work over a WebSocket until it ends: from the handshake on, or as an upgrade from polling."""
        if handshake is None and (self.closed or not await self._upgrade(websocket)):
            websocket.close(abort=False)
            return
        self.upgraded = True
        self._websocket = websocket
        if handshake is not None:
            self.open(handshake)
        elif waiting := self.take_waiting():
            websocket.write(waiting)
        try:
            while not self.closed and (packet := await websocket.receive()) is not None:
                await self.receive(packet)
        except InvalidPacket as error:
            logger.info("%s: %s", self.id, error)
        finally:
            self._shut(self._engine.reason.TRANSPORT_CLOSE, abort=False)

    async def _upgrade(self, websocket: WebSocket) -> bool:
        """Probe and switch (Engine.IO protocol, "Upgrade"); meanwhile nothing leaves by polling."""
        if await websocket.receive() != "2probe":
            return False
        self.upgrading = True
        try:
            websocket.write([PONG_PROBE])
            self._end_poll()
            return await websocket.receive() == "5" and not self.closed
        finally:
            self.upgrading = False


class Engine(engineio.AsyncServer):
    """python-engineio's server with connections of our own.

    It takes over an existing server object, since applications make theirs through python-socketio.
    """

    max_client_buffer: int
    slow_clients: int
    closed: Callable[[EngineConnection, str], None]
    message: Callable[[EngineConnection, str | bytes], Coroutine[Any, Any, None]]
    ping_written: Callable[[EngineConnection], None]

    @classmethod
    def adopt(
        cls,
        engine: engineio.AsyncServer,
        *,
        max_client_buffer: int,
        closed: Callable[[EngineConnection, str], None],
        message: Callable[[EngineConnection, str | bytes], Coroutine[Any, Any, None]],
        ping_written: Callable[[EngineConnection], None],
    ) -> Engine:
        """Turn a server that has no connections yet into one of this class.

        ``max_client_buffer`` is in bytes. ``closed`` is called at once when a connection ends,
        ``message`` for each message, ``ping_written`` when a heartbeat was put behind what was sent.
        Raises RuntimeError when python-engineio lacks what this class builds on.
        """
        for name in ("_handle_connect", "_upgrades", "_generate_sid_cookie", "_ok", "_get_socket"):
            if not callable(getattr(engine, name, None)):
                raise RuntimeError(f"this version of python-engineio has no {name}; 4.15 to 4.x is supported")
        engine.__class__ = cls
        engine.start_service_task = False  # every connection has a timer of its own
        engine.max_client_buffer = max_client_buffer
        engine.slow_clients = 0
        engine.closed = closed
        engine.message = message
        engine.ping_written = ping_written
        adopted: Engine = engine
        return adopted

    def websocket(self, serve: Callable[[WebSocket], Coroutine[Any, Any, None]]) -> Any:
        """A WebSocket of the framework that the application runs on."""
        return websocket_class(self._async)(serve, self.max_http_buffer_size)

    def connection(self, connection_id: str | None) -> EngineConnection | None:
        """The open connection with this id."""
        connection: EngineConnection | None = self.sockets.get(connection_id)
        return connection

    def body(self, batch: Sequence[Frames], headers: list[tuple[str, str]] | None = None) -> dict[str, Any]:
        """The response to a poll."""
        content_type = ("Content-Type", "text/plain; charset=UTF-8")
        return {
            "status": "200 OK",
            "headers": [*(headers or []), content_type],
            "response": polling_body(batch),
        }

    async def _handle_connect(self, environ: Environ, transport: str, jsonp_index: int | None = None) -> Any:
        connection = EngineConnection(self, self.generate_id())
        self.sockets[connection.id] = connection
        accepted = await self._trigger_event("connect", connection.id, environ, run_async=False)
        if accepted is not None and accepted is not True:
            del self.sockets[connection.id]
            return self._unauthorized(accepted or None)
        handshake = {
            "sid": connection.id,
            "upgrades": self._upgrades(connection.id, transport),
            "pingTimeout": round(self.ping_timeout * 1000),
            "pingInterval": round((self.ping_interval + self.ping_interval_grace_period) * 1000),
            "maxPayload": self.max_http_buffer_size,
        }
        opening = Frames("0" + dumps(handshake))
        if transport == "websocket":
            return await self.websocket(partial(connection.serve, handshake=opening))(environ)
        connection.open(opening)
        headers = []
        if self.cookie:
            attributes = self.cookie if isinstance(self.cookie, dict) else None
            attributes = attributes or {"name": self.cookie, "path": "/", "SameSite": "Lax"}
            headers = [("Set-Cookie", self._generate_sid_cookie(connection.id, attributes))]
        return self.body(connection.take_waiting(), headers)
