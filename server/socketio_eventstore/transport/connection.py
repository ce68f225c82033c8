"""Engine.IO connections with frames in dispatch order and a bounded send buffer.

``EngineConnection`` replaces python-engineio's ``AsyncSocket``, which needs a queue, a task and a wake-up
per packet. Source: Engine.IO protocol 4.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from collections.abc import Collection, Sequence
from typing import Any

from socketio_eventstore.core.frames import CLOSE, NOOP, PING, RECORD_SEPARATOR, Frames
from socketio_eventstore.core.sessions import ClientConnection
from socketio_eventstore.transport.address_limits import AddressPlace
from socketio_eventstore.transport.engine_server import EngineServer
from socketio_eventstore.transport.heartbeat import Heartbeat
from socketio_eventstore.transport.inbox import Inbox
from socketio_eventstore.transport.inbox_owner import InvalidPacket
from socketio_eventstore.transport.poll_buffer import PollBuffer
from socketio_eventstore.transport.rate_limits import RateLimitedInbox
from socketio_eventstore.transport.request_head import RequestHead
from socketio_eventstore.transport.websocket import Receiver, WebSocket

logger = logging.getLogger(__name__)

POSTED_PACKETS_PER_STEP = 25
"""The most packets of a POST, pongs too, in a row before the event loop runs other tasks. The shared rounds
allow fewer packets if many clients send."""
HANDLERS_AT_ONCE = 10_000
"""The most running handlers of a connection. Further packets are queued, and at last reading pauses."""


class InvalidRequest(Exception):
    """The HTTP request is not valid for this connection, and the connection is closed."""


class EngineConnection(ClientConnection):
    """One Engine.IO session over long-polling, over WebSocket, or upgraded from polling to WebSocket.

    python-engineio reads ``sid``, ``upgraded``, ``closed`` and ``session``.
    """

    def __init__(self, engine: EngineServer, connection_id: str, head: RequestHead) -> None:
        super().__init__(connection_id)
        self.sid = connection_id
        self.head = head
        """The request of the handshake."""
        self.session: dict[str, Any] = {}
        self.upgraded = False
        self.upgrading = False
        self.closed = False
        engine.pending += 1
        self._is_pending = True
        self._engine = engine
        self._heartbeat = Heartbeat(self, engine)
        self._websocket: WebSocket | None = None
        self._poll_buffer = PollBuffer()
        self.idle_timer: asyncio.TimerHandle | None = None
        """Ends the connection unless the client joins a namespace; starts again when the client has left all
        namespaces; cancelled by the close."""
        self.wants_base64 = False
        """Whether binary packets are sent as text on a WebSocket, too."""
        self.poll_packets: int | None = None
        """The most packets in the response to a poll; None for no limit."""
        self._final_packet = CLOSE  # the response to a poll after the close
        self.handlers_at_once = engine.handlers_at_once
        rates, rounds = engine.rate_limits, engine.shared_rounds
        self._inbox = RateLimitedInbox(self, rates, rounds) if rates.is_on else Inbox(self, rounds)
        self.place: AddressPlace | None = None
        """The place in the counts of the client's address; None without a count."""

    def ask_for_namespace(self) -> None:
        """Note that the client has asked for a namespace, or never will. Pending connections are limited."""
        if self._is_pending:
            self._is_pending = False
            self._engine.pending -= 1

    @property
    def unsent_bytes(self) -> int:
        """The bytes waiting for a poll, or waiting in the buffers of the WebSocket."""
        return self._poll_buffer.unsent_bytes + (self._websocket.unsent_bytes if self._websocket else 0)

    def write(self, batch: Sequence[Frames]) -> None:
        """Send frames, or keep the frames for the next poll.

        More unsent bytes than ``max_client_buffer`` abort the connection.
        """
        if self.closed:
            return
        if not self.takes_offsets:
            batch = [frames.without_offset for frames in batch]
        if self.wants_base64:
            batch = [frames.in_base64 for frames in batch]
        if (log := self._engine.packet_log) is not None:
            log.sent(self.id, batch)
        websocket = self._websocket
        unsent_bytes = (self._poll_buffer if websocket is None else websocket).write(batch)
        if unsent_bytes > self._engine.max_client_buffer:
            self._engine.slow_clients += 1
            self.abort("the client does not read fast enough")

    async def send(self, packet: Any) -> None:
        """Send a packet of python-engineio (``engineio.packet.Packet``)."""
        encoded = packet.data if packet.binary else packet.encode()
        self.write([Frames(encoded)])

    def open(self, handshake: Frames) -> None:
        """Start the heartbeat, once the handshake is sent."""
        self.handlers_at_once = self._engine.handlers_at_once  # the adapter may set the limit after __init__
        if (log := self._engine.packet_log) is not None:
            log.opened()
            log.sent(self.id, [handshake])
        self._heartbeat.start()

    def open_polling(self, handshake: Frames) -> None:
        """Send the handshake with the response to the first poll."""
        self._poll_buffer.write([handshake])
        self.open(handshake)

    def send_ping(self) -> None:
        """Send a ping of the heartbeat."""
        self.write([PING])
        self._engine.ping_written(self)

    async def answers_ping(self) -> bool:
        """Whether the client answers a ping from now on; False when the transport ends."""
        return not self.closed and await self._heartbeat.prove()

    def sessions_left(self) -> None:
        """Tell the engine that the client has left all namespaces."""
        if not self.closed:
            self._engine.sessions_left(self)

    # Closing ----------------------------------------------------------------------------------------

    def abort(self, reason: str, detail: str = "") -> None:
        """Close the transport at once, drop the unsent bytes, and send no packet. Logs ``reason``.

        Aborts with the same reason share log lines; varying parts belong into ``detail``.
        """
        extra = {"sids": [session.sid for session in self.sessions.values()], "reason": reason}
        text = f"{self.id}: transport aborted: {reason}{detail and f': {detail}'}"
        self._engine.failures.failed(reason, text, level=logging.INFO, extra=extra)
        self._abort(self._engine.reason.TRANSPORT_ERROR)

    def close_after_flush(self, reason: str) -> None:
        """Close the transport after sending the unsent bytes. ``reason`` is a reason of python-engineio."""
        if not self.closed:
            self._engine.flush()  # writes the dispatched frames, and aborts if the frames are too many
        if not self.closed:
            self.closed = True
            if self._websocket is not None:
                self._websocket.close()
            self._release(reason)

    async def close(self, wait: bool = True, abort: bool = False, reason: str | None = None) -> None:
        """Close the transport; the signature is python-engineio's ``AsyncSocket.close``."""
        reason = reason or self._engine.reason.SERVER_DISCONNECT
        (self._abort if abort else self.close_after_flush)(reason)

    def ping_timed_out(self) -> None:
        """Close the transport at once, since the heartbeat has no pong."""
        self._abort(self._engine.reason.PING_TIMEOUT)

    def _abort(self, reason: str) -> None:
        if not self.closed:
            self.closed = True
            if self._websocket is not None:
                self._websocket.abort()
            self.take_unsent()
            self._release(reason)

    def _release(self, reason: str) -> None:
        self.ask_for_namespace()
        if self.place is not None:
            self.place.free()
        self._heartbeat.stop()
        if self.idle_timer is not None:
            self.idle_timer.cancel()
        self._inbox.close()
        self._poll_buffer.wake_poll()
        self._engine.sockets.pop(self.id, None)
        if (log := self._engine.packet_log) is not None:
            log.closed()
        self._engine.connection_closed(self, reason)

    # Packets from the client ------------------------------------------------------------------------

    def data_received(self, message: str | bytes) -> None:
        """Handle a packet from the WebSocket. An invalid packet closes the connection."""
        try:
            self._receive(message)
        except InvalidPacket as error:
            self.fail(error)

    def connection_lost(self, *, in_order: bool = False) -> None:
        """Close the connection after the earlier packets, since the WebSocket has ended."""
        self.closed_in_order = self.closed_in_order or in_order
        self._inbox.call_when_idle(lambda: self.close_after_flush(self._engine.reason.TRANSPORT_CLOSE))

    def _receive(self, packet: str | bytes) -> None:
        if self.closed:
            return
        if (log := self._engine.packet_log) is not None:
            log.received(self.id, packet)
        self._engine.received_bytes += len(packet)
        if packet == "3":
            self._heartbeat.handle_pong()
        else:
            self._inbox.put(packet)

    def handle_packet(self, packet: str | bytes) -> asyncio.Task[None] | None:
        """Handle a packet now. Returns the task of the started handler, if any. Raises InvalidPacket."""
        if isinstance(packet, bytes):
            return self._engine.handle_message(self, packet)
        match packet[:1]:
            case "4":
                return self._engine.handle_message(self, packet[1:])
            case "b":  # a client may send base64 on a WebSocket, too (forceBase64 of the official client)
                try:
                    content = b64decode(packet[1:], validate=True)
                except ValueError as error:
                    raise InvalidPacket("invalid base64") from error
                return self._engine.handle_message(self, content)
            case "1":
                self._final_packet = NOOP
                # The response to a poll may be lost on the way, and the client closes in order all the same.
                self.closed_in_order = self._websocket is not None and not self.unsent_bytes
                self.close_after_flush(self._engine.reason.CLIENT_DISCONNECT)
            case "3" | "5" | "6":
                pass
            case _:
                raise InvalidPacket(f"unknown packet type {packet[:1]!a}")
        return None

    def fail(self, error: InvalidPacket) -> None:
        """Close the connection, since the client violated the protocol."""
        self._engine.failures.failed("packet", f"{self.id}: {error}", level=logging.INFO)
        self.close_after_flush(self._engine.reason.TRANSPORT_CLOSE)

    def rate_exceeded(self, limit: str) -> None:
        """Close the connection after the unsent bytes: the client goes on sending above a limit."""
        self._engine.refused_handshakes[limit] += 1
        text = f"{self.id}: the client goes on above {limit}"
        self._engine.failures.failed(limit, text, level=logging.INFO, extra={"reason": limit})
        self.close_after_flush(self._engine.reason.TRANSPORT_ERROR)

    @property
    def handlers(self) -> Collection[asyncio.Task[None]]:
        """The tasks of the connection's running handlers."""
        return self._inbox.handlers

    def pause_reading(self) -> None:
        """Stop reading from the WebSocket. A polling client waits for the response to its POST."""
        if self._websocket is not None:
            self._websocket.pause_reading()

    def resume_reading(self) -> None:
        """Read from the WebSocket again."""
        if self._websocket is not None:
            self._websocket.resume_reading()

    # Long-polling -----------------------------------------------------------------------------------

    async def poll(self) -> list[Frames]:
        """Wait for frames and return the response to a poll. Raises InvalidRequest for a second poll."""
        if self._poll_buffer.has_poll:
            self.abort("the client sent a second poll before the response to the first")
            raise InvalidRequest
        if self.upgrading:
            return [NOOP]
        await self._poll_buffer.wait()
        return self._poll_buffer.take(self.poll_packets) or [self._final_packet if self.closed else NOOP]

    def end_poll(self) -> None:
        """Answer the waiting poll, if any."""
        self._poll_buffer.wake_poll()

    async def post(self, body: bytes) -> None:
        """Handle the packets of a POST, up to a packet that closes the connection. Raises InvalidRequest."""
        try:
            with self._inbox.posting():
                for count, packet in enumerate(body.decode().split(RECORD_SEPARATOR), start=1):
                    if count % POSTED_PACKETS_PER_STEP == 0:
                        await asyncio.sleep(0)
                    await self._inbox.wait_until_idle()
                    if self.closed:
                        break
                    self._receive(packet)
        except ValueError as error:  # invalid UTF-8, or InvalidPacket
            self.abort("invalid packet", str(error))
            raise InvalidRequest from error

    def take_unsent(self) -> list[Frames]:
        """Remove and return the frames kept for a poll."""
        return self._poll_buffer.take()

    # WebSocket --------------------------------------------------------------------------------------

    def open_websocket(self, handshake: Frames, websocket: WebSocket) -> Receiver:
        """Use a WebSocket after the handshake. Returns the connection as the receiver."""
        self._websocket = websocket
        self.upgraded = True
        if self.closed:  # during the opening of the WebSocket
            websocket.close()
        else:
            self.open(handshake)
        return self

    @property
    def may_upgrade(self) -> bool:
        """Whether an upgrade to a WebSocket may start."""
        return not (self.closed or self.upgraded or self.upgrading)

    def pause_polling(self) -> None:
        """Send nothing more by polling, since an upgrade has started."""
        if (log := self._engine.packet_log) is not None:
            log.upgrading(self)
        self.upgrading = True
        self._poll_buffer.wake_poll()

    def complete_upgrade(self, websocket: WebSocket) -> None:
        """Send the unsent frames, and all later frames, on the WebSocket."""
        self.upgrading = False
        if not self.closed:
            self.upgraded = True
            self._websocket = websocket
            if unsent := self.take_unsent():
                websocket.write(unsent)
            if (log := self._engine.packet_log) is not None:
                log.upgraded(self)

    def cancel_upgrade(self) -> None:
        """Go on with polling."""
        self.upgrading = False
