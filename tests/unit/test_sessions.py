from __future__ import annotations

from collections import deque
from itertools import product
from typing import Any

import pytest

from socketio_eventlog.events import Offset
from socketio_eventlog.snapshot import Membership, StoredSession
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.recovery import hash_pid
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import Session, State
from support.core import Recorder
from support.storing import event


def session(sid: str = "s1", *, namespace: str = "/", start: int = 0, state: State = State.LIVE) -> Session:
    return Session(namespace, sid, hash_pid(sid), Offset("boot", start), state=state)


def sids(registry: Registry, *rooms: str | int, namespace: str = "/") -> list[str]:
    return [found.sid for found in registry.members(namespace, rooms)]


# Membership -----------------------------------------------------------------------------------------


def test_member_receives_from_its_join_to_its_leave() -> None:
    """A member receives the events after its join, up to its leave."""
    member = session()
    member.enter("room", 5)
    member.leave("room", 9)
    received = [sequence for sequence in range(1, 15) if member.receives(event(rooms=("room",)), sequence)]
    assert received == [6, 7, 8, 9]


def test_rejoining_member_misses_the_events_between() -> None:
    """A member that rejoins misses only the events between."""
    member = session()
    for position, change in [(1, member.enter), (3, member.leave), (5, member.enter), (7, member.leave)]:
        change("room", position)
    received = [sequence for sequence in range(1, 10) if member.receives(event(rooms=("room",)), sequence)]
    assert received == [2, 3, 6, 7]


def test_leave_and_rejoin_at_one_position() -> None:
    """A member that leaves and rejoins at one position misses no event."""
    member = session()
    member.enter("room", 1)
    member.leave("room", 4)
    member.enter("room", 4)
    assert all(member.receives(event(rooms=("room",)), sequence) for sequence in range(2, 9))


def test_join_and_leave_at_one_position() -> None:
    """A membership that begins and ends at one position is not recorded."""
    member = session()
    member.enter("room", 4)
    member.leave("room", 4)
    assert member.joined == {} and member.left == []


def test_repeated_join_and_leave_change_nothing() -> None:
    """A second join does not move the beginning, a second leave does not move the end."""
    member = session()
    member.enter("room", 1)
    member.enter("room", 5)
    member.leave("room", 7)
    member.leave("room", 9)
    assert member.left == [Membership("room", 1, 7)]


def test_leave_without_membership_changes_nothing() -> None:
    """Leaving a room without a membership changes nothing."""
    member = session()
    member.leave("room", 7)
    assert member.joined == {} and member.left == []


def test_session_receives_events_since_its_start() -> None:
    """A session receives the events to all and to its sid since its start."""
    member = session(start=5)
    assert [member.receives(event(), sequence) for sequence in (5, 6)] == [False, True]
    assert [member.receives(event(rooms=("s1", "x")), sequence) for sequence in (5, 6)] == [False, True]
    assert not member.receives(event(rooms=("s2",)), 6)
    assert not member.receives(event(rooms=()), 6)
    assert not member.receives(event(skip=("s1",)), 6)
    assert not member.receives(event(namespace="/other"), 6)


def test_text_and_number_are_rooms_of_their_own() -> None:
    member = session()
    member.enter("42", 0)
    assert member.receives(event(rooms=("42",)), 1) and not member.receives(event(rooms=(42,)), 1)


def test_memberships_agree_with_receives() -> None:
    """``memberships`` and ``receives`` agree."""
    member = session(start=2)
    member.enter("a", 3)
    member.leave("a", 6)
    member.enter("a", 8)
    member.enter(42, 4)
    for sequence, rooms in product(range(1, 12), [None, ("a",), (42,), ("s1",), ("b", "a"), ("b",)]):
        covered = any(
            stay.covers(sequence) and (stay.room is None if rooms is None else stay.room in rooms)
            for stay in member.memberships()
        )
        assert covered == member.receives(event(rooms=rooms), sequence), (sequence, rooms)


def test_confirm_drops_earlier_memberships() -> None:
    """``confirm`` drops the memberships that ended before the position."""
    member = session()
    for room, after, through in [("a", 1, 3), ("b", 2, 5)]:
        member.enter(room, after)
        member.leave(room, through)
    member.confirm(3)
    assert member.left == [Membership("b", 2, 5)] and member.confirmed == 3
    member.confirm(2)
    assert member.confirmed == 3


# The registry ---------------------------------------------------------------------------------------


