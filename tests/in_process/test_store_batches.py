"""Batches come out of the log in the order of the appends, when they are durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from socketio_eventlog.changes import Change, Committed, EventHandled, NodeDied, NodeJoined, Pruned
from socketio_eventlog.errors import ConditionFailed, StoreClosed, StoreRejected
from socketio_eventlog.log import Log
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog
from support.log_engines import Store
from support.storing import append, commit, event, joined, opened, session, sqlite

HANDLED = EventHandled("/", "buy", "ann", "key", "[1]")


@pytest.fixture
async def log(store: Store) -> AsyncIterator[Log]:
    async with store.open() as log:
        yield log


@pytest.fixture
async def first(log: Log) -> int:
    """The number of the first batch of this life."""
    return (await log.join()).batch + 1


async def test_a_batch_has_its_changes_with_positions(log: Log, first: int) -> None:
    changes: list[Change] = [session(), event(), event("b"), joined("a"), event()]
    batch = await append(log, changes)
    assert batch.changes == [
        Committed(changes[0], 0, claim=1),
        Committed(changes[1], 1),
        Committed(changes[2], 2),
        Committed(changes[3], 2),
        Committed(changes[4], 3),
    ]
    assert all(type(committed) is Committed for committed in batch.changes)
    assert (batch.number, batch.node, batch.own, batch.uptime) == (first, log.node, 1, 0.0)


async def test_batches_come_in_the_order_of_appends(log: Log, first: int) -> None:
    futures = [log.append([event(str(number))] * (number % 3)) for number in range(50)]
    assert await asyncio.gather(*futures) == list(range(first, first + 50))
    await log.close()
    batches = [batch async for batch in log.batches()]
    assert [(batch.number, batch.own) for batch in batches] == [(first + n - 1, n) for n in range(1, 51)]
    positions = [committed.position for batch in batches for committed in batch.changes]
    assert positions == list(range(1, log.head + 1))


async def test_failed_appends_come_out_nowhere(log: Log, first: int) -> None:
    """A failed append has a number among the own appends, and no number among the batches."""
    futures = [log.append([event("a")]), log.append([event(), session("\ud800")]), log.append([event("c")])]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(results[1], StoreRejected) and [results[0], results[2]] == [first, first + 1]
    await log.close()
    batches = [batch async for batch in log.batches()]
    assert [(batch.number, batch.own) for batch in batches] == [(first, 1), (first + 1, 3)]
    before, after = (batch.changes[0].position for batch in batches)
    assert before < after  # the sequence between may be used up
    with pytest.raises(StoreClosed):
        await log.append([event()])


async def test_a_batch_is_durable_when_it_comes_out(log: Log, store: Store) -> None:
    """A waiting reader receives the batch after the commit; head and index know its events by then."""
    reading = asyncio.ensure_future(anext(log.batches()))
    appending = log.append([event(rooms=("a",)), event(), Pruned(1)])
    batch = await reading
    assert store.sql('SELECT "offset" FROM events') == "2\n"
    assert (log.head, log.pruned_through) == (2, 1)
    assert await appending == batch.number


async def test_a_cancelled_append_comes_out(log: Log) -> None:
    assert log.append([event()]).cancel()
    assert (await anext(log.batches())).own == 1


async def test_a_cancelled_read_takes_no_batch(log: Log, first: int) -> None:
    reading = asyncio.ensure_future(anext(log.batches()))
    await asyncio.sleep(0)
    reading.cancel()
    assert await log.append([event()]) == first
    assert (await anext(log.batches())).number == first


async def test_batches_end_with_the_log(log: Log, first: int) -> None:
    """A reader receives what was appended before the close, and then the end."""
    reading = asyncio.ensure_future(anext(log.batches()))
    await asyncio.sleep(0)
    futures = [log.append([event()]) for _ in range(3)]
    await log.close()
    assert (await reading).number == first
    assert [batch.number async for batch in log.batches()] == [first + 1, first + 2]
    assert [future.done() for future in futures] == [True] * 3


def test_an_abandoned_log_has_no_more_batches(path: Path) -> None:
    """After the end of its event loop the log ends for a reader on another one, with what came before."""
    loop = asyncio.new_event_loop()
    log = loop.run_until_complete(EventLog.open(StoreOptions(path=path)))
    loop.run_until_complete(log.append([event()]))
    assert loop.run_until_complete(log.batches().__anext__()).number == 1
    assert not log.append([event()]).done()
    loop.close()

    async def rest() -> list[int]:
        log.abandon()
        with pytest.raises(StoreClosed):
            await log.append([event()])
        return [batch.number async for batch in log.batches()]

    assert asyncio.run(rest()) == []
    assert sqlite(path, "SELECT count(*) FROM events") == "2\n"


async def test_a_repeated_key_fails_the_append(log: Log) -> None:
    """Nothing of the append is stored: the emits of a second run of the handler must not stay."""
    assert await commit(log, [event(), HANDLED]) == [1, 1]
    with pytest.raises(ConditionFailed):
        await log.append([event(), HANDLED])
    other = EventHandled("/", "buy", "bob", "key", "[2]")
    with pytest.raises(ConditionFailed):
        await log.append([event(), other, other])
    assert await log.acknowledgement("/", "buy", "bob", "key") is None
    assert await log.counts() == (0, 1)


async def test_an_invalid_key_is_rejected(log: Log) -> None:
    """A key that cannot be stored is an invalid change, not a failed condition."""
    invalid = EventHandled("/", "buy", "ann", "key", None)  # type: ignore[arg-type]
    with pytest.raises(StoreRejected) as refusal:
        await log.append([invalid])
    assert type(refusal.value) is StoreRejected


async def test_no_change_makes_a_node(log: Log) -> None:
    with pytest.raises(StoreRejected, match="node"):
        await log.append([event(), NodeJoined()])
    assert len(await commit(log, [event()])) == 1


async def test_a_file_has_one_node(tmp_path: Path) -> None:
    """No change ends a node of a file, which has one at a time."""
    async with opened(tmp_path / "events.db") as log:
        with pytest.raises(StoreRejected, match="one node"):
            await log.append([event(), NodeDied("first")])
        assert len(await commit(log, [event()])) == 1
