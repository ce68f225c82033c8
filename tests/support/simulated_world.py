"""Server, disk, network and clients in one world, and the invariants that they must keep."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections import defaultdict
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

from socketio_eventlog.errors import StoreError
from socketio_eventlog.log import Log
from socketio_eventlog.records import Change, Room, SessionAway, SessionResumed
from socketio_eventstore.adapter.admission import Admission
from socketio_eventstore.adapter.application import Application
from socketio_eventstore.adapter.departures import Departures
from socketio_eventstore.adapter.handlers import HandlerCalls
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.fan_out import FanOut
from socketio_eventstore.core.flush_schedule import FlushSchedule
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operation import Context, Operation
from socketio_eventstore.core.options import Options
from socketio_eventstore.core.packets import TextEncoder
from socketio_eventstore.core.recent_events import RecentEvents
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.replay import Replayer
from socketio_eventstore.core.retention import Retention, UptimeClock
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.session_operations import RevokeSession
from socketio_eventstore.core.sessions import Session, State
from support.simulated_network import NAMESPACES, PING, Client, VirtualLoop, Wire
from support.simulated_store import Disk, SimulatedLog, Twins, text_of

DURATION = 10.0
"""The maximum disconnection duration, in seconds."""
LIMITS = RecoveryLimits(DURATION, 10**6, 10**9, heartbeat_seconds=1.0)
ROOMS: tuple[Room, ...] = ("red", "blue", 7)


def _connect_error(namespace: str, reason: object) -> Frames:
    """CONNECT_ERROR, as python-socketio's packet class encodes it."""
    return Frames(f"44{'' if namespace == '/' else namespace + ','}{json.dumps(reason)}")


