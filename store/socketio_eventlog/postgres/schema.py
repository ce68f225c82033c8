"""From a URL to a database with the present schema. Blocking, for a thread."""

from __future__ import annotations

import logging
import time
from typing import Final

import psycopg

from socketio_eventlog.errors import DatabaseTooNew, StoreNotUsable
from socketio_eventlog.postgres.failures import first_line

logger = logging.getLogger(__name__)

HEAD_REVISION: Final = "0010"
"""The newest migration. A database of the newest revision opens without the import of alembic (0.3 s)."""
READER: Final = 1
"""The newest format for this program (``log_state.min_reader``).

A newer revision of the schema is no obstacle: migrations keep the parts in use by programs of the format.
"""
OLDEST_VERSION: Final = 140_000
"""The first PostgreSQL with multiranges, 14.0."""

LOCK_TRIES: Final = 20
LOCK_PAUSE_SECONDS: Final = 1.0
"""How often a migration waits for a lock of another session, for 2 seconds each, and the pause between."""

_SETTINGS: Final = "SELECT current_setting('server_encoding'), current_setting('transaction_read_only')"
_HAS_SCHEMA: Final = "SELECT to_regclass('eventstore.alembic_version') IS NOT NULL"
_REVISION: Final = "SELECT version_num FROM eventstore.alembic_version"
_MIN_READER: Final = "SELECT min_reader FROM eventstore.log_state"
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('eventstore migration', 0))"
_TIMEOUT: Final = "SELECT set_config('lock_timeout', '2s', true)"
_CREATE: Final = "CREATE SCHEMA IF NOT EXISTS eventstore"


def prepare(conninfo: str, name: str) -> None:
    """Bring the schema up to date. Raises StoreNotUsable with one line that names the database, ``name``."""
    try:
        with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection:
            _check(connection, name)
            revision = _revision(connection)
            is_newer = isinstance(revision, str) and revision > HEAD_REVISION
            if not is_newer and revision != HEAD_REVISION:
                _migrate_patiently(conninfo, name)
            (needed,) = _row(connection, _MIN_READER)
            if not isinstance(needed, int) or needed > READER:
                raise DatabaseTooNew(f"{name} has format {needed}; this program knows {READER}: upgrade it.")
            if is_newer:
                logger.info(
                    "%s has the newer revision %s; this program knows %s.", name, revision, HEAD_REVISION
                )
    except psycopg.Error as error:
        raise StoreNotUsable(f"{name}: {first_line(error)}.") from error


def check(conninfo: str, name: str) -> None:
    """Connect, and write nothing. Raises StoreNotUsable with one line that names the database, ``name``."""
    revision(conninfo, name)


def revision(conninfo: str, name: str) -> str | None:
    """Check as ``check`` does, and return the revision; None for a database without the schema."""
    try:
        with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection:
            _check(connection, name)
            return _revision(connection)
    except psycopg.Error as error:
        raise StoreNotUsable(f"{name}: {first_line(error)}.") from error


def _check(connection: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    version = connection.info.server_version
    if version < OLDEST_VERSION:
        raise StoreNotUsable(f"{name}: PostgreSQL {version // 10_000} is too old: 14 or newer is needed.")
    encoding, is_read_only = _row(connection, _SETTINGS)
    if encoding != "UTF8":
        raise StoreNotUsable(f"{name}: The encoding of the database is {encoding}; UTF8 is needed.")
    if is_read_only == "on":
        raise StoreNotUsable(f"{name}: The database cannot be written: it is a standby, or set to read-only.")


def _row(connection: psycopg.Connection[tuple[object, ...]], statement: str) -> tuple[object, ...]:
    row = connection.execute(statement.encode()).fetchone()
    return () if row is None else row


def _revision(connection: psycopg.Connection[tuple[object, ...]]) -> str | None:
    """Return the revision of the last migration; None for a database without the schema."""
    if not _row(connection, _HAS_SCHEMA)[0]:
        return None
    return next((str(text) for text in _row(connection, _REVISION)), None)


def _migrate_patiently(conninfo: str, name: str) -> None:
    """Migrate, again while another session holds a lock: a wait for the lock would stop other nodes.

    A migration and the append of another node may also wait for each other, and PostgreSQL ends either.
    """
    for tries_left in range(LOCK_TRIES - 1, -1, -1):
        try:
            _migrate(conninfo, name)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if not tries_left:
                raise
            time.sleep(LOCK_PAUSE_SECONDS)
        else:
            return


def _migrate(conninfo: str, name: str) -> None:
    """Migrate to the newest revision, in one transaction. The second of two simultaneous starts waits."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy import StaticPool, create_engine
    from sqlalchemy.exc import DBAPIError

    config = Config()
    config.set_main_option("script_location", "socketio_eventlog_migrations:postgres")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(conninfo, prepare_threshold=None),
        poolclass=StaticPool,
    )
    try:
        with engine.begin() as connection:
            for statement in (_TIMEOUT, _LOCK, _CREATE):
                connection.exec_driver_sql(statement)
            raw = connection.connection.driver_connection
            assert isinstance(raw, psycopg.Connection)
            revision = _revision(raw)
            if revision is not None and revision not in known:
                raise DatabaseTooNew(f"{name} has revision {revision}; this program knows {HEAD_REVISION}.")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        raise error.orig or error from error
    finally:
        engine.dispose()
