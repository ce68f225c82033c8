from __future__ import annotations

from pathlib import Path

from socketio_eventlog.changes import Pruned
from socketio_eventlog.segment import SEGMENT_LENGTH
from socketio_eventlog.snapshot import Membership
from support.log_engines import Store
from support.storing import always, commit, event, joined, left, opened, session, sqlite, stored_sessions

FOREVER = 10**9


async def test_pruning_deletes_up_to_a_sequence(store: Store) -> None:
    """A change deletes the events up to its sequence; an earlier sequence deletes nothing more."""
    async with store.open() as log:
        await commit(log, [event()] * 10)
        for through in (4, 4, 3):
            assert await commit(log, [Pruned(through)]) == [10]
            assert (log.pruned_through, log.head) == (4, 10)
            assert [found.sequence for found in await log.read(range(11))] == [5, 6, 7, 8, 9, 10]
            assert await log.counts() == (0, 6)
    async with store.open() as log:
        assert log.pruned_through == 4


async def test_pruning_ends_at_its_own_place(store: Store) -> None:
    """Events after the change stay, also in its own batch, however large the sequence is."""
    async with store.open() as log:
        await commit(log, [event(), event(), Pruned(FOREVER), event(rooms=("a",))])
        assert (log.pruned_through, log.head) == (2, 3)
        assert (await log.missed("/", always("a"), 0, 3)).sequences == (3,)
    async with store.open() as log:
        assert (log.pruned_through, log.head) == (2, 3)
        assert await commit(log, [event()]) == [4]


async def test_pruning_knows_no_wall_clock(path: Path) -> None:
    """An event whose wall-clock time lies in the future is deleted with the events around it."""
    times = [1.0, 2.0, 9e9, 3.0, 4.0]
    async with opened(path, wall_clock=lambda: 5.0) as log:
        await commit(log, [event(emitted_at=emitted_at) for emitted_at in times])
        await commit(log, [Pruned(4)])
        assert [found.sequence for found in await log.read(range(6))] == [5]


async def test_pruning_deletes_the_attachments(store: Store) -> None:
    async with store.open() as log:
        await commit(log, [event(attachments=(b"a", b"b")), event(attachments=(b"c",))])
        await commit(log, [Pruned(1)])
        assert store.sql('SELECT "offset", num FROM attachments') == "2|0\n"


async def test_pruning_deletes_ended_memberships(store: Store) -> None:
    """A membership is deleted after its last event, but only after its end."""
    async with store.open() as log:
        await commit(
            log, [session(), joined("a"), joined("b"), joined("c"), event(), left("a"), event(), left("b")]
        )
        await commit(log, [Pruned(1)])
        (stored,) = await stored_sessions(log)
        assert set(stored.memberships) == {Membership("b", 0, 2), Membership("c", 0, None)}
        assert store.sql("SELECT count(*) FROM rooms") == "2\n"


async def test_pruned_events_are_not_missed_any_more(store: Store) -> None:
    async with store.open() as log:
        await commit(log, [event(rooms=("a",))] * 5)
        await commit(log, [Pruned(3)])
        assert (await log.missed("/", always("a"), 0, 5)).sequences == (4, 5)
    async with store.open() as log:
        assert (await log.missed("/", always("a"), 0, 5)).sequences == (4, 5)


async def test_sequences_continue_after_a_full_pruning(store: Store) -> None:
    """Sequences continue after a pruning of all events and a restart."""
    async with store.open() as log:
        await commit(log, [event()] * 3)
        sent = str(log.offset_at(3))
        await commit(log, [Pruned(FOREVER)])
    async with store.open() as log:
        assert (log.head, log.pruned_through) == (3, 3)
        assert log.locate(sent).sequence == 3
        assert await commit(log, [event()]) == [4]


async def test_a_segment_is_deleted_with_its_last_event(path: Path) -> None:
    total = 2 * SEGMENT_LENGTH + 500
    async with opened(path, index_memory=0) as log:
        for _ in range(0, total, 1000):
            await commit(log, [event(rooms=("a",))] * 1000)
        await commit(log, [event()])  # writes the segment which the last commit completed
        assert sqlite(path, "SELECT generation FROM index_generations") == "0\n4096\n"
        await commit(log, [Pruned(SEGMENT_LENGTH - 2)])
        assert sqlite(path, "SELECT generation FROM index_lists") == "0\n4096\n"
        await commit(log, [Pruned(SEGMENT_LENGTH - 1)])
        assert sqlite(path, "SELECT generation FROM index_lists") == "4096\n"
        assert sqlite(path, "SELECT generation FROM index_generations") == "4096\n"
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
                await commit(log, [event("x" * 100)] * 1000)
                await commit(log, [Pruned(FOREVER)])
            sizes.append(size_bytes(path))
    assert max(sizes[5:]) <= 2 * sizes[4]
