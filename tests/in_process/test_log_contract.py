"""The contract of ``Log``, for every engine: places, batches, outcomes and the uptime clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from socketio_eventlog.changes import Batch, Change, EventHandled, NodeJoined, Pruned
from socketio_eventlog.errors import StoreClosed, StoreRejected
from socketio_eventlog.log import HEARTBEAT_SECONDS, Log
from socketio_eventlog.session_changes import (
    DataSaved,
    IdentityRevoked,
    SessionAway,
    SessionBound,
    SessionClaimed,
    SessionResumed,
)
from support.log_engines import ENGINES
from support.storing import BEAT, Clock, append, commit, ended, event, joined, left, session


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
async def log(engine: str, tmp_path: Path, clock: Clock) -> AsyncIterator[Log]:
    """A log that this node has joined."""
    async with ENGINES[engine](tmp_path, clock)() as log:
        await log.join()
        yield log


every_engine = pytest.mark.parametrize("engine", ENGINES)

CLAIMED = SessionClaimed("/", "s1")
HANDLED = EventHandled("/", "buy", "ann", "key", "[1]")


def away(claim: int) -> SessionAway:
    return SessionAway("/", "s1", claim, 2_000.0, 0)


def resumed(claim: int, *deferred: DataSaved | SessionBound) -> SessionResumed:
    return SessionResumed("/", "s1", claim, 2_001.0, deferred)


def outcomes(batch: Batch) -> list[tuple[bool, int]]:
    return [(committed.took_effect, committed.claim) for committed in batch.changes]


# Places and batches ----------------------------------------------------------------------------------


@every_engine
async def test_a_node_begins_with_a_snapshot(engine: str, tmp_path: Path, clock: Clock) -> None:
    async with ENGINES[engine](tmp_path, clock)() as log:
        snapshot = await log.join()
        assert (snapshot.position, snapshot.uptime) == (0, 0.0)
        nodes = [(node.node, node.applied, node.floor) for node in snapshot.nodes]
        assert nodes == [(log.node, snapshot.batch, 0)]
        assert (snapshot.positions, snapshot.sessions) == ((), ())
        assert (await append(log, [event()])).number == snapshot.batch + 1


@every_engine
async def test_changes_get_their_places(log: Log) -> None:
    changes: list[Change] = [session(), event(), event(), joined("a"), event(), BEAT, left("a"), ended()]
    batch = await append(log, changes)
    assert [committed.change for committed in batch.changes] == changes
    assert [committed.position for committed in batch.changes] == [0, 1, 2, 2, 3, 3, 3, 3]
    assert log.head == 3
    assert await commit(log, [event(), event()]) == [4, 5]


@every_engine
async def test_an_append_is_a_contact(log: Log) -> None:
    before = time.monotonic()
    await append(log, [event()])
    assert before <= log.contact_at <= time.monotonic()


@every_engine
async def test_batches_are_in_order_and_numbered(log: Log) -> None:
    first = (await log.join()).batch + 1
    numbers = await asyncio.gather(*(log.append([event()] * size) for size in (1, 0, 3)))
    await log.close()
    batches = [batch async for batch in log.batches()]
    assert [batch.number for batch in batches] == numbers == [first, first + 1, first + 2]
    assert [(batch.node, batch.own) for batch in batches] == [(log.node, 1), (log.node, 2), (log.node, 3)]
    assert [[done.position for done in batch.changes] for batch in batches] == [[1], [], [2, 3, 4]]


@every_engine
async def test_a_failed_append_has_no_batch(log: Log) -> None:
    """The call counts, the batch does not, and the log goes on."""
    first = (await log.join()).batch + 1
    with pytest.raises(StoreRejected):
        await log.append([event(), NodeJoined()])  # it has joined already
    batch = await append(log, [event()])
    assert (batch.number, batch.own) == (first, 2)


@every_engine
async def test_the_log_ends_with_its_close(log: Log) -> None:
    waiting = asyncio.ensure_future(anext(log.batches()))
    await asyncio.sleep(0)
    number = log.append([event()])
    await log.close()
    await log.close()
    assert (await waiting).number == await number
    assert [batch async for batch in log.batches()] == []
    with pytest.raises(StoreClosed):
        await log.append([event()])


# Outcomes --------------------------------------------------------------------------------------------


@every_engine
async def test_claims_are_counted(log: Log) -> None:
    batch = await append(log, [session(), CLAIMED, CLAIMED, SessionClaimed("/", "s2")])
    assert outcomes(batch) == [(True, 1), (True, 2), (True, 3), (False, 0)]


@every_engine
async def test_only_the_last_claim_speaks(log: Log) -> None:
    await append(log, [session(), CLAIMED, CLAIMED])
    late: list[Change] = [away(1), resumed(2), away(2), ended(claim=2)]
    assert outcomes(await append(log, late)) == [(False, 0)] * 4
    assert outcomes(await append(log, [resumed(3), away(3)])) == [(True, 0)] * 2
    assert outcomes(await append(log, [CLAIMED, away(3), ended(claim=4)])) == [
        (True, 4),
        (False, 0),
        (True, 0),
    ]


@every_engine
async def test_an_ended_session_has_no_outcomes(log: Log) -> None:
    await append(log, [session(), session("s2"), ended()])
    late: list[Change] = [CLAIMED, resumed(1), away(1), ended(claim=1), ended()]
    assert outcomes(await append(log, late)) == [(False, 0)] * 5
    assert outcomes(await append(log, [SessionAway("/", "s2", 1, 2_000.0, 0)])) == [(True, 0)]


@every_engine
async def test_a_revoked_identity_ends_its_sessions(log: Log) -> None:
    """Also a session that was bound by a deferred change, but not by one whose acceptance came too late."""
    await append(log, [session(), session("s2"), CLAIMED])
    await append(
        log, [resumed(1, SessionBound("/", "s1", "bob")), resumed(2, SessionBound("/", "s1", "ann"))]
    )
    assert outcomes(await append(log, [IdentityRevoked("bob"), CLAIMED])) == [(True, 0), (True, 3)]
    claims: list[Change] = [IdentityRevoked("ann"), CLAIMED, SessionClaimed("/", "s2")]
    assert outcomes(await append(log, claims)) == [(True, 0), (False, 0), (True, 2)]


@every_engine
async def test_other_changes_take_effect(log: Log) -> None:
    changes: list[Change] = [event(), joined("a"), DataSaved("/", "s1", "{}"), HANDLED, BEAT, Pruned(0)]
    assert outcomes(await append(log, changes)) == [(True, 0)] * 6


# The uptime clock ------------------------------------------------------------------------------------


@every_engine
async def test_a_step_counts_two_heartbeats_at_most(log: Log, clock: Clock) -> None:
    uptimes = []
    for step in (1.0, 3600.0, 0.0, -50.0, 2.5):
        clock.now += step
        uptimes.append((await append(log, [event()])).uptime)
    longest = 2 * HEARTBEAT_SECONDS
    assert uptimes == [1.0, 1.0 + longest, 1.0 + longest, 1.0 + longest, 3.5 + longest]
