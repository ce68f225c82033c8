"""The compaction of a database: VACUUM, which gives unused pages back to the disk. Blocking.

VACUUM keeps every row and its number, and does not run the triggers that note changed events. VACUUM writes
the whole content into the WAL, as one transaction: a kill leaves the former database.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from socketio_eventlog.errors import NothingChanged
from socketio_eventlog.maintenance import Compacted
from socketio_eventlog.sqlite import leftover_wal
from socketio_eventlog.sqlite.lock import Lock

COPIES: Final = 2
"""How often the content is on the disk beside the database: in a temporary file and in the WAL."""
SPARE_BYTES: Final = 10_000_000


def compact(
    connection: sqlite3.Connection, path: Path, *, max_bytes: int | None = None
) -> tuple[Compacted, bool]:
    """Compact the database of a writing connection, outside of a transaction.

    ``max_bytes`` limits the content; beyond, and without room on the disk, NothingChanged is raised. Also
    return whether the file is smaller already: the pages stay in the WAL until the last reader has ended.
    """
    begun = time.perf_counter()
    before, content = _sizes(connection)
    if max_bytes is not None and content > max_bytes:
        raise NothingChanged(
            f"The database has {content} bytes of content, and no commit is possible while they are "
            f"rewritten: a running server does so up to {max_bytes} bytes, and beyond with --force."
        )
    _require_room(path, content)
    connection.execute("VACUUM")
    busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return Compacted(before, path.stat().st_size, time.perf_counter() - begun), not busy


def compact_stopped(path: Path) -> Compacted:
    """Compact the database of a stopped server. Raises NothingChanged."""
    path = path.resolve()
    lock: Lock | None = None
    try:
        if not path.exists():
            raise NothingChanged(f"There is no database {path}.")
        lock = Lock.if_free(path)
        if lock is None:
            raise NothingChanged(f"Another program uses {path}.")
        leftover_wal.check(path, lock.note)
        uri = f"{path.as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=1.0)) as connection:
            return compact(connection, path)[0]
    except (OSError, sqlite3.Error) as error:
        raise NothingChanged(f"{path} cannot be compacted: {error}.") from error
    finally:
        if lock is not None:
            lock.release(keep_file=bool(lock.note) or lock.found_progress is not None)


def _sizes(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the size of the database, including the pages in the WAL, and the size of the content."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (unused,) = connection.execute("PRAGMA freelist_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return pages * page_bytes, (pages - unused) * page_bytes


def _require_room(path: Path, content: int) -> None:
    if not hasattr(os, "statvfs"):
        return
    disk = os.statvfs(path.parent)
    free, needed = disk.f_bavail * disk.f_frsize, COPIES * content + SPARE_BYTES
    if free < needed:
        raise NothingChanged(f"The disk of {path} has {free} bytes left, and {needed} are needed.")
