"""Thousands of histories of the core: every client has what a twin that never disconnected has.

Hypothesis plays server, network, disk and clients: it emits, joins, cuts, reconnects, crashes and forgets
in every order it can think of, shrinks what fails, and prints it as a program. The core is the real one
from CONNECT packet to bytes (handshake, dispatch, recovery, replay, retention); its log is simulated
(``simulated_store``), its clocks are numbers, and nothing waits for anything but the next rule.

``STATE_MACHINE_EXAMPLES=5000 pytest tests/test_state_machine.py`` tries more of them.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import logging
import os
import random
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from simulated_store import Disk, SimulatedLog, Twins, text_of

from socketio_eventstore.server import replay
from socketio_eventstore.server.adapter.handshake import Handshake
from socketio_eventstore.server.dispatch import Dispatcher, Turn
from socketio_eventstore.server.outbox import Outbox
from socketio_eventstore.server.packets import Frames, TextCodec
from socketio_eventstore.server.recovery import Limits, Recovery, Restore, Result
from socketio_eventstore.server.registry import Connection, Registry, Session, State
from socketio_eventstore.server.replay import Replayer
from socketio_eventstore.server.retention import Retention, ServiceClock
from socketio_eventstore.server.runtime import Options
from socketio_eventstore.server.session_turns import Accept, Away, Dismiss, Revoke
from socketio_eventstore.server.tail import Tail
from socketio_eventstore.server.turns import CloseRoom, Emit, Join, Leave, Save, Volatile
from socketio_eventstore.store.errors import StoreBusy, StoreError, StoreRejected, StoreUnavailable
from socketio_eventstore.store.model import Change, Event, Interval, Place, Room, SessionAway, SessionResumed
from socketio_eventstore.store.offsets import Boots

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "100"))
STEPS_OF_A_HISTORY = 40
DURATION = 10.0
"""How many seconds a client may be away."""
PING = "2"
NAMESPACES = ("/", "/", "/other")
"""Of the clients, by number."""
ROOMS: tuple[Room, ...] = ("red", "blue", 7)
T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers are due when nothing else is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def settle(self) -> None:
        """Run until everything waits for the next rule, or for a timer that comes back for ever."""
        self.run_until_complete(self._settle())

    def call(self, function: Callable[[], T]) -> T:
        """Call what makes tasks, then settle."""

        async def within() -> T:
            result = function()
            await self._settle()
            return result

        return self.run_until_complete(within())

    async def _settle(self) -> None:
        ready, timers = vars(self)["_ready"], vars(self)["_scheduled"]
        for _ in range(4):
            await asyncio.sleep(0)
            while ready:  # noqa: ASYNC110 -- nothing is set when nothing is left to do
                await asyncio.sleep(0)
            if not timers:
                break
            self.now = max(self.now, timers[0].when())


class Wire(Connection):
    """A transport: what the server has written to it flies until the client takes it or it breaks."""

    def __init__(self, connection_id: str, closed: Callable[[Wire, str], None]) -> None:
        super().__init__(connection_id)
        self.flying: deque[str] = deque()
        self.closed = False
        """As the server sees it."""
        self.crowded = False
        """Whether the client reads nothing for now."""
        self.decision: asyncio.Future[bool] | None = None
        """What the connect handler is about to say."""
        self.claims = ("", "")
        """Namespace and sid of the session for which it was called."""
        self._closed = closed

    def write(self, batch: Sequence[Frames]) -> None:
        if not self.closed:
            for frames in batch:
                self.flying.extend(cast("tuple[str, ...]", frames.packets))

    def abort(self, reason: str) -> None:
        self.close("transport error")

    def leave(self, reason: str) -> None:
        self.close(reason)

    def close(self, reason: str) -> None:
        """The server knows that it has ended."""
        if not self.closed:
            self.closed = True
            self.flying.clear()
            self._closed(self, reason)

    @property
    def unsent_bytes(self) -> int:
        return 10**9 if self.crowded else 0


@dataclass(eq=False)
class Client:
    """What the official client keeps: it never forgets pid and offset."""

    namespace: str
    wire: Wire | None = None
    pid: str | None = None
    offset: str | None = None
    sid: str = ""
    connected: bool = False
    received: list[str] = field(default_factory=list)
    """The texts of the stored events, since its session began."""
    last_seen: float = 0.0
    """When it was connected for certain, in seconds."""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.sid


class Faults(logging.Handler):
    """The core logs a fault of its own and goes on, so that one client's trouble is nobody else's."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and not isinstance(record.exc_info[1], StoreError):
            self.texts.append(self.format(record))


LOGGED = Faults()
WORLDS: list[World] = []


