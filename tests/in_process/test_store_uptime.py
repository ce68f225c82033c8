"""The uptime clock of a database, and the positions that are noted by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from socketio_eventlog.changes import Change, EventHandled, Heartbeat
from socketio_eventlog.errors import StoreRejected
from socketio_eventlog.log import HEARTBEAT_SECONDS
from socketio_eventlog.session_changes import SessionAway, SessionClaimed
from socketio_eventlog.snapshot import NodeRecord
from socketio_eventlog.sqlite import nodes
from socketio_eventlog.sqlite.log import EventLog
from support.storing import BEAT, Clock, append, commit, event, opened, session, sqlite, stored_sessions

NOTING = Heartbeat(applied=1, floor=0, notes_position=True)


@pytest.fixture
def clock() -> Clock:
    return Clock(500.0)


@pytest.fixture
async def log(path: Path, clock: Clock) -> AsyncIterator[EventLog]:
    async with opened(path, monotonic=clock) as log:
        yield log


async def uptime(log: EventLog, *changes: Change) -> float:
    return (await append(log, changes or [event()])).uptime


async def test_each_batch_has_its_uptime(log: EventLog, clock: Clock) -> None:
    assert await uptime(log) == 0.0
    for now, expected in [(501.5, 1.5), (501.5, 1.5), (505.0, 5.0)]:
        clock.now = now
        assert await uptime(log) == expected
    snapshot = await log.join()
    assert (snapshot.uptime, snapshot.batch, snapshot.nodes[0].alive) == (5.0, 4, 5.0)


async def test_a_frozen_process_is_no_service(log: EventLog, clock: Clock) -> None:
    """An hour without a batch counts as two heartbeats: no client could come back in that hour."""
    clock.now += 3600.0
    assert await uptime(log) == 2 * HEARTBEAT_SECONDS
    clock.now += 1.0
    assert await uptime(log) == 2 * HEARTBEAT_SECONDS + 1.0
    clock.now -= 1000.0
    assert await uptime(log) == 2 * HEARTBEAT_SECONDS + 1.0


async def test_a_wall_clock_jump_changes_nothing(path: Path, clock: Clock) -> None:
    wall = Clock(1e9)
    async with opened(path, monotonic=clock, wall_clock=wall) as log:
        await commit(log, [session()])
        for now in (5e9, 1.0):
            wall.now, clock.now = now, clock.now + 1.0
            await commit(log, [BEAT, SessionAway("/", "s1", 1, now, 0)])
        assert (await log.join()).uptime == 2.0
    async with opened(path, wall_clock=lambda: 7e9) as log:
        assert (await log.join()).uptime == 2.0
        assert (await stored_sessions(log))[0].away_since == 1.0


async def test_a_failed_append_moves_nothing(log: EventLog, clock: Clock) -> None:
    """The time of a failed append counts in the next one that succeeds, up to two heartbeats."""
    for _ in range(3):
        clock.now += 1.0
        with pytest.raises(StoreRejected):
            await log.append([session("\ud800")])
    assert (await log.join()).uptime == 0.0
    assert await uptime(log) == 3.0
    for _ in range(9):
        clock.now += 1.0
        with pytest.raises(StoreRejected):
            await log.append([session("\ud800")])
    assert await uptime(log) == 3.0 + 2 * HEARTBEAT_SECONDS


LAST_CHANGES: dict[str, Change] = {
    "heartbeat": BEAT,
    "noted position": NOTING,
    "away": SessionAway("/", "s1", 1, 1.0, 0),
    "claim": SessionClaimed("/", "s1"),
    "handled": EventHandled("/", "buy", "", "key", "[]"),
}


@pytest.mark.parametrize("change", LAST_CHANGES.values(), ids=LAST_CHANGES.keys())
async def test_an_uptime_never_comes_back(path: Path, clock: Clock, change: Change) -> None:
    """The clock continues after every uptime in the database, with or without a heartbeat after it."""
    async with opened(path, monotonic=clock) as log:
        await commit(log, [session()])
        clock.now += 1.5
        assert await uptime(log, change) == 1.5
    async with opened(path, monotonic=clock) as log:
        assert (await log.join()).uptime == 1.5
        clock.now += 1.0
        assert await uptime(log) == 2.5


async def test_sessions_of_an_earlier_node_are_away(path: Path, clock: Clock) -> None:
    """At the opening every session is away: since the last uptime, or since it was away already."""
    wall = Clock(1_000.0)
    async with opened(path, monotonic=clock, wall_clock=wall) as log:
        await commit(log, [session("live"), session("away"), session("claimed"), session("s4")])
        clock.now += 1.0
        for sid in ("away", "claimed"):
            await commit(log, [SessionAway("/", sid, 1, 1_001.0, 0)])
        clock.now += 1.0
        wall.now = 1_002.0
        await commit(log, [SessionClaimed("/", "claimed"), BEAT])
    async with opened(path, wall_clock=lambda: 9_000.0) as log:
        found = {stored.sid: stored for stored in await stored_sessions(log)}
        assert {stored.node for stored in found.values()} == {None}
        assert {sid: stored.away_since for sid, stored in found.items()} == {
            "live": 2.0,
            "away": 1.0,
            "claimed": 1.0,
            "s4": 2.0,
        }
        times = sqlite(path, "SELECT sid, disconnected_at FROM sessions ORDER BY number")
        assert times.split() == ["live|1002.0", "away|1001.0", "claimed|1001.0", "s4|1002.0"]


async def test_a_heartbeat_updates_the_node(path: Path, clock: Clock) -> None:
    async with opened(path, monotonic=clock, wall_clock=lambda: 1_234.0, new_epoch=lambda: "n") as log:
        clock.now += 2.0
        await commit(log, [Heartbeat(applied=7, floor=5)])
        boots = "SELECT boot, alive_at, service_time, applied, floor FROM boots"
        assert sqlite(path, boots) == "n|1234.0|2.0|7|5\n"
        assert (await log.join()).positions == ()
    async with opened(path, new_epoch=lambda: "m") as log:
        assert (await log.join()).nodes == (NodeRecord("m", alive=2.0, applied=0, floor=0),)


async def test_positions_are_noted_by_heartbeats(path: Path, clock: Clock) -> None:
    """A heartbeat notes the uptime of its batch and the position at its place; both survive a restart."""
    async with opened(path, monotonic=clock) as log:
        for count in (2, 0, 3):
            clock.now += 2.0
            await commit(log, [*[event()] * count, NOTING, event(), BEAT])
        expected = ((2.0, 2), (4.0, 3), (6.0, 7))
        assert (await log.join()).positions == expected
    async with opened(path) as log:
        assert (await log.join()).positions == expected


async def test_old_positions_are_deleted(path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has a limit, and the newest positions stay, also over restarts."""
    assert nodes.POSITIONS_KEPT == 128
    monkeypatch.setattr(nodes, "POSITIONS_KEPT", 3)
    for _ in range(2):
        async with opened(path, monotonic=clock) as log:
            for _ in range(4):
                clock.now += 1.0
                await commit(log, [event(), NOTING])
            assert [position for _, position in (await log.join()).positions] == [
                log.head - 2,
                log.head - 1,
                log.head,
            ]
