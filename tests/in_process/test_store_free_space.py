"""A log that has reached its size refuses what grows, and takes everything else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

from socketio_eventlog.changes import Change, EventHandled, Pruned
from socketio_eventlog.errors import LogFull
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.session_changes import DataSaved, SessionAway, SessionClaimed, SessionResumed
from socketio_eventlog.sqlite.log import EventLog
from support.embedded import until
from support.storing import BEAT, commit, ended, event, joined, opened, session

MAX_SIZE = 1_000_000
LARGE = event("x" * 50_000)


async def fill_log(log: EventLog) -> str:
    """Append events until the log refuses one; return the error."""
    for _ in range(100):
        try:
            await commit(log, [LARGE])
        except LogFull as error:
            return str(error)
    raise AssertionError("the log was never full")


def size_on_disk(path: Path) -> int:
    return sum(path.with_name(path.name + suffix).stat().st_size for suffix in ("", "-wal"))


async def test_only_growth_is_refused(path: Path) -> None:
    """Sessions, rooms, heartbeats and deletions go through; events, acknowledgements, longer data do not."""
    async with opened(path, max_size=MAX_SIZE) as log:
        await commit(log, [session(), DataSaved("/", "s1", '{"a":1}')])
        said = f"{path} and its WAL have reached max_size = {MAX_SIZE} bytes."
        assert await fill_log(log) == f"The event log is full; nothing was stored. {said}"
        refused: list[Change] = [
            event(),
            DataSaved("/", "s1", '{"a":12}'),
            EventHandled("/", "buy", "", "key", "[]"),
        ]
        for change in refused:
            with pytest.raises(LogFull):
                await log.append([change])
        head = log.head
        taken: list[Change] = [
            DataSaved("/", "s1", '{"b":2}'),
            SessionAway("/", "s1", 1, 1_000.0, 0),
            SessionClaimed("/", "s1"),
            SessionResumed("/", "s1", 2, 1_000.0),
            joined("room"),
            BEAT,
            session("s2"),
            ended("s2"),
        ]
        for change in taken:
            await commit(log, [change])
        assert log.head == head


async def test_size_stays_below_the_limit(path: Path) -> None:
    """The log refuses events at the latest an eighth beyond the limit, and one batch."""
    async with opened(path, max_size=MAX_SIZE) as log:
        await fill_log(log)
        assert MAX_SIZE < size_on_disk(path) < MAX_SIZE * 9 // 8 + 2 * 60_000


async def test_full_log_asks_for_deletions_first(path: Path) -> None:
    """A log beyond its size asks for deletions, and refuses events at once when none may go."""
    async with opened(path, max_size=MAX_SIZE) as log:
        assert not log.free_space.is_scarce
        while not log.free_space.is_scarce:
            await commit(log, [LARGE])
        assert log.free_space.refusal is None
        await commit(log, [LARGE])
        log.free_space.is_pruned = True
        with pytest.raises(LogFull):
            await log.append([LARGE])
        await until(lambda: log.free_space.refusal)
        await commit(log, [Pruned(log.head)])
        assert (
            not log.free_space.is_scarce and log.free_space.refusal is None and not log.free_space.is_pruned
        )
        await commit(log, [LARGE])


async def test_unused_pages_do_not_count(path: Path) -> None:
    """The file does not become smaller, and its unused pages take many times its size in events."""
    async with opened(path, max_size=MAX_SIZE) as log:
        for _ in range(5):
            await fill_log(log)
            await commit(log, [Pruned(log.head)])
            await until(lambda: not log.free_space.is_scarce)
        assert log.head > 5 * (MAX_SIZE * 3 // 4) // 60_000  # an empty database takes a share
        assert size_on_disk(path) < MAX_SIZE * 9 // 8 + 2 * 60_000


async def test_start_beyond_the_limit(path: Path) -> None:
    """A log that is larger than a new limit starts, is scarce at once, and can be pruned."""
    async with opened(path) as log:
        await commit(log, [LARGE] * 60)
    async with opened(path, max_size=MAX_SIZE) as log:
        await until(lambda: log.free_space.is_scarce)
        with pytest.raises(LogFull):
            await log.append([event()])
        await commit(log, [session()])
        await commit(log, [Pruned(50)])
        await commit(log, [event()])


async def grow_wal(log: EventLog) -> NoReturn:
    """Write the same pages again and again."""
    while True:
        await commit(log, [LARGE] * 40)
        await commit(log, [Pruned(log.head)])


async def test_long_reader_counts(path: Path) -> None:
    """A WAL that cannot be reused counts, and asks for no deletions, which would make it grow."""
    async with opened(path, max_size=20 * MAX_SIZE) as log:
        await commit(log, [event()])
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            with pytest.raises(LogFull):
                await grow_wal(log)
            await until(lambda: log.free_space.refusal)
            assert not log.free_space.is_scarce
        await commit(log, [BEAT])  # the next checkpoint writes the WAL from the start, and cuts it
        await commit(log, [BEAT])
        await commit(log, [event()])


async def test_limit_is_at_least_a_megabyte() -> None:
    """A limit without room for the tables and the WAL is refused."""
    with pytest.raises(ValueError, match="max_size must be at least 1000000 bytes, not 999999"):
        StoreOptions(path=None, max_size=999_999)
