from __future__ import annotations

import asyncio
from itertools import chain

import pytest

from socketio_eventlog.changes import Change
from socketio_eventlog.errors import OffsetMalformed, OffsetRolledBack, OffsetUnknown
from socketio_eventlog.events import Event, LoggedEvent, Missed, Offset
from socketio_eventlog.log import Log
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.segment import SEGMENT_LENGTH
from socketio_eventlog.snapshot import Membership, NodeRecord, Snapshot
from socketio_eventlog.sqlite.log import EventLog
from support.log_engines import Store
from support.storing import always, commit, ended, event, joined, session


async def test_a_new_log_is_empty(store: Store) -> None:
    async with store.open() as event_log:
        log: Log = event_log
        assert log.is_durable
        assert (log.head, log.pruned_through) == (0, 0)
        assert await log.counts() == (0, 0)
        found = await log.join()
        alone = NodeRecord(event_log.node, alive=0.0, applied=found.batch, floor=0)
        assert found == Snapshot(found.batch, 0, 0.0, nodes=(alone,), positions=(), sessions=())
        assert await commit(log, []) == []


async def test_a_batch_has_the_position_of_each_change(store: Store) -> None:
    async with store.open() as log:
        changes: list[Change] = [session(), event(), event(), joined("a"), event(), ended()]
        assert await commit(log, changes) == [0, 1, 2, 2, 3, 3]
        assert await commit(log, [event()]) == [4]
        assert log.head == 4
        assert log.offset_at(4) == Offset(log.node, 4)


async def test_events_are_read_as_they_were_written(store: Store) -> None:
    events: list[Event] = [
        event("plain"),
        event("rooms", rooms=("a", "42", 42, -(2**70)), skip=("s1", "s2")),
        event("nobody", rooms=()),
        event("binary", attachments=(b"\0\xff", b"", b"x" * 100_000)),
        event("Grüße 中 \U0001f600 \\u0000 'quoted'", namespace="/ä", rooms=("zimmer ü", 'a"b')),
    ]
    async with store.open() as log:
        await commit(log, events)
        expected = [LoggedEvent(sequence, event) for sequence, event in enumerate(events, 1)]
        assert await log.read([1, 2, 3, 4, 5]) == expected
        assert await log.read([5, 99, 2, 5, 0]) == [expected[1], expected[4]]
        assert await log.read([]) == []


async def test_a_read_stops_above_the_limit(store: Store) -> None:
    """A read stops after the event that exceeds the limit."""
    async with store.open() as log:
        await commit(log, [event("x" * 86, attachments=(b"y" * 900,))] * 5)
        for limit_bytes, count in [(0, 1), (999, 1), (1000, 2), (2500, 3), (1_000_000, 5)]:
            assert len(await log.read(range(1, 6), limit_bytes)) == count


async def test_memberships_select_the_missed_events(store: Store) -> None:
    """The missed events are the events that a membership covers."""
    async with store.open() as log:
        await commit(
            log, [event("x", rooms=("a",)), event("y", rooms=("b",)), event("z"), event("w", rooms=("a",))]
        )
        size_bytes = event("x").size_bytes
        memberships = [Membership("a", 0, 3), Membership(None, 0, None)]
        assert await log.missed("/", memberships, 0, 4) == Missed((1, 3), 2 * size_bytes)
        assert log.missed_in_memory("/", memberships, 1, 4) == Missed((3,), size_bytes)
        assert log.missed_in_memory("/other", memberships, 0, 4) == Missed((), 0)


async def test_the_log_continues_after_a_restart(store: Store) -> None:
    async with store.open() as first:
        await commit(first, [event("before", rooms=("a",))])
        sent = str(first.offset_at(1))
    async with store.open() as second:
        assert second.node != first.node
        assert second.head == 1
        assert await commit(second, [event("after", rooms=("a",))]) == [2]
        assert second.locate(sent) == Offset(first.node, 1)
        assert second.missed_in_memory("/", always("a"), 0, 2) == await second.missed("/", always("a"), 0, 2)
        assert (await second.missed("/", always("a"), 0, 2)).sequences == (1, 2)
        assert second.precedes_epoch(first.node, second.node)
        assert not second.precedes_epoch(second.node, first.node)
        assert [str(second.offset_of(sequence)) for sequence in (1, 2)] == [sent, f"{second.node}.2"]


