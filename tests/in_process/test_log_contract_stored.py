"""The contract of ``Log``, for every durable engine: what another life of the process finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from socketio_eventlog.changes import EventHandled, Heartbeat, Pruned
from socketio_eventlog.errors import ConditionFailed
from socketio_eventlog.session_changes import (
    DataSaved,
    RoomLeft,
    SessionAway,
    SessionBound,
    SessionClaimed,
    SessionOpened,
    SessionResumed,
    TokenAccepted,
)
from socketio_eventlog.snapshot import Membership
from support.log_engines import DURABLE, Open
from support.storing import Clock, always, append, commit, event, joined, left, session

HANDLED = EventHandled("/", "buy", "ann", "key", "[1]")


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture(params=DURABLE)
def reopen(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Open:
    """Opens the log of an engine, each time as another life of the process."""
    return DURABLE[request.param](tmp_path, clock)


async def test_another_life_finds_the_sessions(reopen: Open, clock: Clock) -> None:
    async with reopen() as log:
        await log.join()
        clock.now += 1.0
        opening = SessionOpened("/", "s1", b"p" * 32, "former.7", 1_000.0, b"a" * 32)
        await commit(
            log,
            [
                event(),
                opening,
                joined("a"),
                event(),
                joined(42),
                left("a"),
                event(),
                SessionAway("/", "s1", 1, 2_000.0, 0),
            ],
        )
        clock.now += 1.0
        bound = SessionBound("/", "s1", "ann")
        resumed = SessionResumed("/", "s1", 2, 2_001.0, (DataSaved("/", "s1", '{"a":1}'), bound))
        await commit(log, [SessionClaimed("/", "s1"), resumed, session("s2")])
        first = log.node
    async with reopen() as log:
        snapshot = await log.join()
        assert [node.node for node in snapshot.nodes] == [log.node] != [first]
        found, second = snapshot.sessions
        assert (found.sid, found.pid_hash, found.auth_hash) == ("s1", b"p" * 32, b"a" * 32)
        assert (str(found.start), found.former_offset, found.confirmed) == (f"{first}.1", "former.7", 1)
        assert (found.data, found.identity) == ('{"a":1}', "ann")
        assert (found.claim, found.node, found.away_since) == (2, None, snapshot.uptime)
        assert set(found.memberships) == {Membership("a", 1, 2), Membership(42, 2, None)}
        assert (second.sid, second.claim, second.node) == ("s2", 1, None)
        assert snapshot.position == log.head == 3


async def test_a_token_is_stored_with_its_rooms(reopen: Open) -> None:
    """A token's end and rooms are stored, and a room may be left at an earlier sequence."""
    async with reopen() as log:
        await log.join()
        await commit(log, [session(), token_of("s1"), joined("a"), session("s2"), event(), event()])
        renewed = TokenAccepted("/", "s1", None, ())
        left_then = SessionResumed("/", "s1", 2, 2_001.0, (renewed, RoomLeft("/", "s1", "a", through=1)))
        await commit(log, [SessionClaimed("/", "s1"), left_then, session("s3"), token_of("s3")])
    async with reopen() as log:
        first, second, third = (await log.join()).sessions
        assert (first.token_expires_at, first.token_rooms) == (None, ())
        assert first.memberships == (Membership("a", 0, 1),)
        assert (second.token_expires_at, second.token_rooms) == (None, None)
        assert (third.token_expires_at, third.token_rooms) == (2_000.5, ("a", 7))


def token_of(sid: str) -> TokenAccepted:
    return TokenAccepted("/", sid, 2_000.5, ("a", 7))


async def test_an_append_is_stored_whole_or_not(reopen: Open) -> None:
    async with reopen() as log:
        await log.join()
        await commit(log, [HANDLED])
        with pytest.raises(ConditionFailed):
            await log.append([event(), session(), HANDLED])
        start, sequence = await commit(log, [session("s2"), event(rooms=("a",))])
        assert start == 0
    async with reopen() as log:
        assert [stored.sid for stored in (await log.join()).sessions] == ["s2"]
        assert [logged.sequence for logged in await log.read([1, 2])] == [sequence]
        assert (await log.missed("/", always("a"), 0, 2)).sequences == (sequence,)
        assert await log.acknowledgement("/", "buy", "ann", "key") == "[1]"


async def test_pruned_events_are_gone(reopen: Open) -> None:
    async with reopen() as log:
        await log.join()
        await commit(log, [event(rooms=("a",), emitted_at=9e9)] * 5)
        await commit(log, [Pruned(3)])
        assert (log.pruned_through, log.head) == (3, 5)
        assert (await log.missed("/", always("a"), 0, 5)).sequences == (4, 5)
    async with reopen() as log:
        snapshot = await log.join()
        assert (log.pruned_through, snapshot.nodes[0].floor) == (3, 3)
        assert [logged.sequence for logged in await log.read(range(6))] == [4, 5]


async def test_noted_positions_are_found(reopen: Open, clock: Clock) -> None:
    noting = Heartbeat(applied=0, floor=0, notes_position=True)
    async with reopen() as log:
        await log.join()
        for _ in range(2):
            clock.now += 1.0
            await commit(log, [event(), noting])
    async with reopen() as log:
        snapshot = await log.join()
        assert snapshot.positions == ((1.0, 1), (2.0, 2))
        assert snapshot.uptime == 2.0
        clock.now += 1.0
        assert (await append(log, [event()])).uptime == 3.0


async def test_a_summary_of_missed_events(reopen: Open) -> None:
    """A summary says of the limits and of the ends what the list of missed events says."""
    async with reopen() as log:
        await commit(log, [event(rooms=(room,)) for room in "xabax"])
        missed = await log.missed("/", always("a", "b"), 0, 5)
        assert missed.sequences == (2, 3, 4)
        for count, size_bytes, exceeds in [(3, 0, False), (2, 0, True), (3, 1, True)]:
            summary = await log.summarise_missed(
                "/", always("a", "b"), 0, 5, max_events=count, max_bytes=missed.size_bytes - size_bytes
            )
            assert summary.exceeds is exceeds
            assert (summary.ranges[0][0], summary.ranges[-1][1]) == (2, 4)
        nothing = await log.summarise_missed("/", always("c"), 0, 5, max_events=0, max_bytes=0)
        assert (nothing.ranges, nothing.exceeds) == ((), False)


async def test_the_times_of_events(reopen: Open) -> None:
    """The times come without the events, ascending, and absent events are left out."""
    async with reopen() as log:
        await log.join()
        await commit(log, [event(emitted_at=1_000.0 + number) for number in range(4)])
        await commit(log, [Pruned(1)])
        assert await log.emission_times([4, 1, 3, 3, 99]) == [(3, 1_002.0), (4, 1_003.0)]
        assert await log.emission_times([]) == []
