from __future__ import annotations

from pathlib import Path

from socketio_eventlog.records import Membership
from socketio_eventlog.segment import SEGMENT_LENGTH
from support.storing import always, event, joined, left, opened, session, sqlite

FOREVER = 10**9


async def test_pruning_deletes_the_oldest_events_first(path: Path) -> None:
    """Pruning deletes the oldest events first, and at most ``limit`` events."""
    async with opened(path) as log:
        await log.commit([event()] * 10)
        assert await log.prune(through=FOREVER, emitted_before=2_000.0, limit=4) == 4
        assert (log.pruned_through, log.head) == (4, 10)
        assert [found.sequence for found in await log.read(range(11))] == [5, 6, 7, 8, 9, 10]
        assert await log.counts() == (0, 6)


async def test_pruning_stops_after_through(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([event()] * 10)
        assert await log.prune(through=3, emitted_before=2_000.0) == 3
        assert await log.prune(through=3, emitted_before=2_000.0) == 0
        assert log.pruned_through == 3


async def test_pruning_stops_before_a_young_event(path: Path) -> None:
    """A young event keeps all events after it."""
    times = [1.0, 2.0, 9.0, 3.0, 4.0]  # the wall clock was set back once
    async with opened(path) as log:
        await log.commit([event(emitted_at=emitted_at) for emitted_at in times])
        assert await log.prune(through=FOREVER, emitted_before=5.0) == 2
        assert await log.prune(through=FOREVER, emitted_before=5.0) == 0
        assert await log.prune(through=FOREVER, emitted_before=9.0) == 0
        assert await log.prune(through=FOREVER, emitted_before=9.5) == 3


async def test_pruning_deletes_the_attachments(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([event(attachments=(b"a", b"b")), event(attachments=(b"c",))])
        await log.prune(through=1, emitted_before=2_000.0)
        assert sqlite(path, "SELECT offset, num, content FROM attachments") == "2|0|c\n"


async def test_pruning_deletes_ended_memberships(path: Path) -> None:
    """A membership is deleted after its last event, but only after its end."""
    async with opened(path) as log:
        await log.commit(
            [session(), joined("a"), joined("b"), joined("c"), event(), left("a"), event(), left("b")]
        )
        await log.prune(through=1, emitted_before=2_000.0)
        (stored,) = await log.load_sessions()
        assert set(stored.memberships) == {Membership("b", 0, 2), Membership("c", 0, None)}
        assert sqlite(path, "SELECT room FROM rooms") == "b\nc\n"


async def test_pruned_events_are_not_missed_any_more(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([event(rooms=("a",))] * 5)
        await log.prune(through=3, emitted_before=2_000.0)
        assert (await log.missed("/", always("a"), 0, 5)).sequences == (4, 5)
    async with opened(path) as log:
        assert (await log.missed("/", always("a"), 0, 5)).sequences == (4, 5)


async def test_sequences_continue_after_a_full_pruning(path: Path) -> None:
    """Sequences continue after a pruning of all events and a restart."""
    async with opened(path) as log:
        await log.commit([event()] * 3)
        sent = str(log.offset_at(3))
        assert await log.prune(through=FOREVER, emitted_before=2_000.0) == 3
    async with opened(path) as log:
        assert (log.head, log.pruned_through) == (3, 3)
        assert log.locate(sent).sequence == 3
        assert await log.commit([event()]) == [4]


async def test_a_segment_is_deleted_with_its_last_event(path: Path) -> None:
    total = 2 * SEGMENT_LENGTH + 500
    async with opened(path, index_memory=0) as log:
        for _ in range(0, total, 1000):
            await log.commit([event(rooms=("a",))] * 1000)
        await log.commit([event()])  # writes the segment which the last commit completed
        assert sqlite(path, "SELECT generation FROM index_generations") == "0\n1\n"
        await log.prune(through=SEGMENT_LENGTH - 2, emitted_before=2_000.0, limit=FOREVER)
        assert sqlite(path, "SELECT generation FROM index_lists") == "0\n1\n"
        await log.prune(through=SEGMENT_LENGTH - 1, emitted_before=2_000.0)
        assert sqlite(path, "SELECT generation FROM index_lists") == "1\n"
        assert sqlite(path, "SELECT generation FROM index_generations") == "1\n"
        assert (await log.missed("/", always("a"), 0, total)).sequences == tuple(
            range(SEGMENT_LENGTH, total + 1)
        )


def size_bytes(path: Path) -> int:
    return path.stat().st_size


async def test_pruned_pages_are_used_again(path: Path) -> None:
    """The file does not grow while pruning deletes as much as commits write."""
    async with opened(path) as log:
        sizes = []
        for _ in range(10):
            for _ in range(5):
                await log.commit([event("x" * 100)] * 1000)
                await log.prune(through=FOREVER, emitted_before=2_000.0)
            sizes.append(size_bytes(path))
    assert max(sizes[5:]) <= 2 * sizes[4]
