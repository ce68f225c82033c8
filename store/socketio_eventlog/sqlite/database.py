"""One SQLite connection on a thread of its own: the only file that knows aiosqlite.

A job is a plain function of a ``sqlite3.Connection``. It runs on the connection's thread from start to
end, so a transaction costs one hop to the thread and back, however many statements it has.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Final, TypeVar

import aiosqlite

from socketio_eventlog.errors import (
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreRejected,
    StoreUnavailable,
)
from socketio_eventlog.sqlite.gil_relief import GilRelief
from socketio_eventlog.sqlite.lock import Lock

T = TypeVar("T")

Job = Callable[["StoreConnection"], T]

_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_REFUSED: Final = frozenset(
    {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE}
)


def store_error(error: Exception) -> StoreError | None:
    """What an exception of a job means to the store's users; None for one that is a fault of ours."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, (OverflowError, UnicodeError, TypeError, ValueError)):
        return StoreRejected(f"{error}.")
    if not isinstance(error, sqlite3.Error):
        return None
    # Errors of the module itself, such as a value of a type that cannot be bound, carry no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_RANGE) & 0xFF
    if code in _BUSY:
        return StoreBusy(f"SQLite says: {error}.")
    if code in _REFUSED:
        return StoreRejected(f"SQLite says: {error}.")
    return StoreUnavailable(f"SQLite says: {error}.")


class StoreConnection(sqlite3.Connection):
    """A connection that tells its event loop while it waits for the disk, and may own the file's lock."""

    gil_relief: GilRelief | None = None
    lock: Lock | None = None
    """Held until the connection is closed."""

    def commit(self) -> None:
        """End the transaction, if there is one, and make it durable."""
        if self.gil_relief is None:
            super().commit()
        else:
            with self.gil_relief.committing():
                super().commit()

    def close(self) -> None:
        """Close it, and let others write the file."""
        try:
            super().close()
        finally:
            if self.lock is not None:
                self.lock.release()


class Database:
    """A connection and its thread, used from one event loop.

    Jobs run one at a time, in the order in which they were submitted. A job that raises leaves no
    transaction open behind it.
    """

    def __init__(self, connect: Callable[[], StoreConnection]) -> None:
        """``connect`` is called on the thread. Use ``open``; this alone does not start it."""
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._gil_relief = GilRelief(self._loop)
        self._closing: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._connection: StoreConnection
        self._worker = aiosqlite.Connection(self._connected, iter_chunk_size=64)
        # The thread waits for jobs until it is told to stop, and the interpreter waits at its exit for
        # every thread that is not a daemon: a program that fails before it closes would hang forever.
        self._worker._thread.daemon = True  # noqa: SLF001 -- aiosqlite has no option for it

    @classmethod
    async def open(cls, connect: Callable[[], StoreConnection]) -> Database:
        """Start the thread and connect there. What ``connect`` raises is raised here."""
        database = cls(connect)
        starting = asyncio.ensure_future(database._start())
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread cannot be stopped while it connects, and must not find the loop closed after.
            await asyncio.wait([starting])
            await database.close()
            raise
        if database._failure is not None:
            await database.close()
            raise database._failure
        return database

    async def _start(self) -> None:
        _ = await self._worker

    def _connected(self) -> sqlite3.Connection:
        try:
            self._connection = self._connect()
        except Exception as error:  # noqa: BLE001 -- raised by open, after the thread has ended in order
            self._failure = error
            return sqlite3.connect(":memory:")
        self._connection.gil_relief = self._gil_relief
        return self._connection

    def submit(self, job: Job[T], on_committed: Callable[[T], None] | None = None) -> asyncio.Future[T]:
        """Queue a job. The future ends with its result or with the StoreError that it failed with.

        Cancelling the future does not stop the job. ``landed`` is called with the result before anybody
        else learns of it, also when nobody waits for it any more. Raises StoreClosed after ``close``.
        """
        if self._closing is not None:
            raise StoreClosed
        future: asyncio.Future[T] = self._loop.create_future()
        self._gil_relief.submitted()
        # aiosqlite's own way in is a coroutine, whose future a cancellation would take away from us.
        self._worker._tx.put_nowait((None, lambda: self._run(job, future, on_committed)))  # noqa: SLF001 -- see above
        return future

    async def run(self, job: Job[T]) -> T:
        """Queue a job and wait for it. A cancelled wait leaves the job running. Raises StoreError."""
        return await self.submit(job)

    async def close(self) -> None:
        """Finish the queued jobs, close the connection and end the thread. May be called again."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._worker.close())
        await asyncio.shield(self._closing)

    def _run(self, job: Job[T], future: asyncio.Future[T], on_committed: Callable[[T], None] | None) -> None:
        """Run a job; on the thread."""
        try:
            result = job(self._connection)
        except BaseException as error:  # noqa: BLE001 -- whatever it is, it is handed to who waits for the job
            failure = self._failed(error)
            self._deliver(lambda: None if future.done() else future.set_exception(failure))
        else:
            self._deliver(lambda: _complete(future, result, on_committed))

    def _failed(self, error: BaseException) -> BaseException:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as also:
                error.add_note(f"Rolling back failed as well: {also}")
        translated = store_error(error) if isinstance(error, Exception) else None
        if translated is None or translated is error:
            return error
        translated.__cause__ = error
        return translated

    def _deliver(self, configure: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(configure)
        except RuntimeError:
            # The loop was closed, so nobody waits any more.
            return
        finally:
            self._gil_relief.completed()


def _complete(future: asyncio.Future[T], result: T, on_committed: Callable[[T], None] | None) -> None:
    try:
        if on_committed is not None:
            on_committed(result)
    except Exception as error:  # a fault of ours, and who waits must not go on as if nothing were wrong
        if future.done():
            raise
        future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)
