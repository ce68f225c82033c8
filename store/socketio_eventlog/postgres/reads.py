"""The reads of a log, beside its appends, on a connection of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from socketio_eventlog.errors import StoreClosed, StoreError
from socketio_eventlog.postgres.connection import Connection, Link
from socketio_eventlog.postgres.failures import ConnectionLost

T = TypeVar("T")

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 5.0
"""How long a read waits for a database that is not there."""
PAUSE_SECONDS: Final = 0.1


class Reads:
    """Runs jobs on a connection, one at a time. A cancelled caller stops no job."""

    def __init__(self, conninfo: str) -> None:
        self._link = Link(conninfo)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def run(self, job: Callable[[Connection], Awaitable[T]]) -> T:
        """Run a job, again after the loss of the connection. Raises StoreError."""
        return await asyncio.shield(self.start(job))

    def start(self, job: Callable[[Connection], Awaitable[T]]) -> asyncio.Task[T]:
        """Start a job for which the caller need not wait. Raises StoreClosed."""
        if self._is_closed:
            raise StoreClosed
        task = self._loop.create_task(self._attempt(job))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def _attempt(self, job: Callable[[Connection], Awaitable[T]]) -> T:
        deadline = self._loop.time() + RETRY_SECONDS
        while True:
            try:
                async with self._link.use() as connection:
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
        """Finish the jobs, and close the connection."""
        self._is_closed = True
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
    """Let a task go that its event loop has left behind; no loop can end it."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 -- there is no other way