class Faults(logging.Handler):
    """Records the faults that the core logs; after a fault the core goes on for the other clients."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and not isinstance(record.exc_info[1], StoreError):
            self.texts.append(self.format(record))


LOGGED = Faults()
WORLDS: list[World] = []


class World:
    """A server on a disk, its clients, and the network between them."""

    def __init__(self, *, durable: bool) -> None:
        self.loop = VirtualLoop()
        WORLDS[:] = [self]
        self.durable = durable
        self.disk, self.twins = Disk(), Twins()
        self.seconds = 1_000.0
        self.clients = [Client(namespace, last_seen=self.seconds) for namespace in NAMESPACES]
        self.zombies: list[Wire] = []
        """Transports without a client that the server takes for open."""
        self.texts: dict[str, str] = {}
        """The text of the event of each offset."""
        self.ended: set[tuple[str, str]] = set()
        """The sessions that the application or their expiry has ended."""
        self.away_again: set[tuple[str, str]] = set()
        """The sessions whose resumption a crash has removed from the disk."""
        self.refused: set[str] = set()
        """The transports that may receive CONNECT_ERROR."""
        self.faults = LOGGED.texts
        self.faults.clear()
        self.ids = itertools.count(1)
        self.loop.set_exception_handler(lambda _, context: self.faults.append(repr(context)))
        self._tasks: list[asyncio.Task[Any]] = []
        self.start()

    # The server -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server as ``Runtime.start`` does."""
        self.log = SimulatedLog(self.disk, self.twins, f"epoch{next(self.ids)}", durable=self.durable)
        self.registry = Registry()
        log, encoder = cast("Log", self.log), TextEncoder()
        fan_out, recent_events = FanOut(self.registry), RecentEvents(self.log.head, 60)
        replayer = Replayer(log, recent_events, fan_out, encoder, max_unsent_bytes=60)
        context = Context(log, self.registry, fan_out, encoder, recent_events, replayer.begin)
        self.queue = CommitQueue(context, FlushSchedule(fan_out))
        self.recovery = Recovery(log, self.registry, LIMITS)
        self.clock = UptimeClock(self.log.uptime_at_open, lambda: self.seconds)
        now, left_open = self.clock(), list[Change]()
        for stored in self.log.load_sessions():
            if stored.away_since is None:
                left_open.append(
                    SessionAway(stored.namespace, stored.sid, self.seconds, now, stored.confirmed)
                )
            away_since = now if stored.away_since is None else min(stored.away_since, now)
            self.registry.add(Session.restore(stored, away_since))
        if left_open:  # otherwise a session could expire in this epoch and be recovered in the next
            self.loop.run_until_complete(self.log.commit(left_open))
        self.retention = Retention(
            log,
            self.queue,
            self.recovery,
            self.clock,
            expired=self._expired,
            interval_seconds=1.0,
            retention_seconds=DURATION,
            keys_retention_seconds=DURATION,
            wall_clock=lambda: self.seconds,
        )
        application, runtime = cast("Application", self._application()), cast("Runtime", self._runtime())
        calls = HandlerCalls(application)
        self.departures = Departures(application, runtime, calls)
        self.admission = Admission(application, runtime, calls, self.departures)
        self._tasks = [self.spawn(self.queue.run()), self.spawn(replayer.run())]
        self.loop.run_until_idle()

    def _runtime(self) -> SimpleNamespace:
        return SimpleNamespace(
            is_enabled=True,
            options=Options(path=None),
            log=self.log,
            registry=self.registry,
            queue=self.queue,
            recovery=self.recovery,
            clock=self.clock,
        )

    def _application(self) -> SimpleNamespace:
        """The parts of python-socketio's server that the admission needs."""
        reasons = {"CLIENT_DISCONNECT", "SERVER_DISCONNECT", "TRANSPORT_CLOSE", "TRANSPORT_ERROR"}
        return SimpleNamespace(
            serves=lambda namespace: namespace in NAMESPACES,
            new_sid=lambda: f"sid{next(self.ids)}",
            forget_callbacks=lambda sid: None,
            environ=defaultdict(dict),
            own_cookie=None,
            always_connect=False,
            call_handler=self._call_handler,
            connect_error=_connect_error,
            reason=SimpleNamespace(**{reason: reason for reason in reasons}),
        )

    async def _call_handler(self, event: str, namespace: str, sid: str, *_: object) -> bool | None:
        if event != "connect":
            return None
        session = self.registry.get(namespace, sid)
        assert session is not None and isinstance(session.current.connection, Wire)
        wire = session.current.connection
        wire.claims = (namespace, sid)
        wire.decision = self.loop.create_future()
        try:
            return await wire.decision
        finally:
            wire.decision = None

    async def _expired(self, session: Session) -> None:
        self.ended.add((session.namespace, session.sid))
        await self.queue.submit(RevokeSession(session))

    def closed(self, wire: Wire, reason: str) -> None:
        self.departures.transport_closed(cast("Any", wire), reason)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self.loop.create_task(work)

    def do(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Run work that may fail with a StoreError only; return whether it is done."""

        def check(task: asyncio.Task[Any]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, StoreError):
                self.faults.append(repr(error))

        task = self.spawn(work)
        task.add_done_callback(check)
        self.loop.run_until_idle()
        return task.done() and not task.cancelled() and task.exception() is None

    def submit(self, *operations: Operation) -> bool:
        async def submitted() -> None:
            await self.queue.submit(*operations)

        return self.do(submitted())

    def stop(self) -> None:
        """End the process and all transports."""
        for client in self.clients:
            self._hang_up(client)
        connections = (session.current.connection for session in self.registry)
        for wire in [*self.zombies, *(connection for connection in connections if connection is not None)]:
            cast("Wire", wire).closed = True
        self.zombies.clear()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_idle()

    def crash(self, keep: int, *, find_uncertain: bool) -> None:
        """Power off and on again; ``keep`` is the number of unsynced entries that are left."""
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
            lambda: self.admission.connect(cast("Any", client.wire), client.namespace, auth or None)
        )

    def _hang_up(self, client: Client) -> Wire | None:
        """Close the client's end of the transport."""
        wire, client.wire = client.wire, None
        if client.connected:
            client.last_seen = self.seconds
        client.connected = False
        if wire is not None:
            wire.in_flight.clear()
        return wire

    def cut(self, client: Client) -> None:
        """Break a transport; both ends notice it."""
        if (wire := self._hang_up(client)) is not None:
            self.loop.call(lambda: wire.close("transport close"))

    def strand(self, client: Client) -> None:
        """Break a transport; only the client notices it."""
        if (wire := self._hang_up(client)) is not None:
            self.zombies.append(wire)

    def send_disconnect(self, client: Client) -> None:
        """The Disconnect button of the tutorial: DISCONNECT; the client ignores later packets."""
        if (wire := self._hang_up(client)) is not None and not wire.closed:
            self.loop.call(lambda: self.departures.client_disconnected(cast("Any", wire), client.namespace))
            self.loop.call(lambda: wire.close("transport close"))

    def notice(self) -> None:
        """Let the server notice a transport that broke earlier."""
        if self.zombies:
            wire = self.zombies.pop(0)
            self.loop.call(lambda: wire.close("ping timeout"))

    def ping(self, client: Client) -> None:
        """Send a heartbeat as the transport does."""
        if client.wire is not None and not client.wire.closed and PING not in client.wire.in_flight:
            client.wire.write([Frames(PING)])
            client.wire.ping_written(self.queue.position, self.clock())
            client.wire.pinged_at = self.seconds

    def deliver(self, client: Client, count: int) -> None:
        """Let the client take packets, one by one."""
        self.loop.call(lambda: self._deliver(client, count))

    def _deliver(self, client: Client, count: int) -> None:
        for _ in range(count):
            wire = client.wire
            if wire is None or not wire.in_flight:
                return
            self._take(client, wire, wire.in_flight.popleft())

    def _take(self, client: Client, wire: Wire, packet: str) -> None:
        if packet == PING:
            if not wire.closed:
                wire.pong_received()
                client.answered_at = wire.pinged_at if client.connected else client.answered_at
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
                assert allowed, f"DISCONNECT to a client that was not disconnected: {client}"
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
            assert not self.must_recover(client), f"a session that must be recovered is lost: {client}"
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
        assert self.texts.setdefault(offset, text) == text, f"{offset} was given out twice"
        expected = self.expected(client)
        index = len(client.received)
        assert expected[index : index + 1] == [text], (
            f"{client.key} received {text} at index {index}, where its twin has {expected}"
        )
        client.received.append(text)

    def expected(self, client: Client) -> list[str]:
        """The texts of the twin's events."""
        return [text_of(event) for _, event in self.twins.received.get(client.key, [])]

    def must_recover(self, client: Client) -> bool:
        """Whether the server must recover the client's session."""
        if client.pid is None or client.key in self.ended or client.key not in self.twins.present:
            return False
        if client.key in self.away_again:  # its time in which to return began earlier
            return False
        if self.confirms_nothing(client):
            return False
        # The uptime clock may be slower than this clock, never faster.
        return self.seconds - client.last_seen <= DURATION and not self.is_lost(client.offset)

    def confirms_nothing(self, client: Client) -> bool:
        """Whether the client has not confirmed a missed event for too long, by offset or heartbeat."""
        missed = self.twins.received[client.key][len(client.received) :]
        too_old = self.seconds - LIMITS.max_unconfirmed_seconds
        return bool(missed) and max(missed[0][1].emitted_at, client.answered_at) <= too_old

    def is_lost(self, offset: str | None) -> bool:
        """Whether an offset lies in a future that a crash has removed."""
        if offset is None:
            return False
        epoch, _, sequence = offset.rpartition(".")
        began = {entry.epoch: entry.began_after for entry in self.disk.epochs}
        later = [entry.began_after for entry in self.disk.epochs[list(began).index(epoch) + 1 :]]
        return int(sequence) > min([*later, self.log.head])

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
        if client.connected and not wire.in_flight and session is not None and session.state is State.LIVE:
            reached = [
                text_of(event)
                for sequence, event in self.twins.received[client.key]
                if sequence <= self.queue.position
            ]
            assert client.received == reached, f"{client.key} is live and misses an event"
