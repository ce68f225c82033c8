"""The index of events that are addressed to very many rooms each."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from socketio_eventlog import event_rows
from socketio_eventlog.changes import Pruned
from socketio_eventlog.events import Room
from socketio_eventlog.snapshot import Membership
from socketio_eventlog.sqlite.log import EventLog
from support.storing import commit, event, opened, sqlite

EVENTS = 60
ROOMS = 3_000
INDEX_MEMORY = 8_000_000
LIMIT = INDEX_MEMORY + 4_000_000
"""All lists take 50 MB. Beside index_memory: a full segment, and what a commit brings."""
WRITTEN_THROUGH = "SELECT max(generation + length(sizes) / 4) - 1 FROM index_generations"


def addressed() -> Iterator[tuple[Room, ...]]:
    """Rooms of their own, and some that other events have, too."""
    chance = random.Random(7)
    for number in range(EVENTS):
        shared = [f"shared-{chance.randrange(50)}" for _ in range(10)]
        yield (*shared, *(f"{number}-{room}" for room in range(ROOMS)))


async def assert_exact(log: EventLog, rooms: Sequence[tuple[Room, ...]], after: int = 0) -> None:
    """The log finds what a walk over all events finds."""
    joined = [f"shared-{number}" for number in range(0, 50, 7)] + ["3-17", f"{EVENTS - 1}-0"]
    for some in (joined, joined[:1], ["shared-1", "50-2999"], ["nowhere"]):
        memberships = [Membership(room, 0, None) for room in some]
        expected = [n for n, to in enumerate(rooms, start=1) if n > after and not set(some).isdisjoint(to)]
        found = await log.missed("/", memberships, after, log.head)
        assert list(found.sequences) == expected
        assert found.size_bytes == event().size_bytes * len(expected)


async def test_events_with_many_rooms(path: Path) -> None:
    """Memory stays near index_memory, a start reads no more, and recoveries are exact."""
    rooms = list(addressed())
    async with opened(path, index_memory=INDEX_MEMORY, synchronous="normal") as log:
        for to in rooms:
            await commit(log, [event(rooms=to)])
            assert log._index.memory_bytes < LIMIT
        await assert_exact(log, rooms)
    assert EVENTS - int(sqlite(path, WRITTEN_THROUGH)) < EVENTS / 10  # as many events are scanned at a start
    async with opened(path, index_memory=INDEX_MEMORY, synchronous="normal") as log:
        assert log._index.memory_bytes < LIMIT
        await assert_exact(log, rooms)
        await commit(log, [Pruned(40)])
        await assert_exact(log, rooms, after=40)
    first = int(sqlite(path, "SELECT min(generation) FROM index_generations"))
    assert 40 - EVENTS / 10 < first <= 41


async def test_another_index_memory(path: Path) -> None:
    """Segments that were half on disk end elsewhere when the memory of the index has changed."""
    rooms = list(addressed())
    for start in range(0, EVENTS, 10):
        index_memory = (INDEX_MEMORY, 4 * INDEX_MEMORY, 1)[start // 10 % 3]
        async with opened(path, index_memory=index_memory, synchronous="normal") as log:
            for to in rooms[start : start + 10]:
                await commit(log, [event(rooms=to)])
            await assert_exact(log, rooms[: start + 10])


async def test_an_unfinished_segment_goes(path: Path) -> None:
    """Lists of a segment that a crash left unfinished go at the next start: the segment may end elsewhere."""
    async with opened(path, index_memory=1) as log:
        await commit(log, [event(rooms=tuple(f"{n}-{room}" for room in range(100))) for n in range(100)])
        await commit(log, [event()])
    assert (
        sqlite(path, "SELECT (SELECT count(*) FROM index_generations), count(*) FROM index_lists")
        == "0|256\n"
    )
    async with opened(path, index_memory=64_000_000) as log:
        assert sqlite(path, "SELECT count(*) FROM index_lists") == "0\n"
        for number in (0, 50, 99):
            found = await log.missed("/", [Membership(f"{number}-99", 0, None)], 0, log.head)
            assert found.sequences == (number + 1,)


async def test_the_encoding_of_many_rooms_is_not_cached(path: Path) -> None:
    """A cache of a thousand lists of rooms would take as much memory as the index."""
    event_rows.few_as_json.cache_clear()
    async with opened(path) as log:
        await commit(log, [event(rooms=tuple(map(str, range(1_000))))] * 2)
        await commit(log, [event(rooms=("few",))] * 2)
    assert event_rows.few_as_json.cache_info().currsize == 1
