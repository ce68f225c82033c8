"""What the store knows about events that another program has changed, deleted or lost."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from socketio_eventlog.changes import Pruned
from socketio_eventlog.errors import StoreNotUsable, StoreRejected
from socketio_eventlog.log import Log
from socketio_eventlog.segment import SEGMENT_LENGTH
from socketio_eventlog.session_changes import RoomJoined
from support.log_engines import Store
from support.storing import BEAT, always, commit, event, opened, session, sqlite

pytestmark = pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the sqlite3 program")

BAD = event("\ud800")


async def is_incomplete(log: Log, *rooms: str, after: int = 0, namespace: str = "/") -> bool:
    limits = {"max_events": 10**6, "max_bytes": 10**9}
    summary = await log.summarise_missed(namespace, always(*rooms), after, log.head, **limits)
    return summary.is_incomplete


async def test_holes_of_failed_appends_are_no_loss(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The sequences of failed transactions are recorded as unused: a start does not miss their events."""
    async with opened(path) as log:
        for _ in range(3):
            await commit(log, [event(rooms=("a",))])
            with suppress(StoreRejected):
                await log.append([event(), BAD])
        assert log.head == 7
    assert sqlite(path, "SELECT first, last FROM unused_ranges") == "2|3\n5|6\n"
    async with opened(path) as log:
        assert not await is_incomplete(log, "a")
    assert "lost" not in caplog.text


async def test_a_transaction_brings_the_news(store: Store) -> None:
    """A deletion is known when the next transaction has committed, whatever the transaction does."""
    async with store.open() as log:
        await commit(log, [session(), *[event(rooms=(room,)) for room in "abab"]])
        store.sql('DELETE FROM events WHERE "offset" = 3')
        assert not await is_incomplete(log, "a")
        await commit(log, [RoomJoined("/", "s1", "room")])
        assert await is_incomplete(log, "a") and await is_incomplete(log, "a", after=2)
        assert not await is_incomplete(log, "b") and not await is_incomplete(log, "a", after=3)
        assert not await is_incomplete(log, "a", namespace="/other")


