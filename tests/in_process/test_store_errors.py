from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

import pytest

from socketio_eventlog.changes import Change, Pruned
from socketio_eventlog.errors import StoreBusy, StoreClosed, StoreRejected, StoreUnavailable
from socketio_eventlog.events import Event
from socketio_eventlog.session_changes import DataSaved
from socketio_eventlog.sqlite import lock
from socketio_eventlog.sqlite.log import EventLog
from support.storing import BEAT, always, commit, event, joined, opened, session, stored_sessions


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program has a write transaction open."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def assert_unharmed(log: EventLog) -> None:
    """The log accepts the next commit, and the index finds the event."""
    (sequence,) = await commit(log, [event(rooms=("unharmed",))])
    assert log.head == sequence
    assert (await log.missed("/", always("unharmed"), sequence - 1, sequence)).sequences == (sequence,)
    assert [found.sequence for found in await log.read([sequence])] == [sequence]


async def test_another_programs_lock_is_reported(path: Path) -> None:
    """Another program's write lock is reported, and no sequence is used up."""
    async with opened(path) as log:
        with locked(path):
            with pytest.raises(StoreBusy):
                await commit(log, [event()])
            with pytest.raises(StoreBusy):
                await commit(log, [Pruned(1)])
            with pytest.raises(StoreBusy):
                await commit(log, [BEAT])
        assert await commit(log, [event()]) == [1]
        await assert_unharmed(log)


async def test_reading_goes_on_while_another_program_writes(path: Path) -> None:
    async with opened(path) as log:
        await commit(log, [event()])
        with locked(path):
            assert [found.sequence for found in await log.read([1])] == [1]
            assert await log.counts() == (0, 1)


async def test_a_full_disk_is_reported(path: Path) -> None:
    """A full disk is reported, and no change of the batch is stored."""
    async with opened(path) as log:
        await commit(log, [session(), event()])
        pages = "PRAGMA max_page_count = 1"  # SQLite takes the present number of pages
        await log._writer_database.run(lambda connection: connection.execute(pages).fetchone())
        with pytest.raises(StoreUnavailable, match="full") as failure:
            await commit(log, [joined("a"), event(), event("x" * 1_000_000)])
        assert isinstance(failure.value.__cause__, sqlite3.OperationalError)
        assert log.head == 1
        assert (await stored_sessions(log))[0].memberships == ()
        await log._writer_database.run(
            lambda connection: connection.execute("PRAGMA max_page_count = 1000000").fetchone()
        )
        # 2 and 3 are used up: a failed COMMIT may be found on disk after a crash.
        assert await commit(log, [joined("a"), event()]) == [1, 4]
        assert (await log.read(range(9)))[-1].sequence == 4
        await assert_unharmed(log)
    async with opened(path) as log:
        assert log.head == 5
        await assert_unharmed(log)


BAD_CHANGES: dict[str, Change] = {
    "a lone surrogate in the payload": event("\ud800"),
    "a lone surrogate in a room": event(rooms=("\ud800",)),
    "a lone surrogate in a sid": session("\ud800"),
    "a lone surrogate in data": DataSaved("/", "s1", "\udfff"),
    "a room that is neither text nor number": event(rooms=cast("tuple[str]", (object(),))),
    "a room beyond 64 bits": joined(2**63),
    "a time that is no number": event(emitted_at=float("nan")),
    "a time that is text": event(emitted_at=cast("float", "yesterday")),
    "no name": event()._replace(name=cast("str", None)),
    "an attachment that is no bytes": event(attachments=cast("tuple[bytes]", ({},))),
    "a session that is there already": session("s1"),
}


@pytest.mark.parametrize("bad", BAD_CHANGES.values(), ids=BAD_CHANGES.keys())
async def test_a_bad_change_is_refused_with_its_batch(path: Path, bad: Change) -> None:
    """An invalid change is refused with its whole batch, and later batches are accepted."""
    async with opened(path) as log:
        await commit(log, [session("s1")])
        with pytest.raises(StoreRejected) as refusal:
            await commit(log, [event(), session("s2"), bad, event()])
        assert refusal.value.__cause__ is not None
        assert "\n" not in str(refusal.value)
        assert await log.counts() == (1, 0)
        assert log.head == 0
        await assert_unharmed(log)


async def test_a_refused_batch_uses_up_its_sequences(path: Path) -> None:
    """No later event receives a sequence of a refused batch."""
    bad: Event = event("\ud800")
    async with opened(path) as log:
        with pytest.raises(StoreRejected):
            await commit(log, [event(), bad])
        assert await commit(log, [session(), event(rooms=("a",)), event()]) == [0, 3, 4]
        assert (await log.missed("/", always("a"), 0, 4)).sequences == (3,)


async def test_a_closed_log_says_so(path: Path) -> None:
    async with opened(path) as log:
        await log.close()
        await log.close()
        for use in (
            commit(log, [event()]),
            log.read([1]),
            stored_sessions(log),
            commit(log, [Pruned(1)]),
            commit(log, [BEAT]),
            log.counts(),
        ):
            with pytest.raises(StoreClosed):
                await use


async def test_close_finishes_submitted_commits(path: Path) -> None:
    async with opened(path) as log:
        number = log.append([event()])
        await log.close()
        assert await number == 1
        assert [batch.number async for batch in log.batches()] == [1]
    async with opened(path) as log:
        assert log.head == 1


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_a_deleted_file_is_noticed(path: Path, suffix: str) -> None:
    async with opened(path) as log:
        await commit(log, [BEAT])
        path.with_name(path.name + suffix).unlink()
        with pytest.raises(StoreUnavailable, match="deleted or replaced"):
            await commit(log, [BEAT])


async def test_a_replaced_file_is_noticed(path: Path) -> None:
    async with opened(path) as log:
        copy = path.with_suffix(".copy")
        shutil.copy(path, copy)
        copy.replace(path)
        with pytest.raises(StoreUnavailable, match=str(path)):
            await commit(log, [BEAT])


async def test_without_locks_the_second_server_wins(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks a second server stops the writes of the first server."""
    monkeypatch.setattr(lock, "HAS_LOCKS", False)
    async with opened(path) as first:
        assert await commit(first, [event()]) == [1]
        async with opened(path) as second:
            assert await commit(second, [event("second")]) == [2]
            for write in (
                commit(first, [event("first")]),
                commit(first, [Pruned(9)]),
                commit(first, [BEAT]),
            ):
                with pytest.raises(StoreUnavailable, match="Another server"):
                    await write
            assert await commit(second, [event("second")]) == [3]


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2].ljust(len(content), b"\xff"))


async def test_damage_to_the_file_is_reported(path: Path) -> None:
    async with opened(path) as log:
        for _ in range(20):
            await commit(log, [event("x" * 1000)] * 20)
    damage(path)
    with pytest.raises(Exception) as failure:
        async with opened(path) as log:
            await log.read(range(400))
    assert "malformed" in str(failure.value)
    assert type(failure.value).__module__.endswith("socketio_eventlog.errors")