async def test_unknown_offsets_are_refused(store: Store) -> None:
    """The log refuses offsets that no epoch of the log gave out."""
    async with store.open() as log:
        await commit(log, [event()] * 3)
        assert log.locate(f"{log.node}.3") == log.offset_at(3)
        with pytest.raises(OffsetRolledBack):
            log.locate(f"{log.node}.4")
        with pytest.raises(OffsetUnknown):
            log.locate("somewhere.3")
        with pytest.raises(OffsetMalformed):
            log.locate("3")


async def test_concurrent_commits_get_distinct_sequences(store: Store) -> None:
    async with store.open() as log:
        batches = await asyncio.gather(*(commit(log, [event(), event()]) for _ in range(50)))
        assert sorted(chain.from_iterable(batches)) == list(range(1, 101))
        assert log.head == 100


async def test_a_cancelled_wait_does_not_stop_the_commit(store: Store) -> None:
    async with store.open() as log:
        waiting = asyncio.ensure_future(commit(log, [event(rooms=("a",))]))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await commit(log, [event(rooms=("a",))]) == [2]
        assert log.head == 2
        assert (await log.missed("/", always("a"), 0, 2)).sequences == (1, 2)


async def test_an_index_without_memory_finds_the_same(store: Store) -> None:
    total = 3 * SEGMENT_LENGTH
    async with store.open(index_memory=0) as log:
        for start in range(0, total, 1024):
            await commit(log, [event(rooms=(f"r{n % 3}", "ü")) for n in range(start, start + 1024)])
        assert log.missed_in_memory("/", always("r1"), 0, total) is None
        await assert_every_third(log, total)
        assert log.missed_in_memory("/", always("r1"), total - 3, total) is not None
        few = await log.missed("/", always("ü"), 0, total, at_most=10)
        assert 10 < len(few.sequences) <= SEGMENT_LENGTH
    for index_memory in (0, 50_000, 64_000_000):
        async with store.open(index_memory=index_memory) as log:
            await assert_every_third(log, total)
    async with store.open() as log:
        assert log.missed_in_memory("/", always("r1"), 0, total) is not None


async def assert_every_third(log: Log, total: int) -> None:
    for after, through in [(0, total), (5000, 9000), (0, 1), (total - 1, total)]:
        expected = tuple(n for n in range(1, total + 1) if n % 3 == 2 and after < n <= through)
        size_bytes = event().size_bytes * len(expected)
        assert await log.missed("/", always("r1"), after, through) == Missed(expected, size_bytes)


async def test_a_half_written_segment_is_completed(store: Store) -> None:
    """A segment with only some lists on disk at a restart is completed after the restart."""
    async with store.open(index_memory=0) as log:
        for start in range(0, SEGMENT_LENGTH, 1024):
            await commit(log, [event(rooms=(f"r{n}",)) for n in range(start + 1, start + 1025)])
        await commit(log, [event()])
        assert log.missed_in_memory("/", always("r1"), 0, log.head) is not None
    async with store.open(index_memory=0) as log:
        for _ in range(20):
            await commit(log, [event()])
        assert log.missed_in_memory("/", always("r1"), 0, log.head) is None
        for number in (1, 255, 256, 257, 2000, SEGMENT_LENGTH - 1):
            assert (await log.missed("/", always(f"r{number}"), 0, log.head)).sequences == (number,)


async def test_a_log_without_a_path_is_a_mistake() -> None:
    """The options of a server without recovery cannot open a durable log."""
    with pytest.raises(ValueError, match="needs a path"):
        await EventLog.open(StoreOptions(path=None))
