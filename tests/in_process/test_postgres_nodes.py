"""Several nodes on one PostgreSQL database: one order, one outcome of each change, and no node beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from socketio_eventlog import batch_stream
from socketio_eventlog.batch_stream import BatchStream
from socketio_eventlog.changes import (
    Answered,
    Asked,
    Change,
    Departed,
    EventHandled,
    Heartbeat,
    NodeDied,
    NodeJoined,
    Pruned,
    Published,
    Redacted,
    Volatile,
)
from socketio_eventlog.errors import ConditionFailed
from socketio_eventlog.events import Event
from socketio_eventlog.postgres import events, stored, tail
from socketio_eventlog.postgres.connection import Connection
from socketio_eventlog.postgres.decoding import GONE
from socketio_eventlog.postgres.nudges import Nudges
from socketio_eventlog.session_changes import (
    DataSaved,
    IdentityRevoked,
    RefusedRecovery,
    RoomClosed,
    RoomLeft,
    SessionAway,
    SessionBound,
    SessionClaimed,
    SessionEnd,
    SessionEnded,
    SessionOpened,
    SessionResumed,
    TokenAccepted,
)
from support import postgres
from support.postgres_nodes import joined_node
from support.storing import BEAT, Clock, always, event, joined, left, opened_postgres, session

EVERYTHING: list[Change] = [
    event("first", rooms=("a", 7), skip=("s9",), attachments=(b"\x00\xff", b"")),
    SessionOpened("/", "s1", b"p" * 32, "e.7", 1_000.5, b"a" * 32, RefusedRecovery("x", None, b"h" * 32)),
    session("s2"),
    joined("a"),
    joined(42),
    event('\\u0000 1e2 -0.0 \\ud800 "', namespace="/n", rooms=()),
    event("third", rooms=("a\0b", 'q"\\')),
    left("a"),
    RoomLeft("/", "s1", 42, 1),
    SessionClaimed("/", "s1"),
    SessionClaimed("/", "nobody"),
    SessionResumed("/", "s1", 1, 5.0, (DataSaved("/", "s1", "{}"),), 3),
    SessionResumed(
        "/",
        "s1",
        2,
        5.25,
        (DataSaved("/", "s1", '{"a":1.0}'), joined("b"), SessionBound("/", "s1", "ann")),
        3,
    ),
    TokenAccepted("/", "s1", 1e10, ("a", 42)),
    TokenAccepted("/", "s2", None, ()),
    SessionAway("/", "s1", 2, 6.0, 1, left_by_client=True, reason="gone", refusal=None),
    SessionAway("/", "s2", 9, 6.0, 1, refusal="expired"),
    EventHandled("/", "buy", "ann", "k", '[{"b":1e2}]'),
    Published("api", "k", b"d" * 32, 1),
    RoomClosed("/", "b"),
    DataSaved("/", "s1", '{"x":"\\u0000"}'),
    Redacted(1, "gone", '["gone"]'),
    SessionEnded("/", "s2", SessionEnd.DISCONNECTED, 1),
    SessionEnded("/", "s2", SessionEnd.REVOKED),
    IdentityRevoked("ann"),
    Heartbeat(1, 1, notes_position=True),
    Pruned(1),
    Departed("/", "s1", 2),
    Volatile(event("\\u0000 1e2 \\ud800", rooms=("a\0b", 7), attachments=(b"\x00",))),
    Asked(7, event("all", skip=("s1",))),
    Answered("n", 7, '["\\u0000",1e2,{"_placeholder":true,"num":0}]', (b"\xff",)),
    event("last"),
]
"""Every kind of change, with effect and without."""


IN_A_ROW = event("with attachments, so the events of its batch are read as rows", attachments=(b"x",))


def cluster_sql(url: str, statement: str) -> str:
    return postgres.shared_cluster().sql(url.partition("@/")[2].partition("?")[0], statement)


@pytest.fixture
def url() -> str:
    return postgres.new_url()


async def test_another_node_gets_the_same_batches(url: str) -> None:
    """A change of each kind comes out of another node's log with its place, its outcome and its content."""
    async with joined_node(url) as one, joined_node(url) as other:
        batch = await one.commit(*EVERYTHING)
        assert [done.change for done in batch.changes] == EVERYTHING
        foreign = await other.until(batch.number)
        assert (batch.own, foreign.own) == (1, None)
        redacted = batch.changes[0].change
        assert isinstance(foreign.changes[0].change, type(redacted))
        assert foreign.changes[1:] == batch.changes[1:], "the first one was redacted and pruned in its batch"
        assert (foreign.node, foreign.uptime) == (one.log.node, batch.uptime)
        assert (other.log.head, other.log.pruned_through) == (one.log.head, one.log.pruned_through) == (4, 1)
        assert other.log.offset_text(4) == one.log.offset_text(4)
        sides = [await node.log.missed("/", always(None, "a\0b"), 0, 4) for node in (one, other)]
        assert sides[0] == sides[1] and sides[0].sequences == (3, 4)


