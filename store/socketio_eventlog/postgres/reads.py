"""The reads of a log, beside the appends, on a separate connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from socketio_eventlog.errors import StoreClosed, StoreError
from socketio_eventlog.log import LEASE_SECONDS
from socketio_eventlog.postgres.connection import Connection, Link
from socketio_eventlog.postgres.failures import ConnectionLost

T = TypeVar("T")

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 5.0
"""The longest wait of a read for an absent database."""
CLOSING_SECONDS: Final = 5.0
"""How long the jobs may take at the end."""
PAUSE_SECONDS: Final = 0.1


class Reads:
    """Runs jobs on a connection, one at a time. A cancelled caller stops no job."""

    def __init__(self, conninfo: str, limit_seconds: float = LEASE_SECONDS) -> None:
        """``limit_seconds``: how long a job may take."""
        self._link = Link(conninfo, limit_seconds)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def run(self, job: Callable[[Connection], Awaitable[T]], limit_seconds: float | None = None) -> T:
        """Run a job, again after the loss of the connection. Raises StoreError.

        ``limit_seconds`` replaces the limit of all jobs.
        """
        return await asyncio.shield(self.start(job, limit_seconds))

    def start(
        self, job: Callable[[Connection], Awaitable[T]], limit_seconds: float | None = None
    ) -> asyncio.Task[T]:
        """Start a job for which the caller need not wait. Raises StoreClosed."""
        if self._is_closed:
            raise StoreClosed
        task = self._loop.create_task(self._attempt(job, limit_seconds))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def _attempt(self, job: Callable[[Connection], Awaitable[T]], limit_seconds: float | None) -> T:
        deadline = self._loop.time() + RETRY_SECONDS
        while True:
            try:
                async with self._link.use(limit_seconds) as connection:
                    return await job(connection)
            except ConnectionLost:
                if self._is_closed or self._loop.time() > deadline:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None or isinstance(error, StoreError):
            return
        logger.error("A read of the log failed: %r", error, exc_info=error)  # perhaps there is no caller

    async def close(self) -> None:
        """Finish the jobs within ``CLOSING_SECONDS``; close the connection."""
        self._is_closed = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSING_SECONDS)
        self._link.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._link.close()

    def abandon(self) -> None:
        """Close the connection after the end of the event loop."""
        self._is_closed = True
        for task in self._tasks:
            abandon_task(task)
        self._link.abandon()


def abandon_task(task: asyncio.Task[Any]) -> None:
    """Drop a task of an ended event loop, which no loop can end."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 -- there is no other way
