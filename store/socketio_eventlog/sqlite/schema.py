"""From a path to an open connection: the file, the schema, the connection's settings.

All functions are blocking and run on a database thread. ``open_writer`` and ``open_reader`` raise
StoreNotUsable with one line that names the path.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from socketio_eventlog.errors import DatabaseTooNew, StoreError, StoreNotUsable
from socketio_eventlog.options import DEFAULT_FILE_MODE, Synchronous
from socketio_eventlog.sqlite import files, leftover_wal
from socketio_eventlog.sqlite.database import StoreConnection
from socketio_eventlog.sqlite.lock import Lock

HEAD_REVISION: Final = "0011"
"""The newest migration. A database of the newest revision opens without the import of alembic (0.3 s)."""
APPLICATION_ID: Final = 0x53696F45
"""The number in the file's header, written by the first migration."""
OLDEST_SQLITE: Final = (3, 37, 0)
"""The first version with STRICT tables."""
OPENING_TIMEOUT_SECONDS: Final = 10.0
"""Time to wait for another program's lock at the opening. A stopping server holds the lock for up to
``shutdown_grace``, by default 10 s."""
WAL_BYTES: Final = 4_096_000
"""The size of the WAL at a checkpoint: 1000 pages, as SQLite has by default."""
LEAST_WAL_PAGES: Final = 16
"""The least number of pages in the WAL at a checkpoint, for a very small disk or log."""

_BUSY_TIMEOUT: Final = "PRAGMA busy_timeout = 0"
_READER_BUSY_TIMEOUT: Final = "PRAGMA busy_timeout = 1000"
# Otherwise a build with SQLITE_SECURE_DELETE, such as Debian's, overwrites all deleted bytes.
_SECURE_DELETE: Final = "PRAGMA secure_delete = FAST"
# Foreign keys are for tools that show the database; some builds of SQLite enforce foreign keys, which costs
# time.
_NO_FOREIGN_KEYS: Final = "PRAGMA foreign_keys = OFF"
_SYNCHRONOUS: Final = {"full": "PRAGMA synchronous = FULL", "normal": "PRAGMA synchronous = NORMAL"}
# On macOS, fsync leaves the data in the cache of the disk; other systems ignore these settings.
_FULLFSYNC: Final = {
    "full": ("PRAGMA fullfsync = ON", "PRAGMA checkpoint_fullfsync = ON"),
    "normal": ("PRAGMA fullfsync = OFF", "PRAGMA checkpoint_fullfsync = OFF"),
}


def open_writer(
    path: Path, file_mode: int = DEFAULT_FILE_MODE, lock_timeout_seconds: float | None = None
) -> StoreConnection:
    """Open the only connection that writes the file; create or migrate the database before.

    ``lock_timeout_seconds`` limits the wait for the end of another server; None stands for
    ``OPENING_TIMEOUT_SECONDS``. The connection owns the file's lock until the close. Commits are durable
    ("full") until ``configure``.
    """
    check_sqlite_version()
    with _translate_errors(path):
        files.create(path, file_mode)
        connection = _connect(path, "rw")
        try:
            timeout = OPENING_TIMEOUT_SECONDS if lock_timeout_seconds is None else lock_timeout_seconds
            connection.lock = Lock(path, timeout, file_mode)
            # Only with the lock: closing the file drops the SQLite locks of a server in the same process
            # (https://sqlite.org/howtocorrupt.html, "POSIX advisory locks").
            if _has_our_header(path):  # SQLite gives a new -wal and -shm the mode of the file
                files.narrow(path, file_mode)
            _check_leftover_wal(path, connection.lock)
            _check_application(connection)
            files.narrow(path, file_mode)  # the header may have been in the WAL only
            _retry_while_busy(lambda: connection.execute("PRAGMA journal_mode = WAL"))
            if revision_of(connection) != HEAD_REVISION:
                _migrate(path)
            _synchronise(connection, "full")
            connection.execute(_SECURE_DELETE)
            connection.execute(_NO_FOREIGN_KEYS)
        except BaseException:
            connection.close()
            raise
        return connection


def _has_our_header(path: Path) -> bool:
    """Whether the header of the file has the application id, which a WAL may still hold back.

    Source: https://sqlite.org/fileformat.html, "The Database Header", offset 68.
    """
    with path.open("rb") as file:
        return int.from_bytes(file.read(72)[68:], "big") == APPLICATION_ID


