"""The rules of the state machine, for hypothesis and for random histories."""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from socketio_eventlog.errors import StoreError
from socketio_eventlog.events import Event, Room
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.core.operations import CloseRoom, Emit, EmitVolatile, JoinRoom, LeaveRoom, SaveData
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import Session, State
from support.simulated_network import NAMESPACES, Client
from support.simulated_server import ROOMS
from support.simulated_store import REJECTED
from support.simulated_world import World
from support.steps import CHOICES, step


class Histories(RuleBasedStateMachine):
    """The steps of the world, in any order."""

    world: World

    @initialize(durable=st.booleans(), connected=st.sampled_from(CHOICES["connected"]))
    def begin(self, durable: bool, connected: int) -> None:
        self.world = World(durable=durable)
        self.passing: list[tuple[int, Callable[[], None]]] = []
        self.steps = 0
        for client in self.world.clients[:connected]:
            self._reconnect(client)
        self.sync_the_disk()

    # The application --------------------------------------------------------------------------------

    @step(4)
    def emit(self, kind: str, number: int, room: Room) -> None:
        self.world.submit(Emit(self._event(kind, number, room)))

    @step(2)
    def emit_many(self, kind: str, number: int, room: Room) -> None:
        """More events than the recent events in memory, and more than a page."""
        event = self._event(kind, number, room)
        for _ in range(4):
            self.world.submit(Emit(self._renamed(event)))

    @step()
    def emit_what_the_store_rejects(self, kind: str, number: int, room: Room) -> None:
        """A good and a rejected event in a transaction, between good events."""
        event, rejected = (self._event(kind, number, room, name=name) for name in ("e", REJECTED))
        for group in ([event], [event, rejected], [event]):
            self.world.submit(*[Emit(self._renamed(event)) for event in group])

    @step()
    def emit_volatile(self, kind: str, number: int, room: Room) -> None:
        self.world.submit(EmitVolatile(self._event(kind, number, room, name="volatile")))

    @step(4)
    def join(self, number: int, room: Room) -> None:
        if (session := self._session(number)) is not None:
            self.world.submit(JoinRoom(session, room))

    @step(2)
    def leave(self, number: int, room: Room) -> None:
        if (session := self._session(number)) is not None:
            self.world.submit(LeaveRoom(session, room))

    @step()
    def join_emit_and_leave_in_one_transaction(self, number: int, room: Room) -> None:
        if (session := self._session(number)) is not None:
            event = self._event("room", number, room)
            self.world.submit(JoinRoom(session, room), Emit(event), LeaveRoom(session, room))

    @step()
    def join_emit_and_close_in_one_transaction(self, number: int, room: Room) -> None:
        if (session := self._session(number)) is not None:
            event = self._event("room", number, room)
            closing = CloseRoom(session.namespace, room)
            if self.world.submit(JoinRoom(session, room), Emit(event), closing):
                self._is_empty(session.namespace, room)

    @step()
    def close_room(self, namespace: str, room: Room) -> None:
        if self.world.submit(CloseRoom(namespace, room)):
            self._is_empty(namespace, room)

    def _is_empty(self, namespace: str, room: Room) -> None:
        members = [key for key, rooms in self.world.twins.present.items() if room in rooms]
        assert namespace not in [other for other, _ in members], "a closed room has members"

    @step()
    def save(self, number: int) -> None:
        if (session := self._session(number)) is not None:
            self.world.submit(SaveData(session, f'{{"saved":{next(self.world.ids)}}}'))

    @step()
    def end(self, number: int, farewell: bool) -> None:
        world = self.world
        if (session := self._session(number)) is not None and number % 2:
            world.ended.add((session.namespace, session.sid))
            reason = SessionEnd.DISCONNECTED if farewell else SessionEnd.REVOKED
            world.do(world.server.departures.end(EndSession(session, reason)))

    @step()
    def decide(self, number: int, accept: bool) -> None:
        """The connect handler of a client returns."""
        self._decide(self.world.clients[number], accept=accept)

    @step()
    def decide_about_a_zombie(self, number: int, accept: bool) -> None:
        for wire in self.world.zombies[number : number + 1]:
            if wire.decision is not None and not wire.decision.done():
                wire.decision.set_result(accept)
        self.world.loop.run_until_idle()

    # The network ------------------------------------------------------------------------------------

    @step()
    def connect(self, number: int) -> None:
        client = self.world.clients[number]
        if client.wire is None:
            self.world.connect(client, self.world.server)

    @step(3)
    def reconnect_at_once(self, number: int) -> None:
        """The usual reconnection: connect, be accepted, take the first packet."""
        self._reconnect(self.world.clients[number])

    @step(3)
    def reconnect_all(self) -> None:
        for client in self.world.clients:
            self._reconnect(client)

    @step(3)
    def deliver_everything(self) -> None:
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
    def ping_and_deliver(self, number: int) -> None:
        self.world.ping(self.world.clients[number])
        self.world.deliver(self.world.clients[number], 1_000)

    @step()
    def crowd(self, number: int, steps: int) -> None:
        """A client reads no packet for some steps."""
        if (wire := self.world.clients[number].wire) is not None:
            wire.crowded = True
            self._until(steps, lambda: setattr(wire, "crowded", False))

    # The disk and the clocks ------------------------------------------------------------------------

    @step()
    def pause_the_disk(self, which: str, steps: int) -> None:
        """Commits or reads wait for some steps."""
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
            self.reconnect_all()

    @step()
    def sync_the_disk(self) -> None:
        """A checkpoint, or a sync by the operating system."""
        self.world.disk.synced = len(self.world.disk.entries)

    @step()
    def pass_time(self, seconds: float, sweep: bool) -> None:
        """Without sweeps the server stands still, and the time does not count for sessions."""
        while sweep and seconds > 0.0:
            self.world.wait(min(seconds, 2.0))
            self.sweep()
            seconds -= 2.0
        self.world.wait(max(seconds, 0.0))

    @step()
    def sweep(self) -> None:
        """Sessions expire and events are pruned."""
        self.world.server.sweep()

    # ------------------------------------------------------------------------------------------------

    @invariant()
    def invariants_hold(self) -> None:
        if hasattr(self, "world"):
            self.steps += 1
            for step, end in [*self.passing]:
                if step <= self.steps:
                    self.passing.remove((step, end))
                    end()
            self.world.loop.run_until_idle()
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.finish()
            finally:
                self.close()

    def close(self) -> None:
        self.world.stop()
        self.world.loop.close()

    def finish(self) -> None:
        """After any history, every client can connect and has the events of the twin."""
        world = self.world
        world.check()
        world.log.failures.clear()
        self._release()
        for client in world.clients:
            if client.wire is not None:
                client.wire.crowded = False
        for _ in range(3):  # a transport may turn out to be closed
            for client in world.clients:
                if client.wire is None:
                    world.connect(client, world.server)
                self._decide(client, accept=True)
                world.deliver(client, 1_000)
                world.check()
        world.submit(Emit(self._renamed(Event("/", "e", "[]", (), None, (), world.seconds))))
        for client in world.clients:
            world.deliver(client, 1_000)
            assert client.connected, f"a client that cannot reconnect: {client}"
            assert client.received == world.expected(client), f"{client.key} misses an event at the end"
            session = world.server.registry.get(*client.key)
            assert session is not None and session.state is State.LIVE
            assert session.data == world.twins.data[client.key]
            assert {client.sid, *session.joined} == world.twins.present[client.key]
        world.check()

    def _until(self, steps: int, end: Callable[[], None]) -> None:
        """Call a function after so many more steps."""
        self.passing.append((self.steps + 1 + steps, end))

    def _reconnect(self, client: Client) -> None:
        if client.wire is None:
            self.world.connect(client, self.world.server)
        self._decide(client, accept=True)
        self.world.deliver(client, 1)

    def _release(self) -> None:
        self.world.log.commits.open()
        self.world.log.reads.open()
        self.world.loop.run_until_idle()

    def _decide(self, client: Client, *, accept: bool) -> None:
        if client.wire is not None and (decision := client.wire.decision) is not None:
            if not decision.done():
                decision.set_result(accept)
                if not accept:
                    self.world.refused.add(client.wire.id)
            self.world.loop.run_until_idle()

    def _session(self, number: int) -> Session | None:
        """The owned or claimed session of a client."""
        client = self.world.clients[number]
        if client.wire is not None and client.namespace in client.wire.sessions:
            return client.wire.sessions[client.namespace]
        return self.world.server.registry.get(*client.key)

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
