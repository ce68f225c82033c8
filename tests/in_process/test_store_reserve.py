"""The reserve beside a database, on disks that are full."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

from socketio_eventlog.changes import Pruned
from socketio_eventlog.errors import LogFull, StoreNotUsable, StoreUnavailable
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.session_changes import SessionClaimed
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventlog.sqlite.reserve import RESERVE_BYTES, Reserve
from support.embedded import until
from support.small_disks import KINDS, Kind, fill, small_disk
from support.storing import BEAT, commit, event, opened, session

MEGABYTE = 1_000_000
LARGE = event("x" * 50_000)


def quota_error() -> sqlite3.OperationalError:
    """What SQLite raises for an exhausted quota, and for a broken disk alike."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    return error


def test_quota_counts_as_a_full_disk(tmp_path: Path) -> None:
    """An I/O error counts as a full disk only where the file system refuses more blocks."""
    with small_disk(tmp_path / "disk", "tmpfs", 4 * MEGABYTE):
        reserve = Reserve(tmp_path / "disk" / "events.db", 0o600)
        assert reserve.create()
        for existing in (True, False):
            size = {file.name: file.stat().st_size for file in (tmp_path / "disk").iterdir()}
            assert not reserve.ran_out(quota_error())
            fill(tmp_path / "disk" / "ballast")
            assert reserve.ran_out(quota_error())
            (tmp_path / "disk" / "ballast").unlink()
            assert size == {file.name: file.stat().st_size for file in (tmp_path / "disk").iterdir()}
            assert reserve.give_up() is existing
        assert reserve.ran_out(OSError(errno.EDQUOT, "Disk quota exceeded"))
        assert not reserve.ran_out(OSError(errno.EIO, "Input/output error"))
        assert not reserve.ran_out(sqlite3.OperationalError("database is locked"))


def test_reserve_leaves_room(tmp_path: Path) -> None:
    """No reserve is made when it would take the last room of the disk."""
    with small_disk(tmp_path / "disk", "tmpfs", 16 * MEGABYTE):
        reserve = Reserve(tmp_path / "disk" / "events.db", 0o600)
        ballast = tmp_path / "disk" / "ballast"
        ballast.write_bytes(bytes(13 * MEGABYTE))
        assert not reserve.create() and reserve.is_possible
        assert 0 < reserve.missing_bytes <= 2 * reserve.size_bytes
        ballast.write_bytes(bytes(13 * MEGABYTE - reserve.missing_bytes - 8192))
        assert reserve.create() and reserve.create()


def test_sparse_reserve_gets_its_blocks(tmp_path: Path) -> None:
    """A reserve that was copied without its blocks is made again."""
    path = tmp_path / "events.db-reserve"
    path.touch()
    os.truncate(path, RESERVE_BYTES)
    reserve = Reserve(tmp_path / "events.db", 0o600)
    assert path.stat().st_blocks * 512 < RESERVE_BYTES
    assert reserve.create()
    assert path.stat().st_size == RESERVE_BYTES <= path.stat().st_blocks * 512


@pytest.fixture
def small_files() -> Iterator[None]:
    """A limit of the size of files that is smaller than the reserve."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (RESERVE_BYTES - 1, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
async def test_reserve_that_cannot_be_made(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a reserve the log works, and one line says so."""
    async with opened(path) as log:
        await commit(log, [event()])
        assert log.free_space.refusal is None
    (line,) = caplog.messages
    assert line.startswith(f"{path}-reserve cannot reserve room on its disk: ")


async def test_full_disk_at_the_first_start(tmp_path: Path) -> None:
    """A first start on a full disk says how many bytes must be freed, and works then."""
    with small_disk(tmp_path / "disk", "tmpfs", 16 * MEGABYTE):
        path, ballast = tmp_path / "disk" / "events.db", tmp_path / "disk" / "ballast"
        fill(ballast)
        with pytest.raises(StoreNotUsable, match=r"bytes must be freed by hand\.$"):
            await EventLog.open(StoreOptions(path=path))
        ballast.unlink()
        async with opened(path) as log:
            await commit(log, [event()])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size_bytes", [2_000, 200_000, 2_000_000])
async def test_checkpoint_has_room(tmp_path: Path, kind: Kind, size_bytes: int) -> None:
    """Large batches leave no pages in the WAL that find no room in the database."""
    with small_disk(tmp_path / "disk", kind, 12 * MEGABYTE):
        async with opened(tmp_path / "disk" / "events.db") as log:
            for number in range(4):
                batches = [[event("x" * size_bytes)] * (2_000_000 // size_bytes) for _ in range(12)]
                appending = await asyncio.gather(*map(log.append, batches), return_exceptions=True)
                assert {type(one) for one in appending} in ({LogFull}, {LogFull, int})
                await commit(log, [BEAT, session(f"s{number}")])
                while log.pruned_through < log.head:
                    await commit(log, [Pruned(log.pruned_through + 1)])
                await commit(log, [BEAT])
                await commit(log, [event()])


async def claim_for_ever(log: EventLog) -> NoReturn:
    while True:
        await commit(log, [SessionClaimed("/", "s1")])


async def test_recovery_of_the_reserve(tmp_path: Path) -> None:
    """A full disk costs the reserve; the next append after a file has gone makes it again."""
    with small_disk(tmp_path / "disk", "tmpfs", 16 * MEGABYTE):
        path, ballast = tmp_path / "disk" / "events.db", tmp_path / "disk" / "ballast"
        async with opened(path) as log:
            await commit(log, [session()])
            fill(ballast)
            with pytest.raises(LogFull, match="The disk of"):
                await asyncio.gather(*(log.append([LARGE] * 10) for _ in range(5)))
            await until(lambda: log.free_space.is_scarce and log.free_space.refusal)
            assert not path.with_name("events.db-reserve").exists()
            await commit(log, [SessionClaimed("/", "s1"), BEAT])
            fill(ballast)
            with closing(sqlite3.connect(path, isolation_level=None)) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM events").fetchone()
                with pytest.raises(StoreUnavailable, match=r"bytes must be freed by hand\.$"):
                    await claim_for_ever(log)
            ballast.unlink()
            await commit(log, [event()])
            assert path.with_name("events.db-reserve").exists()
            await until(lambda: log.free_space.refusal is None and not log.free_space.is_scarce)