async def test_the_last_claim_wins_across_nodes(url: str) -> None:
    """A late word of a former owner has no effect, on any node."""
    async with joined_node(url) as one, joined_node(url) as other:
        await one.commit(session())
        claim = await other.commit(SessionClaimed("/", "s1"))
        assert claim.changes[-1].claim == 2
        late = await one.commit(SessionAway("/", "s1", 1, 5.0, 0))
        assert not late.changes[0].took_effect
        assert not (await other.until(late.number)).changes[0].took_effect
        resumed = await other.commit(SessionResumed("/", "s1", 2, 6.0))
        assert (await one.until(resumed.number)).changes[0].took_effect
        (found,) = (await one.log.join()).sessions
        assert (found.node, found.claim, found.away_since) == (other.log.node, 2, None)


async def test_a_key_is_stored_once_on_all_nodes(url: str) -> None:
    """The second run of a handler on another node fails, and nothing of it stays."""
    handled = EventHandled("/", "buy", "ann", "key", "[1]")
    async with joined_node(url) as one, joined_node(url) as other:
        await one.commit(event(), handled)
        with pytest.raises(ConditionFailed):
            await other.log.append([event(), handled])
        assert await other.log.acknowledgement("/", "buy", "ann", "key") == "[1]"
        assert (await other.commit(event())).changes[0].position == 2


# Joining and leaving ---------------------------------------------------------------------------------


async def test_a_snapshot_continues_without_a_gap(url: str) -> None:
    """A node that joins while others write has the sum of the batches before, and each one after it."""
    async with joined_node(url) as one:
        stop, has_written = False, asyncio.Event()
        opened: list[str] = []

        async def write() -> None:
            while not stop:
                sid = f"s{len(opened)}"
                opened.append(sid)
                await one.commit(session(sid), event(sid))
                if len(opened) == 5:
                    has_written.set()

        writing = asyncio.create_task(write())
        await has_written.wait()
        async with joined_node(url) as other:
            stop = True
            await writing
            await other.commit(event("end"))
            await one.until(other.batches[-1].number)
            before = other.snapshot
            assert [batch.number for batch in other.batches] == list(
                range(before.batch + 1, before.batch + 1 + len(other.batches))
            )
            later = [batch for batch in one.story if batch.number > before.batch]
            assert later == other.story
            found = [stored.sid for stored in before.sessions]
            came = [
                done.change.sid
                for batch in later
                for done in batch.changes
                if type(done.change) is SessionOpened
            ]
            assert found + came == opened
            assert before.position == len(found)
            sequences = (await other.log.missed("/", always(None), 0, other.log.head)).sequences
            assert sequences == tuple(range(1, len(opened) + 2))


