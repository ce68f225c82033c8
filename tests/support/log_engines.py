"""The engines of the log, for the tests of the contract.

A new engine is another entry of DURABLE. Features of a single engine have separate tests (``test_store_*``,
``test_postgres_*``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from socketio_eventlog.log import Log
from socketio_eventlog.volatile import VolatileLog
from support import postgres
from support.storing import Clock, opened, opened_postgres, sqlite

Open = Callable[[], AbstractAsyncContextManager[Log]]


class Store:
    """A database with a log. Each ``open`` is another life of the process."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        """The clock of the uptime."""

    def open(self, **arguments: Any) -> AbstractAsyncContextManager[Log]:
        """Open the log, with options of the store and ``new_epoch``."""
        raise NotImplementedError

    def sql(self, statement: str) -> str:
        """The output of the engine's program for people; a line for each row, ``|`` between the columns."""
        raise NotImplementedError


class SqliteStore(Store):
    def __init__(self, folder: Path, clock: Clock) -> None:
        super().__init__(clock)
        self.path = folder / "events.db"

    def open(self, **arguments: Any) -> AbstractAsyncContextManager[Log]:
        return opened(self.path, monotonic=self.clock, **arguments)

    def sql(self, statement: str) -> str:
        return sqlite(self.path, statement)


class PostgresStore(Store):
    def __init__(self, _folder: Path, clock: Clock) -> None:
        super().__init__(clock)
        self.cluster = postgres.shared_cluster()
        self.database = self.cluster.new_database("migrated")

    def open(self, **arguments: Any) -> AbstractAsyncContextManager[Log]:
        return opened_postgres(self.cluster.url(self.database), clock=self.clock, **arguments)

    def sql(self, statement: str) -> str:
        return self.cluster.sql(self.database, "SET search_path = eventstore", statement)


def volatile_engine(_folder: Path, clock: Clock) -> Open:
    @asynccontextmanager
    async def open_volatile() -> AsyncIterator[VolatileLog]:
        log = VolatileLog(monotonic=clock)
        yield log
        await log.close()

    return open_volatile


STORES: dict[str, Callable[[Path, Clock], Store]] = {"sqlite": SqliteStore, "postgres": PostgresStore}


def _engine(store: Callable[[Path, Clock], Store]) -> Callable[[Path, Clock], Open]:
    return lambda folder, clock: store(folder, clock).open


DURABLE = {name: _engine(store) for name, store in STORES.items()}
ENGINES = {**DURABLE, "volatile": volatile_engine}