def test_members_by_room_sid_and_namespace() -> None:
    """Members are found by room, by sid and by namespace, each once."""
    registry = Registry()
    one, two, other = session("one"), session("two"), session("one", namespace="/other")
    for member in (one, two, other):
        registry.add(member)
        registry.enter(member, "room", 0)
    registry.enter(one, "second", 0)
    registry.enter(two, 42, 0)
    assert sids(registry, "room") == ["one", "two"]
    assert sids(registry, "second", "room") == ["one", "two"]
    assert sids(registry, "two", "room") == ["two", "one"]
    assert sids(registry, 42) == ["two"] and sids(registry, "42") == []
    assert [found.sid for found in registry.members("/", None)] == ["one", "two"]
    assert list(registry.members("/other", None)) == [other]
    assert list(registry.members("/nowhere", None)) == [] and sids(registry, "room", namespace="/x") == []
    assert list(registry) == [one, two, other]


def test_sessions_that_are_away_are_members_as_well() -> None:
    registry, away = Registry(), session(state=State.AWAY)
    registry.add(away)
    registry.enter(away, "room", 0)
    assert sids(registry, "room") == ["s1"] and sids(registry, "s1") == ["s1"]


def test_restored_session_has_its_rooms() -> None:
    """A session that is restored from the store has its rooms."""
    stays = (Membership("a", 3, None), Membership(42, 4, None), Membership("b", 1, 6))
    stored = StoredSession(
        "/", "s1", hash_pid("p"), Offset("old", 2), "older.9", '{"a":1}', 7.5, 5, stays, identity="Ada"
    )
    registry, restored = Registry(), Session.restore(stored)
    registry.add(restored)
    assert (restored.state, restored.away_since, restored.confirmed) == (State.AWAY, 7.5, 5)
    assert (restored.former_offset, restored.data, restored.identity) == ("older.9", '{"a":1}', "Ada")
    assert sids(registry, "a") == sids(registry, 42) == ["s1"] and sids(registry, "b") == []
    assert set(stays) <= set(restored.memberships())
    assert registry.with_pid(hash_pid("p")) is restored


def test_registry_keeps_nothing_of_a_removed_session() -> None:
    """The registry keeps nothing of a removed session."""
    registry, gone, kept = Registry(), session("gone"), session("kept")
    for member in (gone, kept):
        registry.add(member)
        registry.enter(member, "room", 0)
    registry.enter(gone, "own", 0)
    registry.remove(gone)
    registry.remove(gone)
    assert registry.get("/", "gone") is None and registry.with_pid(hash_pid("gone")) is None
    assert sids(registry, "room") == ["kept"] and sids(registry, "own") == sids(registry, "gone") == []
    registry.remove(kept)
    assert registry.namespaces == {} and registry.rooms == {}


def test_last_leave_removes_the_room() -> None:
    """A leave removes the session from its room; the last leave removes the room."""
    registry, member = Registry(), session()
    registry.add(member)
    registry.enter(member, "room", 0)
    registry.leave(member, "room", 3)
    assert sids(registry, "room") == [] and registry.rooms == {}
    assert member.receives(event(rooms=("room",)), 3)
    registry.leave(member, "room", 5)
    assert registry.rooms == {}


@pytest.mark.parametrize("sid", [None, 42, ["s1"], b"s1", "nobody"])
def test_get_finds_no_session_for_an_invalid_sid(sid: object) -> None:
    """``get`` finds no session for a value that is not a sid of the namespace."""
    registry = Registry()
    registry.add(session())
    assert registry.get("/", sid) is None
    assert registry.get("/other", "s1") is None


def test_pid_of_an_ended_session_opens_nothing() -> None:
    """The pid of an ended session opens nothing."""
    registry, over = Registry(), session()
    registry.add(over)
    over.move(State.ENDED)
    assert registry.with_pid(hash_pid("s1")) is None
    assert registry.with_pid(hash_pid("nobody")) is None


# States ---------------------------------------------------------------------------------------------

WITHOUT_CONNECTION = {State.CONNECTING, State.AWAY, State.ELSEWHERE, State.ENDED}
ALLOWED = {
    State.CONNECTING: {State.REPLAYING, *WITHOUT_CONNECTION},
    State.REPLAYING: {State.LIVE, *WITHOUT_CONNECTION},
    State.LIVE: WITHOUT_CONNECTION,
    State.AWAY: WITHOUT_CONNECTION,
    State.ELSEWHERE: WITHOUT_CONNECTION,
    State.ENDED: set[State](),
}


@pytest.mark.parametrize(("before", "after"), list(product(State, State)))
def test_session_makes_only_allowed_transitions(before: State, after: State) -> None:
    """A session makes only the allowed transitions between states."""
    member = session(state=before)
    if after in ALLOWED[before]:
        member.move(after)
        assert member.state is after
    else:
        with pytest.raises(RuntimeError, match=f"s1 cannot go from {before.name} to {after.name}"):
            member.move(after)
        assert member.state is before


