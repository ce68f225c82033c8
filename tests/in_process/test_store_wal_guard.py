"""A WAL that was cut past SQLite is noticed; what SQLite does with the WAL is no cut."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from socketio_eventlog.errors import StoreUnavailable
from support.storing import BEAT, commit, event, opened, sqlite


def of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def empty(wal: Path) -> None:
    os.truncate(wal, 0)


def halve(wal: Path) -> None:
    os.truncate(wal, wal.stat().st_size // 2)


CUTS = pytest.mark.parametrize("cut", [empty, halve])


@CUTS
async def test_a_shorter_wal_stops_the_next_append(path: Path, cut: Callable[[Path], None]) -> None:
    """A cut is noticed before the next transaction, and no later transaction is written either."""
    async with opened(path) as log:
        await commit(log, [event("x" * 1000)] * 200)  # more than the first migration
        cut(of(path))
        size = of(path).stat().st_size
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="was cut by another program"):
                await log.append([event()])
        assert of(path).stat().st_size == size


@CUTS
async def test_a_cut_inside_a_commit(path: Path, cut: Callable[[Path], None]) -> None:
    """A WAL with its size, and zeros in the place of a frame, is noticed at a heartbeat.

    So it looks after a cut in the middle of a transaction: SQLite has written behind the end.
    """
    async with opened(path) as log:
        await commit(log, [event("x" * 1000)] * 200)  # more than the first migration
        await commit(log, [BEAT])
        size = of(path).stat().st_size
        cut(of(path))
        os.truncate(of(path), size)
        with pytest.raises(StoreUnavailable, match="was cut by another program"):
            await log.append([BEAT])


async def test_a_wal_that_is_gone_at_once(path: Path) -> None:
    """A WAL that is deleted before the first transaction makes the store unavailable."""
    async with opened(path) as log:
        of(path).unlink()
        with pytest.raises(StoreUnavailable, match="cannot be watched"):
            await log.append([event()])


async def test_checkpoints_are_no_cut(path: Path) -> None:
    """SQLite begins the WAL anew many times, and cuts a WAL that a reader has kept long."""
    async with opened(path) as log:
        for _ in range(60):
            await commit(log, [event("x" * 1000)] * 100)
            await commit(log, [BEAT])


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the sqlite3 program")
@pytest.mark.parametrize("mode", ["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
async def test_checkpoints_of_others_are_no_cut(path: Path, mode: str) -> None:
    async with opened(path) as log:
        for _ in range(3):
            await commit(log, [event("x" * 1000)] * 200)  # more than the first migration
            await commit(log, [BEAT])
            sqlite(path, f"PRAGMA wal_checkpoint({mode})")
            await commit(log, [BEAT])
            await commit(log, [event()])


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the sqlite3 program")
async def test_a_checkpoint_in_the_middle_of_a_check(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite may cut the WAL between the reads of its index and of its size: that is no cut."""
    checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)"
    sizes: list[int] = []

    def size_after_a_checkpoint(handle: int, at: int, whence: int) -> int:
        if len(sizes) == 1:  # the size was smaller than before, and the index has been read
            assert sizes[0] > 0
            sqlite(path, checkpoint)
        sizes.append(real_lseek(handle, at, whence))
        return sizes[-1]

    real_lseek = os.lseek
    async with opened(path) as log:
        await commit(log, [event("x" * 1000)] * 50)
        sqlite(path, f"{checkpoint}; PRAGMA user_version = 7")
        monkeypatch.setattr(os, "lseek", size_after_a_checkpoint)
        await commit(log, [event()])
        assert sizes[1] == 0
        monkeypatch.undo()
        await commit(log, [BEAT])
