"""Copies of a database: made of one snapshot, checked, and put in place in one step.

All functions are blocking. No function is for the process of a running server: the close of a plain handle
drops SQLite's locks on the file (https://sqlite.org/howtocorrupt.html, "POSIX advisory locks").
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from socketio_eventlog.errors import NothingChanged
from socketio_eventlog.sqlite import leftover_wal
from socketio_eventlog.sqlite.lock import Lock
from socketio_eventlog.sqlite.schema import OPENING_TIMEOUT_SECONDS

PAGES_PER_STEP: Final = 1000
HEADER: Final = b"SQLite format 3\0"
SIDE_FILES: Final = ("-wal", "-shm", "-journal")
"""The ends of the names of SQLite's files beside a database."""

OnCopied = Callable[[int, int], object]
"""Called with the number of copied pages and of all pages."""


@contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database for reading, at one point of its history, beside a server or without one.

    The server goes on to write; the WAL grows while the snapshot is open. Raises NothingChanged.
    """
    if not path.exists():
        raise NothingChanged(f"There is no database {path}.")
    _check_leftover_wal(path)
    with closing(_connect(path, "mode=ro")) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the snapshot begins here
        yield connection


@contextmanager
def opened_copy(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy that no program writes, without a new file beside the copy."""
    with closing(_connect(path, "mode=ro&immutable=1")) as connection:
        connection.execute("BEGIN")
        yield connection


@contextmanager
def snapshot_or_copy(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database as ``snapshot`` does, and a file that no program uses as ``opened_copy`` does."""
    wal = path.with_name(path.name + "-wal")
    is_copy = path.exists() and not (wal.exists() and wal.stat().st_size) and not is_in_use(path)
    with opened_copy(path) if is_copy else snapshot(path) as connection:
        yield connection


def is_in_use(path: Path) -> bool:
    """Whether a server has, or may have, the lock of a database. Raises OSError."""
    return _noted(path) is None


def _check_leftover_wal(path: Path) -> None:
    """Refuse a WAL of another database, as a start does; a running server has done the check."""
    note = _noted(path)
    if note is not None:
        leftover_wal.check(path, note)


def _noted(path: Path) -> str | None:
    """Return the note in the lock file; None while a server runs, and for a user who may only read."""
    try:
        lock = Lock.if_free(path)
    except PermissionError:
        return None
    if lock is None:
        return None
    note = lock.note
    lock.release(keep_file=bool(note) or lock.found_progress is not None)
    return note


def _connect(path: Path, options: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?{options}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=OPENING_TIMEOUT_SECONDS)


def copy_pages(source: sqlite3.Connection, target: Path, on_copied: OnCopied = lambda *_: None) -> None:
    """Copy a database, open for reading, into a new file with the mode 0600, durably.

    Raises OSError, sqlite3.Error; the file is then gone.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with closing(_connect(target, "mode=rw")) as connection:
            connection.execute("PRAGMA journal_mode = OFF")  # an incomplete copy is deleted, not mended
            connection.execute("PRAGMA synchronous = OFF")
            source.backup(
                connection,
                pages=PAGES_PER_STEP,
                progress=lambda _, remaining, total: on_copied(total - remaining, total),
            )
        sync(target)
    except BaseException:
        delete(target)
        raise


def delete(path: Path) -> None:
    """Delete a copy, and SQLite's files beside the copy."""
    with suppress(FileNotFoundError):
        path.unlink()
    delete_side_files(path)


def delete_side_files(path: Path) -> None:
    """Delete SQLite's files beside a database."""
    for suffix in SIDE_FILES:
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()


def sync(path: Path) -> None:
    """Make the content of a file or folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
