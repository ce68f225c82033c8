"""Engine.IO connections, whose bytes leave in the order of dispatch from a buffer that is bounded.

They take the place of python-engineio's sockets with a queue, a task and a wake-up per packet.
Source: Engine.IO protocol 4.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from socketio_eventstore.core.packets import (
    CLOSE,
    NOOP,
    PING,
    RECORD_SEPARATOR,
    Frames,
)
from socketio_eventstore.core.sessions import ClientConnection
from socketio_eventstore.transport.inbox import Inbox, InvalidPacket
from socketio_eventstore.transport.websocket import Receiver, WebSocket

logger = logging.getLogger(__name__)

POSTED_PACKETS = 100
"""Packets of one POST that are acted on before the event loop serves others."""
HANDLERS_AT_ONCE = 10_000
"""Handlers of one connection that may run at a time; its further packets wait, and then it does."""

HandlePacket = Callable[["EngineConnection", "str | bytes"], "asyncio.Task[None] | None"]
"""Acts on a message; returns the task of the handler that it started."""


class InvalidRequest(Exception):
    """The request makes no sense for this connection, which is closed."""


class Endpoint(Protocol):
    """What a connection needs of the server that it belongs to; see ``engine.Engine``."""

    ping_interval: float
    ping_timeout: float
    max_client_buffer: int
    handlers_at_once: int
    slow_clients: int
    sockets: dict[str, EngineConnection]
    reason: Any
    closed: Callable[[EngineConnection, str], None]
    message: HandlePacket
    ping_written: Callable[[EngineConnection], None]
    flush: Callable[[], None]


class EngineConnection(ClientConnection):
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
        self._pinged = False
        self._last_word = CLOSE
        self.handlers_at_once = engine.handlers_at_once
        self._inbox = Inbox(self)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait for a poll, or in the WebSocket's buffers."""
        return self._waiting_bytes + (self._websocket.unsent_bytes if self._websocket else 0)

    def write(self, batch: Sequence[Frames]) -> None:
        """Send, or keep for the next poll. A client that leaves too much unread is cut off."""
        if self.closed:
            return
        websocket = self._websocket
        if websocket is not None:
            unsent_bytes = websocket.write(batch)
        else:
            self._waiting.extend(batch)
            unsent_bytes = self._waiting_bytes = self._waiting_bytes + sum([f.size_bytes for f in batch])
            self._end_poll()
        if unsent_bytes > self._engine.max_client_buffer:
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
        self.handlers_at_once = self._engine.handlers_at_once  # which may be known only now
        self.write([handshake])
        self._timer = self._loop.call_later(self._engine.ping_interval, self._ping)

    def _ping(self) -> None:
        self.write([PING])
        self._engine.ping_written(self)
        self._pinged = True
        self._timer = self._loop.call_later(self._engine.ping_timeout, self._ping_timed_out)

    def _ping_timed_out(self) -> None:
        self._shut(self._engine.reason.PING_TIMEOUT, abort=True)

    def _pong(self) -> None:
        if self.closed or not self._pinged:  # it would confirm what was written since the last ping
            return
        self._pinged = False
        if self._timer is not None:
            self._timer.cancel()
        self.pong_received()
        self._timer = self._loop.call_later(self._engine.ping_interval, self._ping)

    def _shut(self, reason: str, *, abort: bool) -> None:
        if self.closed:
            return
        if not abort:
            self._engine.flush()  # to the connection, what has been dispatched to it
            if self.closed:  # that was too much for it
                return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._websocket is not None:
            self._websocket.close(abort=abort)
        if abort:
            self.take_unsent()
        self._inbox.clear()
        self._end_poll()
        self._engine.sockets.pop(self.id, None)
        self._engine.closed(self, reason)

    # From the client --------------------------------------------------------------------------------

    def data_received(self, message: str | bytes) -> None:
        """A packet has come by WebSocket; one that is invalid ends the connection."""
        try:
            self.receive(message)
        except InvalidPacket as error:
            self.close_invalid(error)

    def connection_lost(self) -> None:
        """The WebSocket has ended."""
        self._inbox.call_when_idle(lambda: self._shut(self._engine.reason.TRANSPORT_CLOSE, abort=False))

    def receive(self, packet: str | bytes) -> None:
        """Act on a packet when it is its turn. Raises InvalidPacket."""
        if packet == "3":
            self._pong()
        elif not self.closed:
            self._inbox.put(packet)

    def handle_packet(self, packet: str | bytes) -> asyncio.Task[None] | None:
        """Act on a packet now; return the task of the handler that was started. Raises InvalidPacket."""
        if isinstance(packet, bytes):
            return self._engine.message(self, packet)
        match packet[:1]:
            case "4":
                return self._engine.message(self, packet[1:])
            case "1":
                self._last_word = NOOP
                self._shut(self._engine.reason.CLIENT_DISCONNECT, abort=False)
            case "3" | "5" | "6":
                pass
            case _:
                raise InvalidPacket(f"unknown packet {packet[:20]!r}")
        return None

    def close_invalid(self, error: InvalidPacket) -> None:
        """The client does not keep to the protocol."""
        logger.info("%s: %s", self.id, error)
        self._shut(self._engine.reason.TRANSPORT_CLOSE, abort=False)

    @property
    def handlers(self) -> Collection[asyncio.Task[None]]:
        """The tasks of its handlers that are running."""
        return self._inbox.handlers

    def hold_back(self, *, paused: bool) -> None:
        """Read no more from the client, or read again. One that polls waits for the answer to its POST."""
        if self._websocket is not None:
            (self._websocket.pause_reading if paused else self._websocket.resume_reading)()

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
        return self.take_unsent() or [self._last_word if self.closed else NOOP]

    async def post(self, body: bytes) -> None:
        """Act on the packets of a POST, up to one that ends the connection. Raises InvalidRequest."""
        try:
            for count, packet in enumerate(body.decode().split(RECORD_SEPARATOR), start=1):
                if count % POSTED_PACKETS == 0:
                    await asyncio.sleep(0)
                await self._inbox.wait()
                if self.closed:
                    break
                self.receive(b64decode(packet[1:], validate=True) if packet[:1] == "b" else packet)
        except ValueError as error:  # no UTF-8, no base64, or no packet
            self.abort(f"invalid packet: {error}")
            raise InvalidRequest from error

    def take_unsent(self) -> list[Frames]:
        """What waits for a poll, which carries it now."""
        batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return batch

    def _end_poll(self) -> None:
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(None)

    # WebSocket --------------------------------------------------------------------------------------

    def begin(self, handshake: Frames, websocket: WebSocket) -> Receiver:
        """Work over a WebSocket from the handshake on."""
        self._websocket = websocket
        self.upgraded = True
        if self.closed:  # while the WebSocket was opened
            websocket.close(abort=False)
        else:
            self.open(handshake)
        return self

    @property
    def may_upgrade(self) -> bool:
        """Whether a WebSocket may take over from polling."""
        return not (self.closed or self.upgraded or self.upgrading)

    def hold_polls(self) -> None:
        """An upgrade has begun: nothing leaves by polling any more."""
        self.upgrading = True
        self._end_poll()

    def upgrade_ended(self, websocket: WebSocket | None) -> None:
        """An upgrade has brought this WebSocket, or come to nothing."""
        self.upgrading = False
        if websocket is not None and not self.closed:
            self.upgraded = True
            self._websocket = websocket
            if waiting := self.take_unsent():
                websocket.write(waiting)
