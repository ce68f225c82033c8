"""The health of a server: whether the store can be written, and whether every task runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from socketio_eventlog.errors import StoreBusy, StoreError
from socketio_eventlog.log import Log
from socketio_eventlog.sqlite import wal
from socketio_eventstore.core.repeated_failures import RepeatedFailures

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 2.0
"""The time between two heartbeats of the store."""
WRITTEN_WITHIN_SECONDS: Final = 3 * HEARTBEAT_SECONDS
"""The age of the last write from which on the store counts as unavailable."""


class StoreHealth:
    """The last write to the store, and the failure since then."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._written_at = monotonic()
        self._failure: StoreError | None = None
        self._failures = RepeatedFailures(logger)

    def written(self) -> None:
        """Record a successful write."""
        self._written_at = self._monotonic()
        if self._failure is not None:
            self._failure = None
            self._failures.succeeded("store")

    def failed(self, error: StoreError) -> None:
        """Record a write that failed because the store is not available."""
        if not isinstance(error, StoreBusy):  # a lock that lasts is noticed by the age of the last write
            self._failure = error
            self._failures.failed("store", f"The store cannot be written. {error}", ends_when_quiet=False)

    def problem(self) -> str | None:
        """Return why the store is not available; None when it is."""
        if self._failure is not None:
            return str(self._failure)
        age = self._monotonic() - self._written_at
        return f"the last write to the store is {age:.0f} s old" if age > WRITTEN_WITHIN_SECONDS else None


class Health:
    """The task that writes the heartbeats, and the answer to the readiness probe."""

    def __init__(
        self, log: Log, store: StoreHealth, uptime: Callable[[], float], path: Path | None = None
    ) -> None:
        """``path`` is the database whose WAL is watched."""
        self._path = path
        self._failures = RepeatedFailures(logger)
        self._log = log
        self._store = store
        self._uptime = uptime
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def watch(self, name: str, task: asyncio.Task[None]) -> None:
        """Report the end of a task as a problem."""
        self._tasks[name] = task

    async def run(self) -> None:
        """Write a heartbeat again and again, until cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                await self._log.heartbeat(self._uptime())
            except StoreError as error:
                self._store.failed(error)
            else:
                self._store.written()
                self._watch_wal()

    def _watch_wal(self) -> None:
        text = None if self._path is None else wal.growth(self._path)
        if text is None:
            self._failures.succeeded("wal")
        elif not self._failures.goes_on("wal"):  # its size alone is no new failure
            self._failures.failed("wal", text, level=logging.WARNING, ends_when_quiet=False)

    def problems(self) -> list[str]:
        """Return why the server is not ready; an empty list when it is."""
        dead = [f"the task {name} has ended" for name, task in self._tasks.items() if task.done()]
        problem = self._store.problem()
        return dead if problem is None else [problem, *dead]
