"""A file that reserves room on the disk: given up on a full disk, so the log can delete events.

A full disk refuses deletions and checkpoints, too: both write to the WAL first. SQLite never opens the
reserve, and this module never opens the database: the close of a handle of the database would drop SQLite's
locks on the database (https://sqlite.org/howtocorrupt.html, "POSIX advisory locks").
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from socketio_eventlog.errors import StoreNotUsable
from socketio_eventlog.sqlite.shared_memory import has_small_blocks, opening_bytes

logger = logging.getLogger(__name__)

RESERVE_BYTES: Final = 8_000_000
"""Room for a WAL of the usual size, and for as many new pages of the database at a checkpoint."""
SHARE_OF_DISK: Final = 8
"""On a small disk, the reserve has 1/SHARE_OF_DISK of the disk."""
PROBE_BYTES: Final = 65_536

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_PERHAPS_NO_SPACE: Final = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
"""SQLite's errors for an exhausted quota, and for a full disk at the creation of the -wal and the -shm."""


class Reserve:
    """The reserve file beside a database. All methods are blocking."""

    def __init__(self, path: Path, file_mode: int) -> None:
        """``path`` is the path of the database; nothing is written yet."""
        path = path.resolve()  # the database and its WAL are on the disk of the link's target
        self._file = path.with_name(path.name + "-reserve")
        self._folder = path.parent
        self._file_mode = file_mode
        self.is_possible = True
        """False on a file system without reservation of room, or with a limit below the reserve's size."""

    @property
    def size_bytes(self) -> int:
        """The actual or intended size of the reserve."""
        return min(RESERVE_BYTES, self._disk()[0] // SHARE_OF_DISK)

    @property
    def exists(self) -> bool:
        return self._file.exists()

    @property
    def free_bytes(self) -> int:
        """The free room on the disk, without the reserve."""
        return self._disk()[1]

    @property
    def missing_bytes(self) -> int:
        """The bytes to free for the reserve and the same size beside the reserve."""
        return max(0, 2 * self.size_bytes - self.free_bytes)

    def create(self) -> bool:
        """Make the reserve if there is room for twice the reserve; return whether the reserve exists."""
        size = self.size_bytes
        if self._has_blocks(size):
            return True
        if not self.is_possible or self.missing_bytes > 0:
            return False
        try:
            self._allocate(0, size)
            if not self._has_blocks(size):
                raise OSError(errno.EOPNOTSUPP, "the file system stores an empty file in less room")
        except OSError as error:
            self._delete()
            if error.errno not in _NO_SPACE:
                self.is_possible = False
                logger.warning("%s cannot reserve room on its disk: %s.", self._file, error)
            return False
        return True

    def give_up(self) -> bool:
        """Delete the reserve; return whether the reserve existed."""
        if not self.exists:
            return False
        self._delete()
        return True

    def check_opening(self, path: Path) -> None:
        """Raise StoreNotUsable for a disk on which the opening of the database would kill the process."""
        path = path.resolve()
        if has_small_blocks(path) and (needed := opening_bytes(path)) and self._is_full(needed):
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise StoreNotUsable(f"{path} cannot be opened: {error}.") from error

    def give_up_for(self, path: Path, error: StoreNotUsable) -> None:
        """Give up the reserve after a failed start on a full disk; raise any other error again.

        Without a reserve, the error says how many bytes must be freed.
        """
        if not self.ran_out(error):
            raise error
        if not self.give_up():
            raise StoreNotUsable(self.disk_is_full(path)) from error

    def disk_is_full(self, path: Path) -> str:
        """Return a sentence with the bytes to free before the log goes on."""
        return f"The disk of {path} is full: {self.missing_bytes} bytes must be freed by hand."

    def ran_out(self, error: BaseException) -> bool:
        """Whether a write failed since the disk or a quota is full.

        For an exhausted quota SQLite says "disk I/O error" only, so the file system is asked.
        """
        for cause in _causes(error):
            if isinstance(cause, OSError):
                return cause.errno in _NO_SPACE
            if isinstance(cause, sqlite3.Error):
                code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
                return code == sqlite3.SQLITE_FULL or (code in _PERHAPS_NO_SPACE and self._is_full())
        return False

    def _has_blocks(self, size: int) -> bool:
        """Whether the reserve takes ``size`` bytes of the disk: a copied reserve may be sparse."""
        try:
            status = self._file.stat()
        except FileNotFoundError:
            return False
        blocks = getattr(status, "st_blocks", None)  # None: Windows
        return status.st_size >= size and (blocks is None or blocks * 512 >= size)

    def _is_full(self, probe_bytes: int = PROBE_BYTES) -> bool:
        """Whether the file system refuses a few more blocks."""
        size = self._file.stat().st_size if self.exists else 0
        try:
            self._allocate(size, probe_bytes)
        except OSError as error:
            return error.errno in _NO_SPACE
        finally:
            with suppress(OSError):
                if size:
                    os.truncate(self._file, size)
                else:
                    self._file.unlink()
        return False

    def _allocate(self, start: int, size: int) -> None:
        handle = os.open(self._file, os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            with suppress(PermissionError):  # of another owner
                self._file.chmod(self._file_mode)  # os.open would apply the umask
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, start, size)
            else:  # macOS, Windows
                os.lseek(handle, start, os.SEEK_SET)
                for _ in range(0, size, PROBE_BYTES):
                    os.write(handle, bytes(PROBE_BYTES))
                os.fsync(handle)
        finally:
            os.close(handle)

    def _delete(self) -> None:
        with suppress(FileNotFoundError):
            self._file.unlink()

    def _disk(self) -> tuple[int, int]:
        """Return the size of the disk and the free room on it for this user, in bytes."""
        try:
            status = os.statvfs(self._folder)
        except (OSError, AttributeError):  # AttributeError: Windows, where writing alone tells
            return RESERVE_BYTES * SHARE_OF_DISK, sys.maxsize
        return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
