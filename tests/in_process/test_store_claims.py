"""The rows of sessions that several connections claim: fencing by the number of the claim."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from socketio_eventlog.changes import Change
from socketio_eventlog.log import Log
from socketio_eventlog.session_changes import (
    DataSaved,
    SessionAway,
    SessionBound,
    SessionClaimed,
    SessionResumed,
)
from socketio_eventlog.snapshot import Membership, StoredSession
from support.log_engines import Store
from support.storing import Clock, append, commit, ended, event, joined, left, session
from support.storing import stored_sessions as stored

CLAIMED = SessionClaimed("/", "s1")
DEFERRED = (DataSaved("/", "s1", '{"a":1}'), SessionBound("/", "s1", "ann"), joined("a"))


def away(
    claim: int, *, confirmed: int = 0, disconnected_at: float = 2_000.0, left_by_client: bool = False
) -> SessionAway:
    return SessionAway("/", "s1", claim, disconnected_at, confirmed, left_by_client)


def resumed(claim: int) -> SessionResumed:
    return SessionResumed("/", "s1", claim, 2_001.0, DEFERRED)


async def outcomes(log: Log, *changes: Change) -> list[tuple[bool, int]]:
    return [(done.took_effect, done.claim) for done in (await append(log, changes)).changes]


async def only_session(log: Log) -> StoredSession:
    (found,) = await stored(log)
    return found


@pytest.fixture
def clock(store: Store) -> Clock:
    return store.clock


@pytest.fixture
async def log(store: Store) -> AsyncIterator[Log]:
    async with store.open() as log:
        yield log


async def test_a_session_goes_away_and_comes_back(log: Log, clock: Clock) -> None:
    await commit(log, [session(), event(), event()])
    assert (await only_session(log)).away_since is None
    clock.now = 1.0
    assert await outcomes(log, away(1, confirmed=2)) == [(True, 0)]
    found = await only_session(log)
    assert (found.away_since, found.confirmed, found.node) == (1.0, 2, None)
    clock.now = 2.0
    assert await outcomes(log, CLAIMED, resumed(2)) == [(True, 2), (True, 0)]
    found = await only_session(log)
    assert (found.away_since, found.confirmed, found.node, found.claim) == (None, 2, log.node, 2)


async def test_a_claim_keeps_away_since(log: Log, clock: Clock) -> None:
    """A series of claims does not keep a session alive: the session counts as away since the first."""
    await commit(log, [session(), away(1)])
    for claim in (2, 3, 4):
        clock.now += 1.0
        assert await outcomes(log, CLAIMED) == [(True, claim)]
        assert (await only_session(log)).away_since == 0.0
        assert (await only_session(log)).node == log.node
        clock.now += 1.0
        assert await outcomes(log, away(claim)) == [(True, 0)]
        assert (await only_session(log)).away_since == 0.0


async def test_a_claim_of_a_connected_session(log: Log, clock: Clock) -> None:
    """A connected session counts as away from the claim on, at the uptime of the claim's batch."""
    await commit(log, [session()])
    clock.now = 3.0
    await commit(log, [CLAIMED])
    clock.now = 5.0
    await commit(log, [away(2)])
    assert (await only_session(log)).away_since == 3.0


async def test_late_words_of_a_former_claim(log: Log, store: Store) -> None:
    """A former claim's words change nothing, and the deferred changes of its acceptance are not stored."""
    await commit(log, [session(), event(), CLAIMED])
    before = store.sql("SELECT * FROM sessions")
    assert await outcomes(log, away(1, confirmed=1), resumed(1), ended(claim=1)) == [(False, 0)] * 3
    assert store.sql("SELECT * FROM sessions") == before
    assert store.sql("SELECT count(*) FROM rooms") == "0\n"


