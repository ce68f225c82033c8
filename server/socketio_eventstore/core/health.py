"""The health of a server: whether the store can be written, and whether every task runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from socketio_eventlog.errors import HistoryLost, LogFull, NodeFenced, StoreBusy, StoreClosed, StoreError
from socketio_eventlog.free_space import FreeSpace
from socketio_eventlog.log import HEARTBEAT_SECONDS
from socketio_eventlog.sqlite import wal
from socketio_eventstore.core.repeated_failures import RepeatedFailures

logger = logging.getLogger(__name__)

WRITTEN_WITHIN_SECONDS: Final = 3 * HEARTBEAT_SECONDS
"""The age of the last write from which on the store counts as unavailable."""


class StoreHealth:
    """The last write to the store, and the failure since then."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._written_at = monotonic()
        self._failure: StoreError | None = None
        self._failures = RepeatedFailures(logger)
        self.fatal: StoreError | None = None
        """The error that ended the writes of this node."""

    def written(self) -> None:
        """Record a successful write."""
        self._written_at = self._monotonic()
        if self._failure is not None:
            self._failure = None
            self._failures.succeeded("store")

    def failed(self, error: StoreError) -> None:
        """Record a failed write to an unavailable store."""
        if isinstance(error, NodeFenced | HistoryLost):
            self.fatal = error
        # A lasting lock shows in the age of the last write; a full log takes other writes.
        if not isinstance(error, StoreBusy | LogFull):
            self._failure = error
            self._failures.failed("store", f"The store cannot be written. {error}", ends_when_quiet=False)

    def problem(self) -> str | None:
        """Return why the store is not available; None for an available store."""
        if self._failure is not None:
            return str(self._failure)
        age = self._monotonic() - self._written_at
        return f"the last write to the store is {age:.0f} s old" if age > WRITTEN_WITHIN_SECONDS else None


class Health:
    """The task for heartbeats, and the answer to the readiness probe."""

    def __init__(
        self,
        store: StoreHealth,
        heartbeat: Callable[[], Awaitable[object]],
        free_space: FreeSpace,
        path: Path | None = None,
    ) -> None:
        """``heartbeat`` writes a heartbeat; ``path`` is the database with the watched WAL."""
        self._store = store
        self._heartbeat = heartbeat
        self._free_space = free_space
        self._path = path
        self._failures = RepeatedFailures(logger)
        self._failing: dict[str, str] = {}

    async def run(self) -> None:
        """Write a heartbeat again and again, until cancelled.

        The first heartbeat comes at once: without a heartbeat, other nodes wait longer before they declare
        this node dead.
        """
        while True:
            try:
                await self._heartbeat()
            except StoreClosed:  # the server is ending
                return
            except StoreError as error:
                self._store.failed(error)
            else:
                self._watch_wal()
            self._watch_room()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def task_failed(self, name: str) -> None:
        """Report the end of a task of the server, until ``task_runs``."""
        self._failing[name] = f"the task {name} has ended"

    def task_runs(self, name: str) -> None:
        """Take back the report of a restarted task."""
        self._failing.pop(name, None)

    def _watch_wal(self) -> None:
        text = None if self._path is None else wal.growth(self._path)
        if text is None:
            self._failures.succeeded("wal")
        elif not self._failures.goes_on("wal"):  # another size is no new failure
            self._failures.failed("wal", text, level=logging.WARNING, ends_when_quiet=False)

    def _watch_room(self) -> None:
        refusal = self._free_space.refusal
        if refusal is None:
            self._failures.succeeded("room")
        elif not self._failures.goes_on("room"):  # the refused callers have the error
            self._failures.failed("room", refusal, ends_when_quiet=False)

    def problems(self) -> list[str]:
        """Return the reasons why the server is not ready; an empty list for a ready server."""
        problems = [self._store.problem(), self._free_space.refusal, *self._failing.values()]
        return [problem for problem in problems if problem is not None]
