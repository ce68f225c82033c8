"""A client with the offset rules of the official client (socket.io-client 4.6 and later)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Final

from socketio_eventstore.verify import packets
from socketio_eventstore.verify.history import Connected, DisconnectedByServer, History, Received
from socketio_eventstore.verify.packets import InvalidPacket, Packet
from socketio_eventstore.verify.plan import CutKind, TransportKind
from socketio_eventstore.verify.transports import Transport, TransportClosed, make_transport

_RECONNECTION_SECONDS: Final = (0.02, 0.2)
"""The range of the reconnection delay; shorter than the official client's second, for more reconnections."""
_ACK_SECONDS: Final = 20.0
_SILENCE_SECONDS: Final = 6.0
"""The sum of ping_interval and ping_timeout, after which a client gives up a transport."""
_MAX_HALF_OPEN: Final = 2
"""The most half-open connections of a client; a further connection closes the oldest."""


class NotAcknowledged(Exception):
    """The connection ended before the acknowledgement: the server has handled the event or not."""


class Client:
    """A client of one namespace, with its own transport, which is reopened after each end.

    The offset is the last argument, if text, of any event without ack id, and is set after the listener has
    run. The pid and the offset are never cleared. Each CONNECT carries both as soon as there is a pid. Events
    received before CONNECT are buffered, also across transports.
    """

    def __init__(
        self,
        history: History,
        url: Callable[[], str],
        transport_kind: TransportKind,
        random: Random,
        listener: Callable[[Received], None],
    ) -> None:
        """``url``: called for each transport, since each may lead to another server."""
        self.history = history
        self.namespace = history.namespace
        self.sid = ""
        self.connected = asyncio.Event()
        self._url = url
        self._transport_kind = transport_kind
        self._random = random
        self._listener = listener
        self._pid: str | None = None
        self._offset: str | None = None
        self._buffered_events: list[list[Any]] = []
        self._binary: tuple[Packet, list[bytes]] | None = None
        self._may_connect = asyncio.Event()
        self._may_connect.set()
        self._has_transport = asyncio.Event()
        self._attempt: asyncio.Task[None] | None = None
        self._transport: Transport
        self._cut_kind: CutKind | None = None
        self._half_open: list[Transport] = []
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count()

    async def run(self) -> None:
        """Connect, and reconnect after each end of the transport, until cancelled."""
        try:
            while True:
                await self._may_connect.wait()
                self._attempt = asyncio.create_task(self._connect())
                await asyncio.wait([self._attempt])
                if not self._attempt.cancelled():
                    self._attempt.result()
                await asyncio.sleep(self._random.uniform(*_RECONNECTION_SECONDS))
        finally:
            if self._attempt is not None and not self._attempt.done():
                self._attempt.cancel()
                await asyncio.wait([self._attempt])
            for transport in self._half_open:
                await transport.close()

    async def call(self, name: str, *arguments: object) -> Any:
        """Emit an event. Returns the acknowledgement's first value. Raises NotAcknowledged."""
        if not self.connected.is_set():
            raise NotAcknowledged
        transport = self._transport
        ack_id = next(self._ids)
        answer = self._calls[ack_id] = asyncio.get_running_loop().create_future()
        text = packets.encode(packets.EVENT, self.namespace, [name, *arguments], ack_id)
        try:
            async with asyncio.timeout(_ACK_SECONDS):
                await transport.send(text)
                return await answer
        except (TransportClosed, TimeoutError) as error:
            await asyncio.sleep(0)  # sending fails at once; the receiving task must run to find the end
            raise NotAcknowledged from error
        finally:
            self._calls.pop(ack_id, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # marks the exception as retrieved, also after a failed send

    async def cut(self, kind: CutKind, *, stay_away: bool) -> None:
        """End the transport in any phase, or the next transport if there is none.

        With ``stay_away`` the client reconnects only after ``reconnect()``.
        """
        while not self._has_transport.is_set():  # the transport may end between the event and this task
            await self._has_transport.wait()
        if stay_away:
            self._may_connect.clear()
        self._cut_kind = kind
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])

    def reconnect(self) -> None:
        """Connect again, like ``socket.connect()``."""
        self._may_connect.set()

    async def _connect(self) -> None:
        self._cut_kind = None
        transport = self._transport = make_transport(self._url(), self._transport_kind)
        self._has_transport.set()
        try:
            async with asyncio.timeout(_SILENCE_SECONDS):
                await transport.open()
            auth = None if self._pid is None else {"pid": self._pid}
            if auth is not None and self._offset is not None:
                auth["offset"] = self._offset
            await transport.send(packets.encode(packets.CONNECT, self.namespace, auth))
            while True:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    received = await transport.receive()
                for packet in received:
                    await self._handle_packet(transport, packet)
        except (TransportClosed, InvalidPacket, TimeoutError):
            pass
        finally:
            self._has_transport.clear()
            was_connected = self.connected.is_set()
            self._transport_ended()
            await self._close(transport, was_connected)

    async def _close(self, transport: Transport, was_connected: bool) -> None:
        if self._cut_kind is CutKind.SILENCE:
            self._half_open.append(transport)
            if len(self._half_open) > _MAX_HALF_OPEN:
                await self._half_open.pop(0).close()
            return
        try:
            if self._cut_kind is CutKind.RESET:
                transport.reset_on_close()
            elif self._cut_kind is not None:
                if self._cut_kind is CutKind.DISCONNECT and was_connected:
                    with suppress(TransportClosed):
                        await transport.send(packets.encode(packets.DISCONNECT, self.namespace))
                await transport.send_close()
        finally:
            await transport.close()

    def _transport_ended(self) -> None:
        self.connected.clear()
        self._binary = None
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(TransportClosed("disconnected"))
        self._calls.clear()

    async def _handle_packet(self, transport: Transport, packet: str | bytes) -> None:
        if isinstance(packet, bytes):
            self._add_attachment(packet)
            return
        match packet[:1]:
            case "2":
                await transport.send("3")
            case "4":
                self._handle_message(packets.decode(packet[1:]))
            case "1":
                raise TransportClosed("closed by the server")

    def _add_attachment(self, content: bytes) -> None:
        if self._binary is None:
            raise InvalidPacket("an attachment without a binary event")
        packet, attachments = self._binary
        attachments.append(content)
        if len(attachments) == packet.attachments:
            self._binary = None
            self._handle_event(packets.with_attachments(packet.data, attachments))

    def _handle_message(self, packet: Packet) -> None:
        if self._binary is not None:
            raise InvalidPacket("text instead of an attachment")
        match packet.kind:
            case packets.CONNECT:
                self._handle_connect(packet.data["sid"], packet.data.get("pid"))
            case packets.EVENT:
                self._handle_event(packet.data)
            case packets.BINARY_EVENT:
                self._binary = (packet, [])
            case packets.ACK:
                answer = self._calls.pop(packet.id or 0, None)
                if answer is not None and not answer.done():
                    answer.set_result(packet.data[0] if packet.data else None)
            case packets.DISCONNECT | packets.CONNECT_ERROR:
                self.history.entries.append(DisconnectedByServer(f"{packet.kind} {packet.data}"))
                raise TransportClosed("disconnected by the server")  # reconnects, like a reloaded page

    def _handle_connect(self, sid: str, pid: str | None) -> None:
        returning = self._pid is not None
        self.history.entries.append(Connected(sid, returning, returning and self._pid == pid))
        self.sid, self._pid = sid, pid
        self.connected.set()
        buffered, self._buffered_events = self._buffered_events, []
        for arguments in buffered:
            self._handle_event(arguments)

    def _handle_event(self, arguments: list[Any]) -> None:
        if not self.connected.is_set():
            self._buffered_events.append(arguments)
            return
        last = arguments[-1] if isinstance(arguments[-1], str) else None
        received = Received(self.sid, arguments[0], _id_of(arguments), last)
        self.history.entries.append(received)
        self._listener(received)
        if self._pid is not None and last is not None:
            self._offset = last


def _id_of(arguments: list[Any]) -> str:
    content = arguments[1] if len(arguments) > 1 else None
    if not isinstance(content, dict) or not isinstance(content.get("id"), str):
        return f"damaged: {str(arguments)[:80]}"
    if "blob" in content and content["blob"] != content["id"].encode():
        return f"damaged: {content['id']}"
    return str(content["id"])
