"""The engines of the log, for the tests of its contract.

A new engine is one more entry of DURABLE. What only one engine does is tested beside it (``test_store_*``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from socketio_eventlog.log import Log
from socketio_eventlog.volatile import VolatileLog
from support.storing import Clock, opened

Open = Callable[[], AbstractAsyncContextManager[Log]]


def sqlite_engine(folder: Path, clock: Clock) -> Open:
    return lambda: opened(folder / "events.db", monotonic=clock)


def volatile_engine(_folder: Path, clock: Clock) -> Open:
    @asynccontextmanager
    async def open_volatile() -> AsyncIterator[VolatileLog]:
        log = VolatileLog(monotonic=clock)
        yield log
        await log.close()

    return open_volatile


DURABLE = {"sqlite": sqlite_engine}
ENGINES = {**DURABLE, "volatile": volatile_engine}