async def test_deferred_changes_come_in_their_order(log: Log) -> None:
    """The acceptance stores the deferred changes, each at the position of the acceptance."""
    deferred = (joined("a"), DataSaved("/", "s1", "1"), left("a"), joined("b"), DataSaved("/", "s1", "2"))
    accepted = SessionResumed("/", "s1", 2, 2_001.0, deferred)
    await commit(log, [session(), joined("a"), event(), away(1), CLAIMED, accepted, event()])
    found = await only_session(log)
    assert found.data == "2"
    assert set(found.memberships) == {Membership("a", 0, 1), Membership("b", 1, None)}


async def test_an_accepted_client_has_the_session(log: Log) -> None:
    await commit(log, [session(), away(1, left_by_client=True), CLAIMED, resumed(2)])
    found = await only_session(log)
    assert (found.data, found.identity, found.left_by_client) == ('{"a":1}', "ann", False)
    assert found.memberships == (Membership("a", 0, None),)


async def test_a_refused_claim_keeps_left_by_client(log: Log, store: Store) -> None:
    """Neither the flag that protects the session nor the time of the disconnection changes."""
    await commit(log, [session(), away(1, left_by_client=True), CLAIMED])
    await commit(log, [away(2, disconnected_at=9_000.0)])
    assert (await only_session(log)).left_by_client
    assert store.sql("SELECT CAST(disconnected_at AS INTEGER) FROM sessions") == "2000\n"


async def test_the_end_of_a_claim(log: Log) -> None:
    """An end that names a claim ends the session of that claim only; no later change has an effect."""
    await commit(log, [session(), CLAIMED])
    assert await outcomes(log, ended(claim=1), ended(claim=2), ended(claim=2), ended()) == [
        (False, 0),
        (True, 0),
        (False, 0),
        (False, 0),
    ]
    assert await outcomes(log, CLAIMED, resumed(2), away(2)) == [(False, 0)] * 3
    assert await stored(log) == []


async def test_an_end_without_a_claim(log: Log) -> None:
    await commit(log, [session(), joined("a"), CLAIMED, CLAIMED])
    assert await outcomes(log, ended()) == [(True, 0)]
    assert await log.counts() == (0, 0)
    # A new session with the same sid begins with the first claim, and without the rooms.
    assert await outcomes(log, session()) == [(True, 1)]
    assert (await only_session(log)).memberships == ()


async def test_the_confirmed_sequence_never_decreases(log: Log) -> None:
    await commit(log, [event(), event(), session(), away(1)])
    assert (await only_session(log)).confirmed == 2


async def test_received_memberships_are_forgotten(log: Log, store: Store) -> None:
    """A membership that ended before the confirmed sequence is not stored any more."""
    await commit(log, [session(), joined("a"), event(), left("a"), joined("b"), event(), left("b")])
    await commit(log, [session("s2"), joined("a", "s2"), event(), left("a", "s2"), joined("b")])
    assert len((await stored(log))[0].memberships) == 3
    await commit(log, [away(7, confirmed=3)])  # another claim's
    assert store.sql("SELECT count(*) FROM rooms") == "4\n"
    await commit(log, [away(1, confirmed=1)])
    first, second = await stored(log)
    assert set(first.memberships) == {Membership("b", 1, 2), Membership("b", 3, None)}
    assert second.memberships == (Membership("a", 2, 3),)
    assert store.sql("SELECT count(*) FROM rooms WHERE sid = 's1' AND joined_after = 0") == "0\n"


async def test_a_received_membership_is_not_loaded(log: Log, store: Store) -> None:
    """A row that was left over from an earlier version is not loaded."""
    await commit(log, [session(), joined("a"), event(), left("a"), away(1)])
    store.sql("UPDATE sessions SET confirmed = 1")
    assert (await only_session(log)).memberships == ()


async def test_claims_are_counted_over_restarts(store: Store) -> None:
    """A claim of an earlier process never becomes valid again."""
    async with store.open() as log:
        await commit(log, [session(), CLAIMED])
        assert (await only_session(log)).node == log.node
    async with store.open() as log:
        found = await only_session(log)
        assert (found.claim, found.node) == (2, None)
        assert await outcomes(log, CLAIMED, away(2)) == [(True, 3), (False, 0)]
        assert (await only_session(log)).node == log.node