class World:
    """A server on a disk, its clients, and everything between them."""

    def __init__(self, *, durable: bool) -> None:
        self.loop = VirtualLoop()
        WORLDS[:] = [self]
        self.durable = durable
        self.disk, self.twins = Disk(), Twins()
        self.seconds = 1_000.0
        self.clients = [Client(namespace, last_seen=self.seconds) for namespace in NAMESPACES]
        self.zombies: list[Wire] = []
        """Transports whose client has gone, which the server does not know."""
        self.meanings: dict[str, str] = {}
        """By offset the text of the event to which it was given."""
        self.ended: set[tuple[str, str]] = set()
        """The sessions that somebody asked to end."""
        self.away_again: set[tuple[str, str]] = set()
        """The sessions of which the disk has forgotten that their clients were back."""
        self.refused: set[str] = set()
        """The transports that may be told CONNECT_ERROR."""
        self.faults = LOGGED.texts
        self.faults.clear()
        self.ids = itertools.count(1)
        self.loop.set_exception_handler(lambda _, context: self.faults.append(repr(context)))
        self._tasks: list[asyncio.Task[Any]] = []
        self.start()

    # The server -------------------------------------------------------------------------------------

    def start(self) -> None:
        """What ``Runtime.start`` does."""
        self.log = SimulatedLog(self.disk, self.twins, f"boot{next(self.ids)}", durable=self.durable)
        self.registry = Registry()
        replayer = Replayer(self.log, max_unsent_bytes=60)
        self.dispatcher = Dispatcher(
            self.log, self.registry, TextCodec(), tail_bytes=60, offsets=True, catch_up=replayer.begin
        )
        replayer.dispatcher = self.dispatcher
        self.recovery = Recovery(self.log, self.registry, Limits(DURATION, 10**6, 10**9))
        self.clock = ServiceClock(self.log.service_time_at_open, lambda: self.seconds)
        now, left_open = self.clock(), list[Change]()
        for stored in self.log.load_sessions():
            if stored.away_since is None:
                left_open.append(
                    SessionAway(stored.namespace, stored.sid, self.seconds, now, stored.confirmed)
                )
            away_since = now if stored.away_since is None else min(stored.away_since, now)
            self.registry.add(Session.restore(stored, away_since))
        if left_open:  # or one that expires in this boot, and is pruned, could be recovered in the next
            self.loop.run_until_complete(self.log.commit(left_open))
        self.retention = Retention(
            self.log,
            self.dispatcher,
            self.recovery,
            self.clock,
            expired=self._expired,
            interval_seconds=1.0,
            retention_seconds=DURATION,
            wall_clock=lambda: self.seconds,
        )
        self.handshake = Handshake(cast("Any", self._application()), cast("Any", self._runtime()))
        self._tasks = [self.spawn(self.dispatcher.run()), self.spawn(replayer.run())]
        self.loop.settle()

    def _runtime(self) -> SimpleNamespace:
        return SimpleNamespace(
            enabled=True,
            options=Options(path=None),
            log=self.log,
            registry=self.registry,
            dispatcher=self.dispatcher,
            recovery=self.recovery,
            clock=self.clock,
        )

    def _application(self) -> SimpleNamespace:
        """What the handshake needs of python-socketio's server."""
        reasons = {"CLIENT_DISCONNECT", "SERVER_DISCONNECT", "TRANSPORT_CLOSE", "TRANSPORT_ERROR"}
        return SimpleNamespace(
            serves=lambda namespace: namespace in NAMESPACES,
            eio=SimpleNamespace(generate_id=lambda: f"sid{next(self.ids)}"),
            manager=SimpleNamespace(callbacks={}),
            environ=defaultdict(dict),
            always_connect=False,
            call_handler=self._call_handler,
            packet_class=_Packet,
            reason=SimpleNamespace(**{reason: reason for reason in reasons}),
        )

    async def _call_handler(self, event: str, namespace: str, sid: str, *_: object) -> bool | None:
        if event != "connect":
            return None
        session = self.registry.get(namespace, sid)
        assert session is not None and isinstance(session.connection, Wire)
        wire = session.connection
        wire.claims = (namespace, sid)
        wire.decision = self.loop.create_future()
        try:
            return await wire.decision
        finally:
            wire.decision = None

    async def _expired(self, session: Session) -> None:
        self.ended.add((session.namespace, session.sid))
        await self.dispatcher.submit(Revoke(session))

    def closed(self, wire: Wire, reason: str) -> None:
        self.handshake.disconnected(cast("Any", wire), reason)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self.loop.create_task(work)

    def do(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Work that may fail with what the store says, and with nothing else. Gives whether it is done."""

        def check(task: asyncio.Task[Any]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, StoreError):
                self.faults.append(repr(error))

        task = self.spawn(work)
        task.add_done_callback(check)
        self.loop.settle()
        return task.done() and not task.cancelled() and task.exception() is None

    def submit(self, *turns: Turn) -> bool:
        return self.do(self.dispatcher.submit(*turns))

    def stop(self) -> None:
        """The process is no more, and neither is any transport."""
        for client in self.clients:
            self._hang_up(client)
        for wire in [*self.zombies, *(s.connection for s in self.registry if s.connection is not None)]:
            cast("Wire", wire).closed = True
        self.zombies.clear()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.settle()

    def crash(self, keep: int, *, find_uncertain: bool) -> None:
        """Power off and on again; of what was not synced so many transactions are left."""
        if find_uncertain and self.log.waiting is not None:
            self.disk.uncertain = self.log.waiting
        self.stop()
        for change in self.disk.crash(keep, keep_uncertain=find_uncertain):
            if isinstance(change, SessionResumed):
                self.away_again.add((change.namespace, change.sid))
        self.twins = Twins(self.disk.changes())
        self.start()

    # The clients ------------------------------------------------------------------------------------

    def connect(self, client: Client) -> None:
        client.wire = Wire(f"wire{next(self.ids)}", self.closed)
        auth = {key: value for key, value in (("pid", client.pid), ("offset", client.offset)) if value}
        self.loop.call(
            lambda: self.handshake.connect(cast("Any", client.wire), client.namespace, auth or None)
        )

    def _hang_up(self, client: Client) -> Wire | None:
        """The client's end of the transport is gone."""
        wire, client.wire = client.wire, None
        if client.connected:
            client.last_seen = self.seconds
        client.connected = False
        if wire is not None:
            wire.flying.clear()
        return wire

    def cut(self, client: Client) -> None:
        """Both ends notice."""
        if (wire := self._hang_up(client)) is not None:
            self.loop.call(lambda: wire.close("transport close"))

    def strand(self, client: Client) -> None:
        """Only the client notices."""
        if (wire := self._hang_up(client)) is not None:
            self.zombies.append(wire)

    def say_goodbye(self, client: Client) -> None:
        """The tutorial's button: a DISCONNECT packet, after which the client ignores what comes."""
        if (wire := self._hang_up(client)) is not None and not wire.closed:
            self.loop.call(lambda: self.handshake.left(cast("Any", wire), client.namespace))
            self.loop.call(lambda: wire.close("transport close"))

    def notice(self) -> None:
        """The server notices a transport that died long ago."""
        if self.zombies:
            wire = self.zombies.pop(0)
            self.loop.call(lambda: wire.close("ping timeout"))

    def ping(self, client: Client) -> None:
        """What the transport does for a heartbeat."""
        if client.wire is not None and not client.wire.closed and PING not in client.wire.flying:
            client.wire.write([Frames(PING)])
            client.wire.ping_written(self.dispatcher.position)

    def deliver(self, client: Client, count: int) -> None:
        """The client takes what has come, packet by packet."""
        self.loop.call(lambda: self._deliver(client, count))

    def _deliver(self, client: Client, count: int) -> None:
        for _ in range(count):
            wire = client.wire
            if wire is None or not wire.flying:
                return
            self._take(client, wire, wire.flying.popleft())

    def _take(self, client: Client, wire: Wire, packet: str) -> None:
        if packet == PING:
            if not wire.closed:
                wire.pong_received()
            return
        kind, start = packet[:2], packet.find("[" if packet[:2] == "42" else "{")
        content: Any = json.loads(packet[start:]) if start > 0 else None
        match kind:
            case "40":
                self._connected(client, content)
            case "44":
                assert not client.connected, "an error after the acceptance"
                allowed = wire.id in self.refused or wire.claims in self.ended
                assert allowed, f"CONNECT_ERROR to a client that was not refused: {packet}"
                self._hang_up(client)
                wire.close("transport close")
            case "41":
                allowed = client.key in self.ended
                assert allowed, f"DISCONNECT to a client that nobody disconnected: {client}"
                self._hang_up(client)
                wire.close("transport close")
            case "42":
                assert client.connected, f"an event before the acceptance: {packet}"
                self._event(client, *content)
            case _:
                raise AssertionError(packet)

    def _connected(self, client: Client, content: dict[str, str]) -> None:
        assert not client.connected, "a second CONNECT"
        recovered = content["pid"] == client.pid
        if recovered:
            assert content["sid"] == client.sid, "another sid under the same pid"
        else:
            assert not self.owes(client), f"a session that nothing was wrong with is gone: {client}"
            client.received = []
        client.sid, client.pid, client.connected = content["sid"], content["pid"], True
        client.last_seen = self.seconds
        self.away_again.discard(client.key)
        assert client.key in self.twins.received, "a session that is not on disk"
        expected = self.expected(client)
        assert client.received == expected[: len(client.received)], "recovered with another past"

    def _event(self, client: Client, name: str, text: str, offset: str) -> None:
        client.offset = offset
        if name == "volatile":
            return
        assert self.meanings.setdefault(offset, text) == text, f"{offset} was given out twice"
        expected = self.expected(client)
        place = len(client.received)
        assert expected[place : place + 1] == [text], (
            f"{client.key} received {text} as number {place}, where its twin has {expected}"
        )
        client.received.append(text)

    def expected(self, client: Client) -> list[str]:
        """What the twin has."""
        return [text_of(event) for _, event in self.twins.received.get(client.key, [])]

    def owes(self, client: Client) -> bool:
        """Whether the server must give a client its session back."""
        if client.pid is None or client.key in self.ended or client.key not in self.twins.present:
            return False
        if client.key in self.away_again:  # and the time in which to return runs since long ago
            return False
        # The clock of the server may be slower, never faster than this.
        return self.seconds - client.last_seen <= DURATION and not self.is_lost(client.offset)

    def is_lost(self, offset: str | None) -> bool:
        """Whether an offset lies in a future that a crash took."""
        if offset is None:
            return False
        boot, _, number = offset.rpartition(".")
        began = {entry.boot: entry.began_after for entry in self.disk.boots}
        later = [entry.began_after for entry in self.disk.boots[list(began).index(boot) + 1 :]]
        return int(number) > min([*later, self.log.head])

    def check(self) -> None:
        assert not self.faults, self.faults
        for client in self.clients:
            self._check(client)

    def _check(self, client: Client) -> None:
        wire = client.wire
        if wire is None:
            return
        if wire.closed:
            self._hang_up(client)
            return
        session = wire.sessions.get(client.namespace)
        if client.connected and not wire.flying and session is not None and session.state is State.LIVE:
            reached = [
                text_of(event)
                for number, event in self.twins.received[client.key]
                if number <= self.dispatcher.position
            ]
            assert client.received == reached, f"{client.key} is live and lacks something"


class _Packet:
    """A CONNECT_ERROR, as python-socketio's packet class encodes it."""

    def __init__(self, kind: int, data: object, namespace: str) -> None:
        self._text = f"{kind}{'' if namespace == '/' else namespace + ','}{json.dumps(data)}"

    def encode(self) -> str:
        return self._text


CHOICES: dict[str, Sequence[Any]] = {
    "durable": [True, False],
    "connected": [3, 3, 3, 1, 0],
    "number": range(len(NAMESPACES)),
    "namespace": NAMESPACES,
    "room": ROOMS,
    "kind": ["all", "room", "room", "rooms", "to", "to", "skip", "skip room"],
    "accept": [True, True, True, False],
    "farewell": [True, False],
    "count": [1, 2, 3],
    "how": [World.cut, World.cut, World.strand, World.say_goodbye],
    "steps": [1, 2, 3, 4],
    "which": ["commits", "reads"],
    "failure": [StoreUnavailable, StoreBusy, StoreRejected],
    "times": [1, 2, 3],
    "may_be_found": [False, True],
    "keep": [0, 0, 1, 2, 5],
    "find_uncertain": [False, True],
    "back": [True, False],
    "seconds": [1.0, 4.0, DURATION + 1.0],
    "sweep": [True, False],
}
"""What an argument of a step may be, by its name."""
STEPS: list[Callable[..., None]] = []
"""What may happen, the usual more often."""
Step = TypeVar("Step", bound=Callable[..., None])


def step(weight: int = 1) -> Callable[[Step], Step]:
    """Something that may happen, at the will of hypothesis or of chance."""

    def decorate(function: Step) -> Step:
        STEPS.extend([function] * weight)
        decorated: Callable[[Step], Step] = rule(**strategies_for(function))
        return decorated(function)

    return decorate


@cache
def names_of(function: Callable[..., None]) -> Sequence[str]:
    return list(inspect.signature(function).parameters)[1:]


def strategies_for(function: Callable[..., None]) -> dict[str, Any]:
    return {name: st.sampled_from(CHOICES[name]) for name in names_of(function)}


class Histories(RuleBasedStateMachine):
    """What may happen, in any order."""

    world: World

    @initialize(durable=st.booleans(), connected=st.sampled_from(CHOICES["connected"]))
    def begin(self, durable: bool, connected: int) -> None:
        self.world = World(durable=durable)
        self.passing: list[tuple[int, Callable[[], None]]] = []
        self.steps = 0
        for client in self.world.clients[:connected]:
            self._come_back(client)
        self.sync_the_disk()

    # The application --------------------------------------------------------------------------------

    @step(4)
    def emit(self, kind: str, number: int, room: Room) -> None:
        self.world.submit(Emit(self._event(kind, number, room)))

    @step(2)
    def emit_many(self, kind: str, number: int, room: Room) -> None:
        """More than the tail holds, and more than a page."""
        event = self._event(kind, number, room)
        for _ in range(4):
            self.world.submit(Emit(self._renamed(event)))

    @step()
    def emit_volatile(self, kind: str, number: int, room: Room) -> None:
        self.world.submit(Volatile(self._event(kind, number, room, name="volatile")))

    @step(4)
    def join(self, number: int, room: Room) -> None:
        if (session := self._session(number)) is not None:
            self.world.submit(Join(session, room))

    @step(2)
    def leave(self, number: int, room: Room) -> None:
        if (session := self._session(number)) is not None:
            self.world.submit(Leave(session, room))

    @step()
    def join_emit_and_leave_in_one_transaction(self, number: int, room: Room) -> None:
        if (session := self._session(number)) is not None:
            event = self._event("room", number, room)
            self.world.submit(Join(session, room), Emit(event), Leave(session, room))

    @step()
    def close_room(self, namespace: str, room: Room) -> None:
        world = self.world
        if world.submit(CloseRoom(namespace, room)):
            members = [key for key, rooms in world.twins.present.items() if room in rooms]
            assert namespace not in [other for other, _ in members], "somebody is in a room that was closed"

    @step()
    def save(self, number: int) -> None:
        if (session := self._session(number)) is not None:
            self.world.submit(Save(session, f'{{"saved":{next(self.world.ids)}}}'))

    @step()
    def end(self, number: int, farewell: bool) -> None:
        world = self.world
        if (session := self._session(number)) is not None and number % 2:
            world.ended.add((session.namespace, session.sid))
            world.do(world.handshake.end(Dismiss(session) if farewell else Revoke(session)))
            if not farewell and (wire := world.clients[number].wire) is not None:
                world.loop.call(lambda: wire.abort("its session was revoked"))

    @step()
    def decide(self, number: int, accept: bool) -> None:
        """The connect handler of a client returns."""
        self._decide(self.world.clients[number], accept=accept)

    @step()
    def decide_about_a_zombie(self, number: int, accept: bool) -> None:
        for wire in self.world.zombies[number : number + 1]:
            if wire.decision is not None and not wire.decision.done():
                wire.decision.set_result(accept)
        self.world.loop.settle()

    # The network ------------------------------------------------------------------------------------

    @step()
    def connect(self, number: int) -> None:
        client = self.world.clients[number]
        if client.wire is None:
            self.world.connect(client)

    @step(3)
    def come_back_at_once(self, number: int) -> None:
        """The usual way: connect, be accepted, take what comes."""
        self._come_back(self.world.clients[number])

    @step(3)
    def everybody_comes_back(self) -> None:
        for client in self.world.clients:
            self._come_back(client)

    @step(3)
    def everything_arrives(self) -> None:
        for client in self.world.clients:
            self.world.deliver(client, 1_000)

    @step(3)
    def deliver_some(self, number: int, count: int) -> None:
        self.world.deliver(self.world.clients[number], count)

    @step()
    def deliver_all(self, number: int) -> None:
        self.world.deliver(self.world.clients[number], 1_000)

    @step(4)
    def disconnect(self, number: int, how: Callable[[World, Client], None]) -> None:
        how(self.world, self.world.clients[number])

    @step()
    def notice_a_dead_transport(self) -> None:
        self.world.notice()

    @step(2)
    def ping(self, number: int) -> None:
        self.world.ping(self.world.clients[number])

    @step(2)
    def ping_and_hear(self, number: int) -> None:
        self.world.ping(self.world.clients[number])
        self.world.deliver(self.world.clients[number], 1_000)

    @step()
    def crowd(self, number: int, steps: int) -> None:
        """A client reads nothing for a while."""
        if (wire := self.world.clients[number].wire) is not None:
            wire.crowded = True
            self._until(steps, lambda: setattr(wire, "crowded", False))

    # The disk and the clocks ------------------------------------------------------------------------

    @step()
    def hold_the_disk(self, which: str, steps: int) -> None:
        """It takes its time."""
        gate = self.world.log.commits if which == "commits" else self.world.log.reads
        gate.close()
        self._until(steps, gate.open)

    @step()
    def fail(self, failure: type[StoreError], times: int, may_be_found: bool) -> None:
        self.world.log.failures.extend([(failure(), may_be_found)] * times)

    @step(2)
    def crash(self, keep: int, find_uncertain: bool, back: bool) -> None:
        self.world.crash(keep, find_uncertain=find_uncertain)
        if back:
            self.everybody_comes_back()

    @step()
    def sync_the_disk(self) -> None:
        """A checkpoint, or the operating system's own will."""
        self.world.disk.synced = len(self.world.disk.entries)

    @step()
    def pass_time(self, seconds: float, sweep: bool) -> None:
        self.world.seconds += seconds
        for client in self.world.clients:
            if client.connected and client.wire is not None and not client.wire.closed:
                client.last_seen = self.world.seconds
        if sweep:
            self.sweep()

    @step()
    def sweep(self) -> None:
        """Sessions expire and events are pruned."""
        self.world.do(self._sweep())

    async def _sweep(self) -> None:
        await self.world.retention.sweep()

    # ------------------------------------------------------------------------------------------------

    @invariant()
    def all_is_well(self) -> None:
        if hasattr(self, "world"):
            self.steps += 1
            for step, end in [*self.passing]:
                if step <= self.steps:
                    self.passing.remove((step, end))
                    end()
            self.world.loop.settle()
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.everybody_comes_back_in_the_end()
            finally:
                self.close()

    def close(self) -> None:
        self.world.stop()
        self.world.loop.close()

    def everybody_comes_back_in_the_end(self) -> None:
        """However it went so far: in the end every client is connected and has what its twin has."""
        world = self.world
        world.check()
        world.log.failures.clear()
        self._release()
        for client in world.clients:
            if client.wire is not None:
                client.wire.crowded = False
        for _ in range(3):  # a transport may have been closed, and that is noticed on the way
            for client in world.clients:
                if client.wire is None:
                    world.connect(client)
                self._decide(client, accept=True)
                world.deliver(client, 1_000)
                world.check()
        world.submit(Emit(self._renamed(Event("/", "e", "[]", (), None, (), world.seconds))))
        for client in world.clients:
            world.deliver(client, 1_000)
            assert client.connected, f"a client that cannot come back: {client}"
            assert client.received == world.expected(client), f"{client.key} lacks something in the end"
            session = world.registry.get(*client.key)
            assert session is not None and session.state is State.LIVE
            assert session.data == world.twins.data[client.key]
            assert {client.sid, *session.joined} == world.twins.present[client.key]
        world.check()

    def _until(self, steps: int, end: Callable[[], None]) -> None:
        """It passes after so many more steps."""
        self.passing.append((self.steps + 1 + steps, end))

    def _come_back(self, client: Client) -> None:
        if client.wire is None:
            self.world.connect(client)
        self._decide(client, accept=True)
        self.world.deliver(client, 1)

    def _release(self) -> None:
        self.world.log.commits.open()
        self.world.log.reads.open()
        self.world.loop.settle()

    def _decide(self, client: Client, *, accept: bool) -> None:
        if client.wire is not None and (decision := client.wire.decision) is not None:
            if not decision.done():
                decision.set_result(accept)
                if not accept:
                    self.world.refused.add(client.wire.id)
            self.world.loop.settle()

    def _session(self, number: int) -> Session | None:
        """The session that a client has, or is getting."""
        client = self.world.clients[number]
        if client.wire is not None and client.namespace in client.wire.sessions:
            return client.wire.sessions[client.namespace]
        return self.world.registry.get(*client.key)

    def _event(self, kind: str, number: int, room: Room, name: str = "e") -> Event:
        sid, namespace = self.world.clients[number].sid, NAMESPACES[number]
        if (session := self._session(number)) is not None:
            sid = session.sid
        rooms: dict[str, tuple[Room, ...] | None] = {"all": None, "skip": None, "to": (sid,)}
        rooms["room"] = rooms["skip room"] = (room,)
        rooms["rooms"] = (*ROOMS[:2], sid)
        skip = (sid,) if kind.startswith("skip") else ()
        return self._renamed(Event(namespace, name, "[]", (), rooms[kind], skip, self.world.seconds))

    def _renamed(self, event: Event) -> Event:
        payload = json.dumps([event.name, f"event {next(self.world.ids)}"])
        return Event(event.namespace, event.name, payload, (), event.rooms, event.skip, self.world.seconds)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few events are several pages; what the core logs is seen by nobody but ``Faults``."""
    monkeypatch.setattr(replay, "PAGE_EVENTS", 2)
    monkeypatch.setattr(replay, "READ_EVENTS", 3)
    root = logging.getLogger("socketio_eventstore")
    monkeypatch.setattr(root, "handlers", [LOGGED])
    monkeypatch.setattr(root, "propagate", False)


@pytest.fixture
def unmeasured() -> Iterator[None]:
    """Without coverage: the other histories run through the same lines, and it doubles the time."""
    trace = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(trace)


def play_by_chance(seed: int) -> None:
    """One history without hypothesis, which spends much on being able to shrink it."""
    chance = random.Random(seed)
    machine, story = Histories(), [f"seed {seed}"]
    machine.begin(**_chosen(chance, ["durable", "connected"]))
    try:
        for _ in range(STEPS_OF_A_HISTORY):
            function = chance.choice(STEPS)
            arguments = _chosen(chance, names_of(function))
            story.append(f"{function.__name__}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})")
            function(machine, **arguments)
            machine.all_is_well()
        story.append("everybody comes back")
        machine.everybody_comes_back_in_the_end()
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *story])) from error
    finally:
        machine.close()


def _chosen(chance: random.Random, names: Sequence[str]) -> dict[str, Any]:
    return {name: chance.choice(CHOICES[name]) for name in names}


def play(examples: int, phases: Sequence[Phase] = tuple(Phase), *, derandomize: bool = False) -> None:
    options = settings(
        max_examples=examples,
        derandomize=derandomize,
        stateful_step_count=STEPS_OF_A_HISTORY,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(Histories, settings=options)


@pytest.mark.timeout(0)
def test_every_client_has_what_its_twin_has_whatever_hypothesis_thinks_of() -> None:
    play(EXAMPLES)


@pytest.mark.timeout(0)
@pytest.mark.usefixtures("unmeasured")
def test_every_client_has_what_its_twin_has_in_thousands_of_histories() -> None:
    first = int(os.environ.get("STATE_MACHINE_SEED") or random.randrange(2**32))
    play_many_by_chance(first, 10 * EXAMPLES)


# It must be able to fail ----------------------------------------------------------------------------

Break = Callable[[pytest.MonkeyPatch], None]


def rooms_past_leaks_to_who_joins(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Interval, "covers", lambda self, n: self.through is None or n <= self.through)
    patch.setattr(Session, "receives", lambda self, event, _: _is_for(self, event))


def _is_for(session: Session, event: Event) -> bool:
    if event.namespace != session.namespace or session.sid in event.skip:
        return False
    return event.rooms is None or any(m.room in event.rooms for m in session.memberships() if m.room)


def what_was_in_flight_before_a_leave_is_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "leave", lambda self, room, _: self.joined.pop(room, None))


def a_second_join_moves_the_beginning(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "enter", lambda self, room, position: self.joined.update({room: position}))


def the_first_event_of_the_tail_is_skipped_when_going_live(patch: pytest.MonkeyPatch) -> None:
    after = Tail.after
    patch.setattr(Tail, "after", lambda self, number: itertools.islice(after(self, number), 1, None))


def the_last_event_is_sent_again_on_recovery(patch: pytest.MonkeyPatch) -> None:
    decide = Recovery.decide

    async def one_too_early(self: Recovery, *arguments: Any) -> Restore | Result:
        answer = await decide(self, *arguments)
        return Restore(answer.session, answer.cursor - 1) if isinstance(answer, Restore) else answer

    patch.setattr(Recovery, "decide", one_too_early)


def a_replay_takes_no_notice_of_the_skipped(patch: pytest.MonkeyPatch) -> None:
    missed_page = Replayer._send_page

    def to_everybody(self: Replayer, replay: Any, page: Any, events: Any, built: Any) -> None:
        for number, logged in events.items():
            event = logged.event
            all_of_them = Event(
                event.namespace, event.name, event.payload, (), event.rooms, (), event.emitted_at
            )
            events[number] = type(logged)(number, all_of_them)
        missed_page(self, replay, page, events, built)

    patch.setattr(Replayer, "_send_page", to_everybody)


def offsets_of_a_lost_future_are_believed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Boots, "check", lambda self, place, head: place)


def offsets_are_given_out_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimulatedLog, "place", lambda self, number: Place(self.disk.boots[0].boot, number))
    patch.setattr(SimulatedLog, "origin", SimulatedLog.place)


def events_are_sent_before_they_are_stored(patch: pytest.MonkeyPatch) -> None:
    apply, process = Emit.apply, Dispatcher._process

    async def too_early(self: Dispatcher, groups: list[Sequence[Turn]]) -> None:
        for group in groups:
            for turn in group:
                if isinstance(turn, Emit) and turn.event.name == "e":
                    self.position += 1
                    apply(turn, self)
        self.outbox.flush()
        await process(self, groups)

    patch.setattr(Dispatcher, "_process", too_early)
    patch.setattr(Emit, "apply", lambda self, dispatcher: None)


def a_departure_confirms_what_never_arrived(patch: pytest.MonkeyPatch) -> None:
    changes = Away.changes

    def confirm_all(self: Away, registry: Registry) -> Sequence[Change]:
        return [
            SessionAway(c.namespace, c.sid, c.disconnected_at, c.away_since, 10**6)
            for c in changes(self, registry)
            if isinstance(c, SessionAway)
        ]

    patch.setattr(Away, "changes", confirm_all)


def a_heartbeat_confirms_what_a_replay_has_not_sent_yet(patch: pytest.MonkeyPatch) -> None:
    def mark_all(self: Connection, position: int) -> None:
        for session in self.sessions.values():
            session.mark = position

    patch.setattr(Connection, "ping_written", mark_all)


def a_pong_confirms_what_was_sent_after_its_ping(patch: pytest.MonkeyPatch) -> None:
    live = {State.LIVE}

    def confirm_all(self: Wire) -> None:
        for session in self.sessions.values():
            session.confirm(WORLDS[-1].dispatcher.position if session.state in live else session.mark)

    patch.setattr(Wire, "pong_received", confirm_all)


def events_are_pruned_by_age_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Retention, "floor", lambda self: self._dispatcher.position)


def a_turn_of_a_batch_that_failed_takes_effect(patch: pytest.MonkeyPatch) -> None:
    async def anyway(self: Dispatcher, batch: list[Turn], error: StoreError) -> None:
        await self._apply(batch, [self.position] * len(batch))

    patch.setattr(Dispatcher, "_refuse_all", anyway)


def the_skipped_receive_it_too(patch: pytest.MonkeyPatch) -> None:
    broadcast = Outbox.broadcast
    patch.setattr(Outbox, "broadcast", lambda self, who, frames: broadcast(self, (*who[:2], ()), frames))


def a_session_is_live_before_it_was_told_so(patch: pytest.MonkeyPatch) -> None:
    def eager(self: Session, connection: Connection, cursor: int) -> int:
        claim = attach(self, connection, cursor)
        self.state = State.LIVE
        return claim

    attach = Session.attach
    patch.setattr(Session, "attach", eager)


def a_late_acceptance_of_an_older_claim_counts(patch: pytest.MonkeyPatch) -> None:
    apply = Accept.apply

    def whoever(self: Accept, dispatcher: Dispatcher) -> bool:
        self.claim = self.session.claim
        return apply(self, dispatcher)

    patch.setattr(Accept, "apply", whoever)
    patch.setattr(Connection, "abort", lambda self, reason: None)


def closing_a_room_forgets_who_is_away(patch: pytest.MonkeyPatch) -> None:
    changes = CloseRoom.changes

    def only_present(self: CloseRoom, registry: Registry) -> Sequence[Change]:
        here = {session.sid for session in registry if session.connection is not None}
        return [change for change in changes(self, registry) if getattr(change, "sid", None) in here]

    patch.setattr(CloseRoom, "changes", only_present)


BREAKS: list[Break] = [
    rooms_past_leaks_to_who_joins,
    what_was_in_flight_before_a_leave_is_lost,
    a_second_join_moves_the_beginning,
    the_first_event_of_the_tail_is_skipped_when_going_live,
    the_last_event_is_sent_again_on_recovery,
    a_replay_takes_no_notice_of_the_skipped,
    offsets_of_a_lost_future_are_believed,
    offsets_are_given_out_twice,
    events_are_sent_before_they_are_stored,
    a_departure_confirms_what_never_arrived,
    a_heartbeat_confirms_what_a_replay_has_not_sent_yet,
    a_pong_confirms_what_was_sent_after_its_ping,
    events_are_pruned_by_age_alone,
    a_turn_of_a_batch_that_failed_takes_effect,
    the_skipped_receive_it_too,
    a_session_is_live_before_it_was_told_so,
    closing_a_room_forgets_who_is_away,
]


def play_many_by_chance(first_seed: int, count: int) -> None:
    for seed in range(first_seed, first_seed + count):
        play_by_chance(seed)


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.__name__.replace("_", " "))
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("unmeasured")
def test_a_core_in_which_one_thing_is_broken_is_found_out(
    broken: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        play_many_by_chance(0, 20_000)


@pytest.mark.timeout(0)
def test_what_hypothesis_finds_it_prints_as_a_short_program(monkeypatch: pytest.MonkeyPatch) -> None:
    a_session_is_live_before_it_was_told_so(monkeypatch)
    with pytest.raises(AssertionError) as found:
        play(1_000, [Phase.generate, Phase.shrink], derandomize=True)
    program = [note for note in found.value.__notes__ if note.startswith("state.")]
    assert "state.begin" in program[0] and program[-1] == "state.teardown()" and len(program) < 10
