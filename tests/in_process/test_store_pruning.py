from __future__ import annotations

from pathlib import Path

from socketio_eventlog.records import Membership
from socketio_eventlog.segment import SEGMENT_LENGTH
from support.storing import always, event, joined, left, opened, session, sqlite

FOREVER = 10**9


async def test_the_oldest_events_go_first_and_not_more_than_allowed(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([event()] * 10)
        assert await log.prune(through=FOREVER, emitted_before=2_000.0, limit=4) == 4
        assert (log.pruned_through, log.head) == (4, 10)
        assert [found.sequence for found in await log.read(range(11))] == [5, 6, 7, 8, 9, 10]
        assert await log.counts() == (0, 6)


async def test_nothing_past_the_given_number_goes(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([event()] * 10)
        assert await log.prune(through=3, emitted_before=2_000.0) == 3
        assert await log.prune(through=3, emitted_before=2_000.0) == 0
        assert log.pruned_through == 3


async def test_an_event_that_is_too_young_keeps_all_that_follow_it(path: Path) -> None:
    times = [1.0, 2.0, 9.0, 3.0, 4.0]  # the wall clock was set back in between
    async with opened(path) as log:
        await log.commit([event(emitted_at=emitted_at) for emitted_at in times])
        assert await log.prune(through=FOREVER, emitted_before=5.0) == 2
        assert await log.prune(through=FOREVER, emitted_before=5.0) == 0
        assert await log.prune(through=FOREVER, emitted_before=9.0) == 0
        assert await log.prune(through=FOREVER, emitted_before=9.5) == 3


async def test_the_attachments_go_with_their_events(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([event(attachments=(b"a", b"b")), event(attachments=(b"c",))])
        await log.prune(through=1, emitted_before=2_000.0)
        assert sqlite(path, "SELECT offset, num, content FROM attachments") == "2|0|c\n"


async def test_memberships_that_ended_go_when_their_last_event_is_gone(path: Path) -> None:
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


async def test_numbers_go_on_after_everything_was_pruned_and_the_server_restarted(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([event()] * 3)
        sent = str(log.offset_at(3))
        assert await log.prune(through=FOREVER, emitted_before=2_000.0) == 3
    async with opened(path) as log:
        assert (log.head, log.pruned_through) == (3, 3)
        assert log.locate(sent).sequence == 3
        assert await log.commit([event()]) == [4]


async def test_the_index_of_a_generation_goes_with_its_last_event(path: Path) -> None:
    total = 2 * SEGMENT_LENGTH + 500
    async with opened(path, index_memory=0) as log:
        for _ in range(0, total, 1000):
            await log.commit([event(rooms=("a",))] * 1000)
        await log.commit([event()])  # writes what the commit before it has completed
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


async def test_the_file_does_not_grow_when_as_much_is_pruned_as_is_written(path: Path) -> None:
    async with opened(path) as log:
        sizes = []
        for _ in range(10):
            for _ in range(5):
                await log.commit([event("x" * 100)] * 1000)
                await log.prune(through=FOREVER, emitted_before=2_000.0)
            sizes.append(size_bytes(path))
    assert max(sizes[5:]) <= 2 * sizes[4]
