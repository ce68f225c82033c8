"""An SQLite connection on a thread of its own: the only file that imports aiosqlite.

A job is a plain function of a ``sqlite3.Connection``. A job runs on the connection's thread from start to
end, so a transaction costs one hop to the thread and back, however many statements the job has.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Final, TypeVar, overload

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
R = TypeVar("R")

Job = Callable[["StoreConnection"], T]

_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_REFUSED: Final = frozenset(
    {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE}
)


ABANDON_TIMEOUT_SECONDS: Final = 5.0
"""The longest wait for the thread of a database whose event loop has ended."""


def translate_error(error: Exception) -> StoreError | None:
    """Return the StoreError for an exception of a job; None for a programming error of the store."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, (OverflowError, UnicodeError, TypeError, ValueError)):
        return StoreRejected(f"{error}.")
    if not isinstance(error, sqlite3.Error):
        return None
    # Errors of the sqlite3 module carry no code, for example the error for a value of an unknown type.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_RANGE) & 0xFF
    if code in _BUSY:
        return StoreBusy(f"SQLite says: {error}.")
    if code in _REFUSED:
        return StoreRejected(f"SQLite says: {error}.")
    return StoreUnavailable(f"SQLite says: {error}.")


class StoreConnection(sqlite3.Connection):
    """A connection that reports a wait for the disk to the event loop, and may own the file's lock."""

    gil_relief: GilRelief | None = None
    lock: Lock | None = None
    """The lock of the file; released after the close of the connection."""

    def commit(self) -> None:
        """Commit the open transaction, if any, durably."""
        if self.gil_relief is None:
            super().commit()
        else:
            self.gil_relief.commit_begins()
            try:
                super().commit()
            finally:
                self.gil_relief.commit_ends()

    def close(self) -> None:
        """Close the connection, then release the lock of the file."""
        try:
            super().close()
        finally:
            if self.lock is not None:
                # A failed start must not lose the progress of the former server.
                self.lock.release(keep_file=self.lock.found_progress is not None)


class Database:
    """A connection and the connection's thread, used from a single event loop.

    Jobs run one at a time, in the order of submission. A failed job leaves no transaction open.
    """

    def __init__(self, connect: Callable[[], StoreConnection]) -> None:
        """``connect`` is called on the thread. Use ``open``: the constructor does not start the thread."""
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._gil_relief = GilRelief(self._loop)
        self._closing: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._connection: StoreConnection
        self._worker = aiosqlite.Connection(self._connect_worker, iter_chunk_size=64)
        # The thread waits for jobs until the close, and the interpreter's exit waits for every non-daemon
        # thread: a program with an error before the close would hang forever.
        self._worker._thread.daemon = True  # noqa: SLF001 -- aiosqlite has no option for it

    @classmethod
    async def open(cls, connect: Callable[[], StoreConnection]) -> Database:
        """Start the thread and connect on the thread. Raises the exception of ``connect``."""
        database = cls(connect)
        starting = asyncio.ensure_future(database._start())
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A connecting thread cannot be stopped, and must not find the loop closed afterwards.
            await asyncio.wait([starting])
            await database.close()
            raise
        if database._failure is not None:
            await database.close()
            raise database._failure
        return database

    async def _start(self) -> None:
        _ = await self._worker

    def _connect_worker(self) -> sqlite3.Connection:
        try:
            self._connection = self._connect()
        except Exception as error:  # noqa: BLE001 -- raised by open, after the thread has ended in order
            self._failure = error
            return sqlite3.connect(":memory:")
        self._connection.gil_relief = self._gil_relief
        return self._connection

    @overload
    def submit(self, job: Job[T]) -> asyncio.Future[T]: ...

    @overload
    def submit(self, job: Job[T], on_committed: Callable[[T], R]) -> asyncio.Future[R]: ...

    def submit(self, job: Job[Any], on_committed: Callable[[Any], Any] | None = None) -> asyncio.Future[Any]:
        """Queue a job. The future receives the job's result, or the StoreError of a failed job.

        A cancelled future does not stop the job. ``on_committed`` receives the job's result on the loop, also
        after a cancellation, and the future receives what ``on_committed`` returns. Raises StoreClosed after
        ``close``.
        """
        if self._closing is not None:
            raise StoreClosed
        future: asyncio.Future[Any] = self._loop.create_future()
        self._gil_relief.job_submitted()
        # The public method of aiosqlite is a coroutine: a cancellation would discard the job's future.
        self._worker._tx.put_nowait((None, lambda: self._execute(job, future, on_committed)))  # noqa: SLF001 -- see above
        return future

    async def run(self, job: Job[T]) -> T:
        """Queue a job and wait for the result. A cancelled wait does not stop the job. Raises StoreError."""
        return await self.submit(job)

    async def close(self) -> None:
        """Finish the queued jobs, close the connection and end the thread. A second call does nothing."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._worker.close())
        await asyncio.shield(self._closing)

    def abandon(self) -> None:
        """Close the connection after the end of the event loop; blocking, called on another event loop.

        The queued jobs run to their end; no caller receives the results.
        """
        self._closing = asyncio.get_running_loop().create_future()
        self._closing.set_result(None)
        self._worker.stop()
        self._worker._thread.join(ABANDON_TIMEOUT_SECONDS)  # noqa: SLF001 -- aiosqlite waits on a loop only

    def _execute(
        self, job: Job[Any], future: asyncio.Future[Any], on_committed: Callable[[Any], Any] | None
    ) -> None:
        """Execute a job; on the thread."""
        try:
            result = job(self._connection)
        except BaseException as error:  # noqa: BLE001 -- the future receives every exception
            failure = self._roll_back(error)
            self._deliver(lambda: None if future.done() else future.set_exception(failure))
        else:
            self._deliver(lambda: _complete(future, result, on_committed))

    def _roll_back(self, error: BaseException) -> BaseException:
        """End the transaction of a failed job; return the exception for the job's future."""
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as also:
                error.add_note(f"Rolling back failed as well: {also}")
        translated = translate_error(error) if isinstance(error, Exception) else None
        if translated is None or translated is error:
            return error
        translated.__cause__ = error
        return translated

    def _deliver(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            # No task of a closed loop waits for the result.
            return
        finally:
            self._gil_relief.job_completed()


def _complete(future: asyncio.Future[Any], result: Any, on_committed: Callable[[Any], Any] | None) -> None:
    try:
        if on_committed is not None:
            result = on_committed(result)
    except Exception as error:  # a programming error, which a waiting task must not miss
        if future.done():
            raise
        future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)
