"""A client that keeps its position as the official one does (socket.io-client 4.6 and later)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Final

from socketio_eventstore.verify import packets
from socketio_eventstore.verify.history import Connected, History, Received, SentAway
from socketio_eventstore.verify.packets import NotAPacket, Packet
from socketio_eventstore.verify.plan import Ending, Wire
from socketio_eventstore.verify.transports import Lost, Transport, make_transport

_RECONNECTION_SECONDS: Final = (0.02, 0.2)
"""The official client waits a second; here more is to happen in less time."""
_ANSWER_SECONDS: Final = 20.0
_ABANDONED: Final = 2
"""Half-open connections that each client keeps; the oldest is closed when there is one more."""


class Unanswered(Exception):
    """The connection ended before the server acknowledged; nobody knows whether it was done."""


class Client:
    """One namespace over a transport of its own, which is opened again whenever it ends.

    The rules: the offset is the last argument, if text, of any event without ack id, set after the
    listener ran; pid and offset are never cleared; both are sent on every CONNECT once there is a pid;
    events from before CONNECT wait for it, across transports, too.
    """

    def __init__(
        self,
        history: History,
        url: str,
        wire: Wire,
        chance: Random,
        listener: Callable[[Received], None],
    ) -> None:
        self.history = history
        self.namespace = history.namespace
        self.sid = ""
        self.connected = asyncio.Event()
        self._url = url
        self._wire = wire
        self._chance = chance
        self._listener = listener
        self._pid: str | None = None
        self._offset: str | None = None
        self._early: list[list[Any]] = []
        self._binary: tuple[Packet, list[bytes]] | None = None
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._trying = asyncio.Event()
        self._attempt: asyncio.Task[None] | None = None
        self._transport: Transport
        self._ending: Ending | None = None
        self._abandoned: list[Transport] = []
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count()

    async def run(self) -> None:
        """Be connected whenever it is wanted, until cancelled."""
        try:
            while True:
                await self._wanted.wait()
                self._attempt = asyncio.create_task(self._connect())
                await asyncio.wait([self._attempt])
                if not self._attempt.cancelled():
                    self._attempt.result()
                await asyncio.sleep(self._chance.uniform(*_RECONNECTION_SECONDS))
        finally:
            if self._attempt is not None and not self._attempt.done():
                self._attempt.cancel()
                await asyncio.wait([self._attempt])
            for transport in self._abandoned:
                await transport.close()

    async def call(self, name: str, *arguments: object) -> Any:
        """Emit an event and return what the server acknowledges it with. Raises Unanswered."""
        if not self.connected.is_set():
            raise Unanswered
        transport = self._transport
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        text = packets.encode(packets.EVENT, self.namespace, [name, *arguments], number)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await transport.send(text)
                return await answer
        except (Lost, TimeoutError) as error:
            await asyncio.sleep(0)  # sending fails at once; whoever reads must get to see the end
            raise Unanswered from error
        finally:
            self._answers.pop(number, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, even if sending has failed first

    async def cut(self, how: Ending, *, stay_away: bool) -> None:
        """End the transport, as soon as there is one, whatever it is doing; perhaps come back later."""
        while not self._trying.is_set():  # it may have ended again before this is resumed
            await self._trying.wait()
        if stay_away:
            self._wanted.clear()
        self._ending = how
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])

    def come_back(self) -> None:
        """``socket.connect()``."""
        self._wanted.set()

    async def _connect(self) -> None:
        self._ending = None
        transport = self._transport = make_transport(self._url, self._wire)
        self._trying.set()
        try:
            await transport.open()
            auth = None if self._pid is None else {"pid": self._pid}
            if auth is not None and self._offset is not None:
                auth["offset"] = self._offset
            await transport.send(packets.encode(packets.CONNECT, self.namespace, auth))
            while True:
                for packet in await transport.receive():
                    await self._take(transport, packet)
        except (Lost, NotAPacket):
            pass
        finally:
            self._trying.clear()
            was_connected = self.connected.is_set()
            self._disconnected()
            await self._end(transport, was_connected)

    async def _end(self, transport: Transport, was_connected: bool) -> None:
        if self._ending is Ending.SILENCE:
            self._abandoned.append(transport)
            if len(self._abandoned) > _ABANDONED:
                await self._abandoned.pop(0).close()
            return
        try:
            if self._ending is Ending.RESET:
                transport.reset()
            elif self._ending is not None:
                if self._ending is Ending.DISCONNECT and was_connected:
                    with suppress(Lost):
                        await transport.send(packets.encode(packets.DISCONNECT, self.namespace))
                await transport.say_goodbye()
        finally:
            await transport.close()

    def _disconnected(self) -> None:
        self.connected.clear()
        self._binary = None
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Lost("disconnected"))
        self._answers.clear()

    async def _take(self, transport: Transport, packet: str | bytes) -> None:
        if isinstance(packet, bytes):
            self._attach(packet)
            return
        match packet[:1]:
            case "2":
                await transport.send("3")
            case "4":
                self._see(packets.decode(packet[1:]))
            case "1":
                raise Lost("closed by the server")

    def _attach(self, content: bytes) -> None:
        if self._binary is None:
            raise NotAPacket("an attachment of nothing")
        packet, attachments = self._binary
        attachments.append(content)
        if len(attachments) == packet.attachments:
            self._binary = None
            self._event(packets.filled(packet.data, attachments))

    def _see(self, packet: Packet) -> None:
        if self._binary is not None:
            raise NotAPacket("text instead of an attachment")
        match packet.kind:
            case packets.CONNECT:
                self._accepted(packet.data["sid"], packet.data.get("pid"))
            case packets.EVENT:
                self._event(packet.data)
            case packets.BINARY_EVENT:
                self._binary = (packet, [])
            case packets.ACK:
                answer = self._answers.pop(packet.id or 0, None)
                if answer is not None and not answer.done():
                    answer.set_result(packet.data[0] if packet.data else None)
            case packets.DISCONNECT | packets.CONNECT_ERROR:
                self.history.entries.append(SentAway(f"{packet.kind} {packet.data}"))
                raise Lost("sent away")  # and back again at once: the user pressed reload

    def _accepted(self, sid: str, pid: str | None) -> None:
        returning = self._pid is not None
        self.history.entries.append(Connected(sid, returning, returning and self._pid == pid))
        self.sid, self._pid = sid, pid
        self.connected.set()
        early, self._early = self._early, []
        for arguments in early:
            self._event(arguments)

    def _event(self, arguments: list[Any]) -> None:
        if not self.connected.is_set():
            self._early.append(arguments)
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
