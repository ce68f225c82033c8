"""The index of live sessions gives the recipients that a walk over all sessions gives."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from socketio_eventlog.events import Offset, Room
from socketio_eventstore.core.recovery import hash_pid
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import ClientConnection, Session, State
from support.core import Recorder

NAMESPACES = ("/", "/other")
ROOMS: tuple[Room, ...] = ("a", "b", 3, "s1")
"""``s1`` is the sid of the second session, too."""
ADDRESSES: tuple[tuple[Room, ...] | None, ...] = (
    *(None, (), ("a",), ("b",), (3,), ("a", "b", 3), ("nobody's",)),
    *(("s0",), ("s1",), ("s2",), ("s1", "a"), ("a", "s0", "s2")),
)

ANY = st.integers(0, 9)


def walk(
    registry: Registry, namespace: str, rooms: Sequence[Room] | None, skip: Sequence[str]
) -> Collection[ClientConnection]:
    """The recipients of an event, found without an index."""
    return [
        session.current.connection
        for session in registry
        if session.namespace == namespace
        and session.state is State.LIVE
        and session.sid not in skip
        and session.current.connection is not None
        and (rooms is None or any(room == session.sid or room in session.joined for room in rooms))
    ]


class Histories(RuleBasedStateMachine):
    """Sessions that come, join, leave, go and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.opened = 0
        self.position = 0

    def one(self, number: int, *states: State) -> Session | None:
        """Any of the sessions in these states; None when there is none."""
        found = [session for session in self.registry if session.state in states]
        return found[number % len(found)] if found else None

    @rule(namespace=st.sampled_from(NAMESPACES))
    def open(self, namespace: str) -> None:
        sid = f"s{self.opened}"
        self.opened += 1
        session = Session(namespace, sid, hash_pid(sid), Offset("boot", self.position))
        self.registry.add(session)
        session.attach(Recorder(sid))

    @rule(number=ANY)
    def accept(self, number: int) -> None:
        if (session := self.one(number, State.CONNECTING)) is not None:
            session.move(State.REPLAYING)

    @rule(number=ANY)
    def go_live(self, number: int) -> None:
        if (session := self.one(number, State.REPLAYING)) is not None:
            self.registry.go_live(session)

    @rule(number=ANY, to=st.sampled_from([State.AWAY, State.ELSEWHERE]))
    def detach(self, number: int, to: State) -> None:
        if (session := self.one(number, *State)) is not None:
            self.registry.detach(session)
            session.move(to)

    @rule(number=ANY)
    def claim(self, number: int) -> None:
        if (session := self.one(number, *State)) is not None:
            self.registry.detach(session)
            session.move(State.CONNECTING)
            session.attach(Recorder(session.sid), recovered=True)

    @rule(number=ANY)
    def end(self, number: int) -> None:
        if (session := self.one(number, *State)) is not None:
            self.registry.detach(session)
            session.move(State.ENDED)
            self.registry.remove(session)

    @rule(number=ANY, room=st.sampled_from(ROOMS))
    def join(self, number: int, room: Room) -> None:
        if (session := self.one(number, *State)) is not None:
            self.registry.enter(session, room, self.position)

    @rule(number=ANY, room=st.sampled_from(ROOMS))
    def leave(self, number: int, room: Room) -> None:
        if (session := self.one(number, *State)) is not None:
            self.registry.leave(session, room, self.position)

    @rule(namespace=st.sampled_from(NAMESPACES), room=st.sampled_from(ROOMS))
    def close_room(self, namespace: str, room: Room) -> None:
        for session in list(self.registry.rooms.get((namespace, room), {})):
            self.registry.leave(session, room, self.position)

    @precondition(lambda self: self.opened)
    @rule()
    def emit(self) -> None:
        self.position += 1

    @invariant()
    def index_agrees_with_a_walk(self) -> None:
        for namespace in NAMESPACES:
            for rooms in ADDRESSES:
                for skip in ((), ("s0", "s2")):
                    found = list(self.registry.recipients(namespace, rooms, skip))
                    expected = walk(self.registry, namespace, rooms, skip)
                    assert len(found) == len(set(found)) and set(found) == set(expected), (rooms, skip)

    @invariant()
    def index_keeps_nothing(self) -> None:
        if not any(session.state is State.LIVE for session in self.registry):
            assert self.registry._live == {}


Histories.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestIndexOfLiveSessions = Histories.TestCase
