"""A WAL left over by a crash, beside another database.

SQLite applies any complete WAL to the database with the same name. If a backup replaces the database, the
pages of both would mix. A note in the lock file says which files belong together: a killed server leaves the
lock file, and a clean stop leaves neither WAL nor lock file.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from socketio_eventlog.errors import StoreNotUsable

_HEADER: Final = b"SQLite format 3\0"
_HAS_EPOCH: Final = "SELECT 1 FROM boots WHERE boot = ?"


def note_of(path: Path, epoch: str) -> str:
    """Return the note for the lock file; the database file itself must hold the row of the epoch."""
    database, wal = _files(path)
    return json.dumps({"epoch": epoch, "database": _identity(database), "wal": _identity(wal)})


def check(path: Path, note: str) -> None:
    """Raise StoreNotUsable for a WAL that belongs to another database; ``note`` may be empty.

    Reads without SQLite's locks and without the WAL. In doubt nothing is raised: the remedy deletes the WAL,
    which would lose the newest commits of an intact database.
    """
    database, wal = _files(path)
    if not wal.exists() or wal.stat().st_size == 0:
        return
    if _is_foreign(database, wal, note):
        raise StoreNotUsable(
            f"{database} was put in the place of another database, whose {wal.name} is still there: "
            f"delete {wal} and {database.name}-shm, and start again."
        )


def _is_foreign(database: Path, wal: Path, note: str) -> bool:
    with database.open("rb") as file:
        header = file.read(20)
    if header.startswith(_HEADER) and header[18:20] == b"\1\1":  # VACUUM INTO makes files without WAL
        return True
    try:
        noted = json.loads(note)
        epoch, noted_database, noted_wal = noted["epoch"], noted["database"], noted["wal"]
    except (ValueError, TypeError, KeyError):
        return False
    if _identity(wal) == noted_wal and _identity(database) != noted_database:
        return True
    return _lacks_epoch(database, epoch)


def _lacks_epoch(database: Path, epoch: str) -> bool:
    uri = f"{database.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return connection.execute(_HAS_EPOCH, (epoch,)).fetchone() is None
    except sqlite3.Error:  # a crash in the middle of a checkpoint, which the WAL mends
        return False


def _files(path: Path) -> tuple[Path, Path]:
    path = path.resolve()  # SQLite puts the WAL beside the target of a symbolic link
    return path, path.with_name(path.name + "-wal")


def _identity(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_dev, status.st_ino]
