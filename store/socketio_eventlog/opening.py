"""From the options of a store to an open log. An engine is imported at the first use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from socketio_eventlog.changed_sessions import ChangedSessions
from socketio_eventlog.errors import StoreNotUsable
from socketio_eventlog.log import Log
from socketio_eventlog.options import StoreOptions, Synchronous

if TYPE_CHECKING:
    from socketio_eventlog.postgres.check_report import Report
    from socketio_eventlog.postgres.log import PostgresLog

SCHEMES: Final = ("postgresql://", "postgres://")


def is_url(place: str | Path | None) -> bool:
    """Whether a place is a PostgreSQL database, and not a file."""
    return isinstance(place, str) and place.startswith(SCHEMES)


async def open_log(
    options: StoreOptions,
    lock_timeout_seconds: float | None = None,
    *,
    max_disconnection_seconds: float | None = None,
    former: ChangedSessions | None = None,
) -> Log:
    """Open the log in PostgreSQL or in a file; without both, a log without storage.

    ``lock_timeout_seconds`` limits the wait for the end of another server on the file; None is the default.
    ``max_disconnection_seconds``: how long clients may be away, for the views; None if unknown.
    ``former``: what the former life of this process as a node knew. Raises StoreNotUsable.
    """
    if options.url is not None:
        log: type[PostgresLog] = _postgres("log").PostgresLog
        return await log.open(
            options,
            max_disconnection_seconds=max_disconnection_seconds,
            former=former,
        )
    if options.path is not None:
        from socketio_eventlog.sqlite.log import EventLog

        return await EventLog.open(
            options,
            lock_timeout_seconds=lock_timeout_seconds,
            max_disconnection_seconds=max_disconnection_seconds,
        )
    from socketio_eventlog.volatile import VolatileLog

    return VolatileLog()


async def migrate(options: StoreOptions) -> None:
    """Bring the schema of a database up to date. Raises StoreNotUsable."""
    if options.url is None:
        await (await open_log(options)).close()
        return
    connection, schema = _postgres("connection"), _postgres("schema")
    url = connection.connection_string(options.url)
    await asyncio.to_thread(schema.prepare, url, connection.describe(options.url))


def check_database(url: str) -> None:
    """Connect to a PostgreSQL database, and write nothing; blocking. Raises StoreNotUsable."""
    connection, schema = _postgres("connection"), _postgres("schema")
    schema.check(connection.connection_string(url), connection.describe(url))


def revisions(url: str) -> tuple[str | None, str]:
    """Return the revision of a PostgreSQL database, and the revision of the program. Raises StoreNotUsable.

    Blocking. None: the database has no log.
    """
    connection, schema = _postgres("connection"), _postgres("schema")
    found: str | None = schema.revision(connection.connection_string(url), connection.describe(url))
    return found, schema.HEAD_REVISION


def check_whole_database(
    url: str, synchronous: Synchronous, on_step: Callable[[str, int, int], object]
) -> Report:
    """Check a PostgreSQL database and the log in it; blocking. Raises StoreNotUsable.

    ``synchronous``: the level at which the servers commit. ``on_step``: as in ``postgres.check``.
    """
    report: Report = _postgres("check").check(url, synchronous, on_step)
    return report


def describe(url: str) -> str:
    """Return a PostgreSQL database for people, without user and password. Raises StoreNotUsable."""
    text: str = _postgres("connection").describe(url)
    return text


def _postgres(module: str) -> ModuleType:
    """Import a module of the engine. Raises StoreNotUsable without the extra."""
    from importlib import import_module

    try:
        return import_module(f"socketio_eventlog.postgres.{module}")
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("psycopg", "psycopg_binary") and error.name:
            raise
        raise StoreNotUsable("PostgreSQL needs psycopg: install the extra postgres.") from error