# Connections ----------------------------------------------------------------------------------------


def test_connection_has_the_claim_of_its_session() -> None:
    """A connection that gets a session has the last claim of it, and the confirmed events."""
    member, old, new = session(), Recorder("old"), Recorder("new")
    first = member.attach(old)
    member.detach()
    member.claim = 2
    member.confirm(5)
    second = member.attach(new, recovered=True)
    assert member.current is second is not first and (first.claim, second.claim) == (1, 2)
    assert (old.sessions, new.sessions) == ({}, {"/": member})
    assert (first.connection, second.connection, second.sent, second.recovered) == (None, new, 5, True)


def test_detach_drops_deferred_packets() -> None:
    """``detach`` drops the deferred packets of the connection."""
    member, connection = session(), Recorder()
    attached = member.attach(connection)
    attached.deferred_packets = deque([(1, Frames("4x"))])
    attached.deferred_bytes = 2
    assert member.detach() is connection
    assert (attached.connection, connection.sessions) == (None, {})
    assert not attached.deferred_packets and attached.deferred_bytes == 0
    assert member.detach() is None


def test_connection_has_one_session_per_namespace() -> None:
    """A connection carries one session in each namespace."""
    connection, main, other = Recorder(), session(), session(namespace="/other")
    main.attach(connection)
    other.attach(connection)
    main.detach()
    assert connection.sessions == {"/other": other}


def test_pong_confirms_the_pinged_position() -> None:
    """A pong confirms the events that were sent before its ping."""
    member, connection = session(), Recorder()
    member.attach(connection)
    member.state = State.LIVE
    connection.ping_written(7, now=5.0)
    assert member.confirmed == member.pong_at == 0
    connection.pong_received()
    assert (member.confirmed, member.pong_at) == (7, 5.0)


def test_pong_in_a_replay_confirms_replayed_events() -> None:
    """A pong during a replay confirms only the events that the replay had sent."""
    member, connection = session(), Recorder()
    member.attach(connection)
    member.state, member.current.sent = State.REPLAYING, 5
    connection.ping_written(100, now=5.0)
    member.current.sent = 9
    connection.pong_received()
    assert member.confirmed == 5


def test_a_ping_before_the_acceptance_confirms_nothing() -> None:
    member, connection = session(state=State.CONNECTING), Recorder()
    member.confirm(2)
    member.attach(connection).sent = 8
    connection.ping_written(100, now=5.0)
    connection.pong_received()
    assert (member.confirmed, member.pong_at) == (2, 0.0)


def test_pong_of_a_former_connection_is_ignored() -> None:
    """A pong of a former connection confirms nothing."""
    member, old, new = session(), Recorder("old"), Recorder("new")
    member.attach(old)
    member.state = State.LIVE
    old.ping_written(7, now=5.0)
    member.detach()
    member.attach(new)
    old.pong_received()
    new.pong_received()
    assert member.confirmed == 0


# Suspicion ------------------------------------------------------------------------------------------


def visit(away: Session, first: int, *, in_order: bool = True, seconds: float = 1.0, pong: int = 0) -> None:
    """A recovered connection on which this event came first, until its end."""
    connection = Recorder()
    connection.closed_in_order = in_order
    attached = away.attach(connection, recovered=True)
    attached.first_sent, attached.accepted_at = first, 100.0
    away.move(State.CONNECTING)
    away.move(State.REPLAYING)
    away.confirm(pong)
    away.transport_closed(100.0 + seconds)
    away.detach()
    away.move(State.AWAY)


BREAKS_THE_ROW: list[dict[str, Any]] = [
    {"first": 7, "in_order": False},
    {"first": 7, "seconds": 2.1},
    {"first": 8},
    {"first": 0},
    {"first": 7, "pong": 7},
]


@pytest.mark.parametrize("between", BREAKS_THE_ROW)
def test_three_closes_in_a_row_confirm_a_suspicion(between: dict[str, Any]) -> None:
    """Three closes in order on the same first event make it poison; any other end begins anew."""
    suspect = session(state=State.AWAY)
    for _ in range(2):
        visit(suspect, 7)
    assert not suspect.suspected.is_confirmed(6)
    visit(suspect, **between)
    assert not suspect.suspected.is_confirmed(6)
    if "pong" in between:
        return
    for _ in range(3):
        visit(suspect, 7)
    assert suspect.suspected.is_confirmed(6) and not suspect.suspected.is_confirmed(7)