async def test_many_batches_come_before_the_snapshot(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that begins does not wait for a reader of the batches that its snapshot contains."""
    monkeypatch.setattr(batch_stream, "MAX_WAITING", 2)
    async with joined_node(url) as one, opened_postgres(url) as log:
        last = await one.commit(*[event()] * 2)
        for _ in range(4):
            last = await one.commit(event())
        snapshot = await log.join()
        assert (snapshot.batch, snapshot.position) == (last.number, 6)
        assert log.head == 6
        last = await one.commit(event())
        assert (await anext(log.batches())).number == last.number


LARGE = "x" * 50_000


@pytest.mark.parametrize(
    "changes",
    [
        (event(LARGE), event(LARGE), Volatile(event(LARGE))),
        (DataSaved("/", "s1", f'"{LARGE}"'),) * 3,
    ],
)
async def test_a_node_reads_ahead_a_bounded_size(
    url: str, monkeypatch: pytest.MonkeyPatch, changes: Sequence[Change]
) -> None:
    """What waits for a slow node is bounded in bytes: stored events, and what only a batch has."""
    monkeypatch.setattr(tail, "MAX_BYTES", 150_000)
    monkeypatch.setattr(batch_stream, "MAX_WAITING_BYTES", 250_000)
    full, has_room = asyncio.Event(), BatchStream.has_room

    async def noticed(stream: BatchStream) -> None:
        if stream.is_full:
            full.set()
        await has_room(stream)

    monkeypatch.setattr(BatchStream, "has_room", noticed)
    async with joined_node(url) as one, joined_node(url) as slow:
        await one.commit(session("s1"))
        for _ in range(10):
            await one.commit(*changes)
        last = one.batches[-1]
        await full.wait()
        waiting = sum(weight > 0 for _, weight in slow.log._batches._waiting) - 1
        assert 2 <= waiting <= 5, f"{waiting} batches of 150 KB are read ahead"
        foreign = await slow.until(last.number)
        assert foreign.changes == last.changes
        numbers = [batch.number for batch in slow.batches]
        assert numbers == list(range(numbers[0], last.number + 1)) and len(numbers) >= 10


async def test_others_see_a_node_come_and_go(url: str) -> None:
    """A node joins and leaves in the order; when it leaves, its sessions are away at once."""
    async with joined_node(url) as one:
        async with joined_node(url) as other:
            assert [node.node for node in other.snapshot.nodes] == [one.log.node, other.log.node]
            await other.commit(session("s1"), event(), Heartbeat(other.snapshot.batch, 0))
            claimed = await other.commit(session("s2"), event(), Heartbeat(other.batches[-1].number, 1))
        left_at = await one.until(claimed.number + 1)
        kinds = [(batch.node, [done.change for done in batch.changes]) for batch in one.batches]
        assert kinds[0] == (other.log.node, [NodeJoined()])
        assert kinds[-1] == (other.log.node, [NodeDied(other.log.node)])
        assert left_at.changes[0].took_effect
        first, second = (await one.log.join()).sessions
        assert (first.node, first.away_since, first.confirmed) == (None, left_at.uptime, 1)
        assert (second.node, second.confirmed) == (None, 1), "the heartbeat was from before its claim"
        assert [node.node for node in (await one.log.join()).nodes] == [one.log.node]


async def test_batches_stay_until_all_applied_them(url: str) -> None:
    """A batch goes when it is a minute old and every node has applied it; a slow node keeps it."""
    clock = Clock(100.0)  # the clock of the rows: all are old
    async with joined_node(url, clock=clock) as one, joined_node(url, clock=clock) as slow:

        async def first_left() -> int:
            last = await one.commit(event(), Heartbeat(one.batches[-1].number if one.batches else 0, 0))
            await one.log._maintenance.run(partial(stored.prune_batches, through=last.number))
            return int(cluster_sql(url, "SELECT min(batch) FROM eventstore.batches WHERE batch > 0"))

        for _ in range(3):
            await first_left()
        assert await first_left() == slow.snapshot.batch, "its heartbeat is from before"
        applied = (await slow.until(one.batches[-1].number)).number
        beaten = await slow.commit(Heartbeat(applied, 0))
        await one.until(beaten.number)
        assert await first_left() == applied


# What is gone ----------------------------------------------------------------------------------------


async def test_an_event_is_gone_before_it_is_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is deleted before another node reads it: whoever may have missed it gets a new session."""

    async def deleted_before(connection: Connection, *arguments: Any) -> tuple[dict[int, Event], int]:
        await connection.execute('DELETE FROM eventstore.events WHERE "offset" = 2')
        return await events.read_ranges(connection, *arguments)

    async with joined_node(url) as one, joined_node(url) as other:
        monkeypatch.setattr(tail, "read_ranges", deleted_before)
        batch = await one.commit(IN_A_ROW, event("gone", rooms=("a",)), event("kept"))
        foreign = await other.until(batch.number)
        assert [done.position for done in foreign.changes] == [1, 2, 3]
        assert foreign.changes[1].change == GONE
        for room, after in (("a", 1), ("b", 1), ("a", 2)):
            summary = await other.log.summarise_missed(
                "/", always(room), after, 3, max_events=9, max_bytes=9000
            )
            assert summary.is_incomplete == (after < 2), "this node does not know for whom it was"


async def test_the_first_of_two_leaves_counts(url: str) -> None:
    """A room that a session leaves twice in one batch is left by the first leave, after a restart, too.

    PostgreSQL takes any of several rows for one row of a table, as its plan has it: here, the last one.
    """
    database, rooms = url.partition("@/")[2].partition("?")[0], [f"room {number}" for number in range(1000)]
    for plan in ("nestloop", "mergejoin"):
        cluster_sql(url, f"ALTER DATABASE {database} SET enable_{plan} = off")
    async with joined_node(url) as one:
        await one.commit(session(), *map(joined, ["a", "b", "c", *rooms]), event(), event(), event())
        cluster_sql(url, "ANALYZE eventstore.rooms")
        twice = {"a": (None, 1), "b": (1, None), "c": (2, 1)}
        await one.commit(*[RoomLeft("/", "s1", room, through) for room in twice for through in twice[room]])
        async with joined_node(url) as other:
            (found,) = other.snapshot.sessions
            left = {one.room: one.through for one in found.memberships if one.through is not None}
            assert left == {"a": 3, "b": 1, "c": 2}


async def test_texts_may_have_the_separators(url: str) -> None:
    """Whatever is in the names and rooms of events, another node gets the same events."""
    addressed = [(), ("a",), ("a\x1e", "b"), None]
    plain = [event(str(number), rooms=rooms) for number, rooms in enumerate(addressed)]
    odd = [
        plain[0]._replace(namespace="/a\x1eb"),
        plain[1]._replace(name="a\x1db"),
        plain[2]._replace(skip=("x\x1dy", "z")),
        plain[3]._replace(name="", emitted_at=0.1 + 0.2),
    ]
    async with joined_node(url) as one, joined_node(url) as other:
        for changes in (plain, odd[:1], odd[1:2], odd[2:], plain[:1] + odd, [*odd, BEAT, *plain]):
            batch = await one.commit(*changes)
            foreign = await other.until(batch.number)
            assert foreign.changes == batch.changes


async def test_events_beyond_one_read_come_later(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that lags reads the events of some batches with each read, also of one that is larger."""
    monkeypatch.setattr(tail, "MAX_EVENTS_ALONG", 5)
    monkeypatch.setattr(tail, "LONGEST_PAUSE_SECONDS", 3600.0)
    async with joined_node(url) as one, joined_node(url) as other:
        sizes = (2, 3, 1, 9, 4, 2)
        batches = [await one.commit(*[event(str(size))] * size) for size in sizes]
        await other.until(batches[-1].number)
        taken = {batch.number: batch.changes for batch in other.batches}
        assert [taken[batch.number] for batch in batches] == [batch.changes for batch in batches]


# Nudges ----------------------------------------------------------------------------------------------


async def test_a_nudge_wakes_the_others(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node learns of a batch by the notification of the other one, without a question in between."""
    async with joined_node(url) as one, joined_node(url) as other:
        while not other.log._nudges.are_alive:  # noqa: ASYNC110 -- there is no event for it
            await asyncio.sleep(0.01)
        for name in ("SHORTEST_PAUSE_SECONDS", "LONGEST_PAUSE_SECONDS"):
            monkeypatch.setattr(tail, name, 3600.0)
        await other.until((await one.commit(event())).number)  # it asks again for the last time
        for _ in range(3):
            await other.until((await one.commit(event())).number)


async def test_nudges_may_be_lost(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without notifications every batch arrives all the same."""
    monkeypatch.setattr(Nudges, "send", lambda self: None)
    async with joined_node(url) as one, joined_node(url) as other:
        for _ in range(3):
            await other.until((await one.commit(event())).number)
            await one.until((await other.commit(event())).number)