def _check_leftover_wal(path: Path, lock: Lock) -> None:
    """Refuse the WAL of another database, before SQLite reads either. Raises StoreNotUsable."""
    try:
        leftover_wal.check(path, lock.note)
    except BaseException:
        lock.release(keep_file=True)  # the next start must refuse as well
        raise
    lock.note = ""  # from here on the note would be about an earlier server


def note_epoch(connection: StoreConnection, path: Path, epoch: str) -> None:
    """Note in the lock file which database file the WAL belongs to; a job of the writer's thread.

    The row of the epoch must be in the database file itself, not only in the WAL.
    """
    try:
        busy, pages, written = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.OperationalError:  # a full disk, on which the WAL may still take the ends of sessions
        return
    if not busy and pages == written and connection.lock is not None:
        connection.lock.note = leftover_wal.note_of(path, epoch)


def check_sqlite_version() -> None:
    """Raise StoreNotUsable for a SQLite library that lacks the features of the schema."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE[:2]))
        raise StoreNotUsable(f"SQLite {sqlite3.sqlite_version} is too old: {oldest} or newer is needed.")


def configure(connection: sqlite3.Connection, synchronous: Synchronous, wal_bytes: int = WAL_BYTES) -> None:
    """Switch from opening to running: the configured durability, and no wait for another program's lock.

    A checkpoint is due at ``wal_bytes`` in the WAL; the file of the WAL keeps at most twice the size. The
    caller decides about retries: a wait inside a job would delay every job behind.
    """
    _synchronise(connection, synchronous)
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    # A pragma takes no parameters.
    connection.execute(f"PRAGMA wal_autocheckpoint = {max(LEAST_WAL_PAGES, wal_bytes // page_bytes)}")
    connection.execute(f"PRAGMA journal_size_limit = {2 * wal_bytes}")
    connection.execute(_BUSY_TIMEOUT)


def open_reader(path: Path) -> StoreConnection:
    """Open a connection for reads, without checkpoints: only the writer's connection writes and checkpoints.

    Two connections that write or checkpoint at the same instant can corrupt the database in SQLite 3.7.0 to
    3.51.2 (https://sqlite.org/wal.html#walresetbug).
    """
    with _translate_errors(path):
        connection = _connect(path, "ro")
        connection.execute(_READER_BUSY_TIMEOUT)
        return connection


def _synchronise(connection: sqlite3.Connection, synchronous: Synchronous) -> None:
    connection.execute(_SYNCHRONOUS[synchronous])
    for statement in _FULLFSYNC[synchronous]:
        connection.execute(statement)


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except sqlite3.OperationalError as error:
        raise StoreNotUsable(f"{path}: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise StoreNotUsable(f"{path} is not a healthy SQLite database: {error}.") from error
    except OSError as error:
        raise StoreNotUsable(f"{path} cannot be opened or created: {error}.") from error


def _connect(path: Path, mode: Literal["rw", "ro"]) -> StoreConnection:
    # Never mode=rwc: SQLite would create a deleted file again, readable by every user.
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=OPENING_TIMEOUT_SECONDS, factory=StoreConnection
    )


def _retry_while_busy(attempt: Callable[[], object]) -> None:
    """Repeat an attempt that SQLite refuses at another program's lock, without the busy timeout."""
    deadline = time.monotonic() + OPENING_TIMEOUT_SECONDS
    while True:
        try:
            attempt()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _check_application(connection: sqlite3.Connection) -> None:
    """Refuse a database of another program, before any change to the database."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if tables and application_id != APPLICATION_ID:
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        raise StoreNotUsable(f"{path} is a database of another program.")


def revision_of(connection: sqlite3.Connection) -> str | None:
    """Return the revision of the last migration; None for an empty database."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _migrate(path: Path) -> None:
    """Migrate the schema to the newest revision, in one transaction.

    The transaction begins before the second read of the revision, so of two servers with a simultaneous
    start the second server waits and then finds the new schema. A kill at any moment leaves the former
    schema.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy import StaticPool, create_engine
    from sqlalchemy.exc import DBAPIError

    config = Config()
    config.set_main_option("script_location", "socketio_eventlog_migrations:sqlite")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    # Without an isolation level the driver neither begins nor commits a transaction. Alembic finds
    # SQLAlchemy inside a transaction and leaves the transaction open.
    engine = create_engine("sqlite://", creator=lambda: _connect(path, "rw"), poolclass=StaticPool)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            _check_application(raw)
            revision = revision_of(raw)
            if revision is not None and revision not in known:
                raise DatabaseTooNew(f"{path} has revision {revision}; this program knows {HEAD_REVISION}.")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        raise error.orig or error from error
    finally:
        engine.dispose()