async def test_audience_of_older_segments_is_known(store: Store) -> None:
    """After a restart, a segment on disk still tells who needs a deleted event."""
    async with store.open() as log:
        for _ in range(2):
            await commit(log, [event(rooms=(room,)) for room in "ab" * (SEGMENT_LENGTH // 2)])
        for _ in range(50):
            await commit(log, [event(rooms=("b",))])
    store.sql('DELETE FROM events WHERE "offset" IN (1001, 1003)')  # of room a
    async with store.open() as log:
        assert await is_incomplete(log, "a", after=1002)
        assert not await is_incomplete(log, "b")
        assert not await is_incomplete(log, "a", after=1003)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM index_lists",
        'DELETE FROM index_lists WHERE audience = \'["/","a"]\'',
        "UPDATE index_lists SET offsets = substr(offsets, 1, 10)",
        'UPDATE index_lists SET audience = \'["/","c"]\' WHERE audience = \'["/","a"]\'',
    ],
)
async def test_changes_of_the_index_are_noticed(path: Path, statement: str) -> None:
    """Without a list of the index, clients of the room would miss events: all of the segment are altered."""
    async with opened(path) as log:
        await commit(log, [event(rooms=(room,)) for room in "ab" * (SEGMENT_LENGTH // 2)])
        await commit(log, [event(rooms=("a",))] * 2)
        await commit(log, [event(rooms=("a",))])
    assert sqlite(path, "SELECT count(*) FROM index_lists") == "2\n"
    sqlite(path, statement)
    assert (
        sqlite(path, "SELECT first, last, audience_lost FROM altered_ranges") == f"0|{SEGMENT_LENGTH - 1}|1\n"
    )
    async with opened(path) as log:
        assert await is_incomplete(log, "a")
        assert not await is_incomplete(log, "a", after=SEGMENT_LENGTH)


@pytest.mark.parametrize(
    ("statement", "last"),
    [
        ("DELETE FROM index_generations WHERE generation = 0", SEGMENT_LENGTH - 1),
        ("DELETE FROM index_generations", 2 * SEGMENT_LENGTH - 1),
        ("UPDATE index_generations SET generation = 999999 WHERE generation = 0", 2 * SEGMENT_LENGTH + 1),
        (
            "UPDATE index_generations SET sizes = zeroblob(9999996) WHERE generation > 0",
            2 * SEGMENT_LENGTH + 1,
        ),
    ],
)
async def test_changes_of_segments_are_noticed(path: Path, statement: str, last: int) -> None:
    """Without the row of a segment the lists are not found, and a changed row hides later events."""
    async with opened(path) as log:
        for _ in range(2):
            await commit(log, [event(rooms=(room,)) for room in "ab" * (SEGMENT_LENGTH // 2)])
        await commit(log, [event(rooms=("a",))])
        await commit(log, [BEAT])
    assert sqlite(path, "SELECT count(*) FROM index_generations") == "2\n"
    sqlite(path, statement)
    async with opened(path) as log:
        head = log.head
        assert head == 2 * SEGMENT_LENGTH + 1
        assert await is_incomplete(log, "a", after=last - 2) and not await is_incomplete(log, "a", after=last)
        await commit(log, [event(rooms=("a",))])
        assert (await log.missed("/", always("a"), head, head + 1)).sequences == (head + 1,)


async def test_lists_of_a_segment_go_in_steps(path: Path) -> None:
    """A pruning deletes the row of a segment, and a part of many lists; later ones delete the rest."""
    async with opened(path) as log:
        await commit(log, [event(rooms=("a",))] * SEGMENT_LENGTH)
        await commit(log, [event(rooms=("a",))])
        await commit(log, [BEAT])
        numbers = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4999)"
        sqlite(path, f"{numbers} INSERT INTO index_lists SELECT 0, i, x'', 0 FROM n")
        left = []
        for _ in range(6):
            await commit(log, [Pruned(SEGMENT_LENGTH - 1)])
            left.append(int(sqlite(path, "SELECT count(*) FROM index_lists WHERE generation = 0")))
        assert sqlite(path, "SELECT count(*) FROM altered_ranges") == "0\n"
    assert left == [3750, 2750, 1750, 750, 0, 0]


async def test_the_server_prunes_its_index(path: Path) -> None:
    """The server's own deletion of a segment, and of an unfinished one, is no change of another program."""
    async with opened(path) as log:
        for _ in range(2):
            await commit(log, [event(rooms=(room,)) for room in "ab" * (SEGMENT_LENGTH // 2)])
        await commit(log, [event(rooms=("a",))])
        await commit(log, [event(rooms=("a",)), Pruned(SEGMENT_LENGTH - 1)])
    sqlite(path, f"INSERT INTO index_lists VALUES ({3 * SEGMENT_LENGTH}, '[\"/\",\"a\"]', x'0000', 1)")
    async with opened(path) as log:
        assert (
            sqlite(path, "SELECT group_concat(DISTINCT generation) FROM index_lists") == f"{SEGMENT_LENGTH}\n"
        )
        assert sqlite(path, "SELECT count(*) FROM altered_ranges") == "0\n"
        assert not await is_incomplete(log, "a")


async def test_ranges_are_pruned_with_their_events(path: Path) -> None:
    """Pruning deletes the notes with the events, and later notes are found all the same."""
    async with opened(path) as log:
        await commit(log, [event(rooms=("a",))] * 9)
        sqlite(path, "DELETE FROM events WHERE offset IN (2, 4)")
        await commit(log, [Pruned(5)])
        assert sqlite(path, "SELECT last FROM altered_ranges") == "4\n"  # the newest one stays
        assert not await is_incomplete(log, "a")
        sqlite(path, "DELETE FROM events WHERE offset = 7")
        await commit(log, [Pruned(6)])
        assert await is_incomplete(log, "a")
        await commit(log, [Pruned(7)])
        assert not await is_incomplete(log, "a")


async def test_a_deleted_end_is_not_used_again(store: Store) -> None:
    """The sequences of events that were deleted at the end of the log are not given to others."""
    async with store.open() as log:
        await commit(log, [event(rooms=("a",))] * 5)
    store.sql('DELETE FROM events WHERE "offset" > 3')
    async with store.open() as log:
        assert log.head == 5
        assert await is_incomplete(log, "a", after=4) and not await is_incomplete(log, "a", after=5)
        assert await commit(log, [event()]) == [6]


async def test_a_failed_start_keeps_the_progress(path: Path, tmp_path: Path) -> None:
    """A start that fails, as on a full disk, leaves the next one what the former server has committed."""
    crashed = tmp_path / "crashed" / path.name
    crashed.parent.mkdir()
    async with opened(path, new_epoch=lambda: "first") as log:
        await commit(log, [event(rooms=("a",))] * 5)
        for file in ("", "-lock"):  # without the WAL, which has the events
            shutil.copy(f"{path}{file}", f"{crashed}{file}")
    with pytest.raises(StoreNotUsable):
        async with opened(crashed, new_epoch=lambda: "first"):
            pass
    async with opened(crashed) as log:
        assert log.head == 5 and await is_incomplete(log, "a", after=4)
    assert not crashed.with_name(f"{path.name}-lock").exists()


async def test_lost_join_concerns_every_session(path: Path, tmp_path: Path) -> None:
    """A join that was lost together with events: not even a client that has all events recovers."""
    crashed = tmp_path / "crashed" / path.name
    crashed.parent.mkdir()
    async with opened(path) as log:
        await commit(log, [session(), event(rooms=("a",))])
        sqlite(path, "PRAGMA wal_checkpoint")
        await commit(log, [event(rooms=("a",)), RoomJoined("/", "s1", "room")])
        for file in ("", "-lock"):  # without the WAL, which has the join
            shutil.copy(f"{path}{file}", f"{crashed}{file}")
    async with opened(crashed) as log:
        assert log.head >= 2 and await is_incomplete(log, "a", after=2)


async def test_deleted_neighbours_become_one_row(store: Store) -> None:
    async with store.open() as log:
        await commit(log, [event(rooms=("a",))] * 1000)
        await commit(log, [BEAT])
        store.sql('DELETE FROM events WHERE "offset" > 500')
        assert store.sql("SELECT first, last FROM altered_ranges") == "501|1000\n"


async def test_many_changes_are_one_warning(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of scattered changes stay small in memory, and are one line in the log."""
    async with store.open() as log:
        for _ in range(5):
            await commit(log, [event(rooms=("a",))] * 1000)
        store.sql("""UPDATE events SET payload = '["other"]' WHERE "offset" % 2 = 1""")
        await commit(log, [BEAT])
        assert await is_incomplete(log, "a", after=4998)
        assert not await is_incomplete(log, "b")
        store.sql("""UPDATE events SET payload = '["other"]' WHERE "offset" = 1""")
        await commit(log, [BEAT])
    warnings = [text for _, level, text in caplog.record_tuples if level == logging.WARNING]
    changes = [text for text in warnings if "fsync = off" not in text]  # the cluster of the tests is fast
    assert len(changes) == 1 and "changed or deleted events between 1 and 4999" in changes[0]


async def test_changed_rooms_do_not_stop_the_start(store: Store) -> None:
    """A room that is no JSON any more does not keep the server from starting."""
    async with store.open() as log:
        await commit(log, [event(rooms=("a",))] * 3)
    store.sql("""UPDATE events SET rooms = 'a' WHERE "offset" = 2""")
    async with store.open() as log:
        assert await is_incomplete(log, "a", after=1) and not await is_incomplete(log, "a", after=2)
