"""The restore of a backup, while no server runs. Blocking.

The next start begins a new epoch at the end of the backup. So a client with an offset beyond the end gets a
new session (``rolled_back``), and every other client of the backup's sessions recovers.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from socketio_eventlog.errors import NothingChanged
from socketio_eventlog.options import DEFAULT_FILE_MODE
from socketio_eventlog.sqlite import copies, files, leftover_wal
from socketio_eventlog.sqlite.backup import checked
from socketio_eventlog.sqlite.check import OnStep, Report
from socketio_eventlog.sqlite.copies import HEADER, SIDE_FILES, OnCopied
from socketio_eventlog.sqlite.lock import Lock

REPLACED: Final = "-replaced"
"""The end of the name of the former database, which stays until the next restore."""
RESTORING: Final = "-restoring"
"""The end of the name of an incomplete copy; the lock allows one restore at a time."""
CHECKPOINT_TIMEOUT_SECONDS: Final = 1.0
"""The longest wait for readers of the former database."""


@dataclass(frozen=True)
class Restored:
    """The result of a restore."""

    report: Report
    """The report of the checks of the backup."""
    replaced: Path | None
    """Where the former database is; None if there was none."""


def restore(
    backup: Path,
    database: Path,
    *,
    file_mode: int = DEFAULT_FILE_MODE,
    on_copied: OnCopied = lambda *_: None,
    on_step: OnStep = lambda *_: None,
) -> Restored:
    """Put a copy of a backup in the place of a database; the backup stays.

    The copy is checked before the database is touched, and takes its place in one step: a kill at any
    moment leaves the former database or the restored one. Raises NothingChanged.
    """
    path = database.resolve()  # SQLite puts the WAL beside the target of a symbolic link
    _refuse(backup, path)
    lock: Lock | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = Lock.if_free(path, file_mode)
        if lock is None:
            raise NothingChanged(f"A server or another command uses {path}; stop it first.")
        return _restore(backup, path, lock, file_mode, on_copied, on_step)
    except (OSError, sqlite3.Error) as error:
        raise NothingChanged(f"{backup} cannot be restored to {database}: {error}.") from error
    finally:
        if lock is not None:
            lock.release(keep_file=bool(lock.note) or lock.found_progress is not None)


def _refuse(backup: Path, path: Path) -> None:
    if not backup.is_file():
        raise NothingChanged(f"There is no backup {backup}.")
    if path.is_dir():
        raise NothingChanged(f"{path} is a folder; the path of a file is needed.")
    if path.exists() and backup.samefile(path):
        raise NothingChanged(f"{backup} is the database itself.")
    for suffix in (REPLACED, RESTORING):
        own = path.with_name(path.name + suffix)
        if own.exists() and backup.samefile(own):  # a kill after the deletion would lose the data
            raise NothingChanged(
                f"{backup} has a name that restore gives to a file of its own: rename it first."
            )
    with backup.open("rb") as file:
        header = file.read(len(HEADER))
    if header != HEADER:
        raise NothingChanged(f"{backup} is no SQLite database.")
    wal = backup.with_name(backup.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        raise NothingChanged(
            f"{backup} has a WAL beside it, {wal}: it is a database in use, or part of one. backup makes a "
            "copy that is complete in one file."
        )


def _restore(
    backup: Path, path: Path, lock: Lock, file_mode: int, on_copied: OnCopied, on_step: OnStep
) -> Restored:
    copy = path.with_name(path.name + RESTORING)
    copies.delete(copy)  # left by a killed restore
    try:
        with copies.opened_copy(backup) as source:
            copies.copy_pages(source, copy, on_copied)
        report = checked(copy, on_step)
        copy.chmod(file_mode)
        _give_to_owner(copy, path if path.exists() else path.parent)
        replaced = _set_aside(path, lock.note) if path.exists() else None
        copies.delete_side_files(path)  # SQLite would apply the WAL of a deleted database to the copy
        copy.replace(path)
        copies.sync(path.parent)
        # The note and the progress are about the former database. Until here a kill leaves the former
        # database, perhaps without the WAL, and the next start must notice the missing events.
        lock.forget()
    finally:
        copies.delete(copy)
    return Restored(report, replaced)


def _give_to_owner(copy: Path, of: Path) -> None:
    """Give a copy made by root to the user of the server."""
    owner = of.stat()
    if owner.st_uid != copy.stat().st_uid and hasattr(os, "chown"):
        with suppress(PermissionError):
            os.chown(copy, owner.st_uid, owner.st_gid)


def _set_aside(path: Path, note: str) -> Path:
    """Give the former database a second name, complete in a single file if readable."""
    is_complete = _take_in_wal(path, note)
    replaced = path.with_name(path.name + REPLACED)
    copies.delete(replaced)
    try:
        os.link(path, replaced)
    except OSError:  # a file system without hard links; a rename would leave a moment without a database
        os.close(os.open(replaced, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        shutil.copyfile(path, replaced)
        copies.sync(replaced)  # soon the only file with the content
    for suffix in SIDE_FILES:
        side = path.with_name(path.name + suffix)
        with suppress(FileNotFoundError):
            if is_complete:
                side.unlink()
            else:  # perhaps an expert can read both together
                side.rename(replaced.with_name(replaced.name + suffix))
    files.narrow(replaced, DEFAULT_FILE_MODE)
    return replaced


def _take_in_wal(path: Path, note: str) -> bool:
    """Whether the WAL of a killed server, if any, is in the database now; False for a damaged database.

    Raises NothingChanged while another program reads the database, sqlite3.Error when the disk is full.
    """
    busy: int
    try:
        leftover_wal.check(path, note)
        uri = f"{path.as_uri()}?mode=rw"
        with closing(
            sqlite3.connect(uri, uri=True, isolation_level=None, timeout=CHECKPOINT_TIMEOUT_SECONDS)
        ) as former:
            busy, *_ = former.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise
        busy = code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        if not busy:
            return False
    except Exception:  # noqa: BLE001 -- a damaged database is a reason to restore a backup
        return False
    if busy:
        raise NothingChanged(
            f"A program reads {path}, whose WAL has events that the file lacks; end it first."
        )
    return True
