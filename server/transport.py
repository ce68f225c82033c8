"""Engine.IO connections, whose bytes leave in the order of dispatch from a buffer that is bounded.

They take the place of python-engineio's sockets with a queue, a task and a wake-up per packet.
Source: Engine.IO protocol 4.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from socketio_eventstore.server.packets import (
    CLOSE,
    NOOP,
    PING,
    PONG_PROBE,
    RECORD_SEPARATOR,
    Frames,
)
from socketio_eventstore.server.registry import Connection
from socketio_eventstore.server.websockets import WebSocket

logger = logging.getLogger(__name__)

UPGRADE_PATIENCE_SECONDS = 10.0
"""How long an upgrade may take, as the reference has it (engine.io 6, ``upgradeTimeout``)."""
POSTED_PACKETS = 100
"""Packets of one POST that are acted on before the event loop serves others."""

Message = Callable[["EngineConnection", "str | bytes"], Coroutine[Any, Any, None]]


class InvalidRequest(Exception):
    """The request makes no sense for this connection, which is closed."""


class InvalidPacket(ValueError):
    """The client sent something that is not an Engine.IO packet; its connection is closed."""


class Endpoint(Protocol):
    """What a connection needs of the server that it belongs to; see ``engine.Engine``."""

    ping_interval: float
    ping_timeout: float
    max_client_buffer: int
    slow_clients: int
    sockets: dict[str, EngineConnection]
    reason: Any
    closed: Callable[[EngineConnection, str], None]
    message: Message
    ping_written: Callable[[EngineConnection], None]


class EngineConnection(Connection):
    """One Engine.IO session: long-polling, WebSocket, or the one upgraded to the other.

    ``sid``, ``upgraded``, ``closed`` and ``session`` are read by python-engineio.
    """

    def __init__(self, engine: Endpoint, connection_id: str) -> None:
        super().__init__(connection_id)
        self.sid = connection_id
        self.session: dict[str, Any] = {}
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
        self._last_word = CLOSE

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
        if abort:
            self.take_waiting()
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
            self._last_word = NOOP
            self._shut(self._engine.reason.CLIENT_DISCONNECT, abort=False)
        elif packet[:1] not in ("5", "6"):
            raise InvalidPacket(f"unknown packet {packet[:20]!r}")

    # Long-polling -----------------------------------------------------------------------------------

    async def poll(self) -> list[Frames]:
        """What the client's poll is answered, once there is something. Raises InvalidRequest."""
        if self._poll is not None:
            self.abort("a second poll was sent while one was open")
            raise InvalidRequest
        if self.upgrading:
            return [NOOP]
        if not self._waiting:
            self._poll = self._loop.create_future()
            try:
                await self._poll
            finally:
                self._poll = None
        return self.take_waiting() or [self._last_word if self.closed else NOOP]

    async def post(self, body: bytes) -> None:
        """Act on the packets of a POST, up to one that ends the connection. Raises InvalidRequest."""
        try:
            for count, packet in enumerate(body.decode().split(RECORD_SEPARATOR), start=1):
                if count % POSTED_PACKETS == 0:
                    await asyncio.sleep(0)
                if self.closed:
                    break
                await self.receive(b64decode(packet[1:], validate=True) if packet[:1] == "b" else packet)
        except ValueError as error:  # no UTF-8, no base64, or no packet
            self.abort(f"invalid packet: {error}")
            raise InvalidRequest from error

    def take_waiting(self) -> list[Frames]:
        """What waits for a poll, which carries it now."""
        batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return batch

    def _end_poll(self) -> None:
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(None)

    # WebSocket --------------------------------------------------------------------------------------

    async def serve(self, websocket: WebSocket, handshake: Frames | None = None) -> None:
        """Work over a WebSocket until it ends: from the handshake on, or as an upgrade from polling."""
        if handshake is None and not await self._upgrade(websocket):
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
        if self.closed or self.upgraded or self.upgrading:
            return False
        try:
            async with asyncio.timeout(UPGRADE_PATIENCE_SECONDS):
                probed = await websocket.receive() == "2probe"
                return probed and await self._switch(websocket)
        except TimeoutError:
            return False

    async def _switch(self, websocket: WebSocket) -> bool:
        if self.closed or self.upgraded or self.upgrading:  # another probe was faster
            return False
        self.upgrading = True
        try:
            websocket.write([PONG_PROBE])
            self._end_poll()
            return await websocket.receive() == "5" and not self.closed
        finally:
            self.upgrading = False
