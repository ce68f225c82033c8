from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import pytest

from socketio_eventlog.errors import StoreClosed, StoreRejected, StoreUnavailable
from socketio_eventlog.options import Synchronous
from socketio_eventlog.sqlite import schema
from socketio_eventlog.sqlite.database import Database, StoreConnection
from support.storing import commit, event, opened


def connect() -> StoreConnection:
    return sqlite3.connect(":memory:", isolation_level=None, factory=StoreConnection)


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    database = await Database.open(connect)
    yield database
    await database.close()


async def test_jobs_run_in_order_on_one_thread(database: Database) -> None:
    """Jobs run one at a time, in the order of their submission, off the loop's thread."""
    seen: list[tuple[int, int]] = []
    jobs = [lambda _connection, n=n: seen.append((n, threading.get_ident())) for n in range(100)]
    await asyncio.gather(*(database.run(job) for job in jobs))
    assert [number for number, _ in seen] == list(range(100))
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1] != threading.get_ident()


async def test_a_failed_job_leaves_no_transaction_open(database: Database) -> None:
    def failing(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE half (done)")
        raise OverflowError("too much")

    with pytest.raises(StoreRejected) as failure:
        await database.run(failing)
    assert isinstance(failure.value.__cause__, OverflowError)
    assert await database.run(lambda connection: connection.in_transaction) is False
    tables = await database.run(
        lambda connection: connection.execute("SELECT * FROM sqlite_master").fetchall()
    )
    assert tables == []


async def test_a_programming_error_is_not_translated(database: Database) -> None:
    """A programming error of a job arrives unchanged, and an SQLite error arrives as a StoreError."""
    with pytest.raises(ZeroDivisionError):
        await database.run(lambda _connection: 1 // 0)
    with pytest.raises(StoreUnavailable, match="no such table") as failure:
        await database.run(lambda connection: connection.execute("SELECT * FROM nowhere"))
    assert isinstance(failure.value.__cause__, sqlite3.OperationalError)


async def test_a_cancelled_wait_does_not_stop_the_job(database: Database) -> None:
    begun, may_end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def slow(_connection: sqlite3.Connection) -> None:
        begun.set()
        may_end.wait()
        ended.append(True)

    waiting = asyncio.ensure_future(database.run(slow))
    await asyncio.to_thread(begun.wait)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    may_end.set()
    await database.run(lambda _connection: None)
    assert ended == [True]


async def test_close_finishes_the_queue() -> None:
    """A close finishes the queued jobs and ends the thread."""
    before = set(threading.enumerate())
    database = await Database.open(connect)
    (thread,) = set(threading.enumerate()) - before
    queued = [database.submit(lambda _connection: 1) for _ in range(10)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await asyncio.gather(database.close(), database.close())
        assert await asyncio.gather(*queued) == [1] * 10
        thread.join(timeout=60)
    assert not thread.is_alive()
    with pytest.raises(StoreClosed):
        await database.run(lambda _connection: 1)


async def test_a_failed_connection_leaves_no_thread() -> None:
    """A failed connection raises its own exception and leaves no thread."""

    def failing() -> StoreConnection:
        raise ZeroDivisionError

    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        await Database.open(failing)
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)
        assert not thread.is_alive()


class SaturatedLoop:
    """Keeps the event loop busy without a sleep."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rounds = 0
        self._running = True
        self.has_run = asyncio.Event()
        """Set after many rounds."""

    def __enter__(self) -> Self:
        self._loop.call_soon(self._work)
        return self

    def __exit__(self, *_error: object) -> None:
        self._running = False

    def _work(self) -> None:
        self._rounds += 1
        until = time.perf_counter() + 0.0005
        while time.perf_counter() < until:
            pass
        if self._rounds == 200:
            self.has_run.set()
        if self._running:
            self._loop.call_soon(self._work)


async def test_commits_progress_on_a_saturated_loop(tmp_path: Path) -> None:
    """Commits make progress while the loop never sleeps; without GIL relief they would take minutes."""
    async with opened(tmp_path / "events.db") as log:
        with SaturatedLoop():
            for _ in range(100):
                await commit(log, [event()] * 100)
        assert log.head == 10_000


@pytest.mark.parametrize("committing", [False, True])
async def test_a_job_that_hangs_does_not_stop_the_loop(database: Database, committing: bool) -> None:
    may_end = threading.Event()

    def hang(connection: sqlite3.Connection) -> None:
        assert isinstance(connection, StoreConnection) and connection.gil_relief is not None
        if committing:
            connection.gil_relief.commit_begins()
        may_end.wait()

    hanging = database.submit(hang)
    with SaturatedLoop() as loop:
        await loop.has_run.wait()
    assert not hanging.done()
    may_end.set()
    await hanging


async def test_an_idle_database_has_no_timer(database: Database) -> None:
    """The GIL relief stops its timer when no job is left."""
    await database.run(lambda _connection: None)
    while database._gil_relief._watching:  # noqa: ASYNC110 -- the end has no event
        await asyncio.sleep(0)


async def test_a_cancelled_start_waits_for_its_thread() -> None:
    begun, may_end = threading.Event(), threading.Event()
    before = set(threading.enumerate())

    def slow() -> StoreConnection:
        begun.set()
        may_end.wait()
        return connect()

    opening = asyncio.ensure_future(Database.open(slow))
    await asyncio.to_thread(begun.wait)
    opening.cancel()
    asyncio.get_running_loop().call_soon(may_end.set)
    with pytest.raises(asyncio.CancelledError):
        await opening
    threads = [
        thread for thread in set(threading.enumerate()) - before if "_connection_worker" in thread.name
    ]
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()


@pytest.mark.parametrize(("synchronous", "expected"), [("full", 1), ("normal", 0)])
def test_full_means_full_on_macos(tmp_path: Path, synchronous: Synchronous, expected: int) -> None:
    """With "full" the disk writes its own cache, too; macOS needs a setting for it."""
    connection = schema.open_writer(tmp_path / "events.db")
    try:
        assert connection.execute("PRAGMA fullfsync").fetchone() == (1,)
        schema.configure(connection, synchronous)
        assert connection.execute("PRAGMA fullfsync").fetchone() == (expected,)
        assert connection.execute("PRAGMA checkpoint_fullfsync").fetchone() == (expected,)
    finally:
        connection.close()
