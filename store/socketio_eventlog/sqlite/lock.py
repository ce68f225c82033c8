"""The lock which limits the writers of a database to one process at a time.

The lock is on a file of its own beside the database, never on the database: the close of any handle of the
database would drop SQLite's locks on the database (https://sqlite.org/howtocorrupt.html, "POSIX advisory
locks"). The kernel releases the lock at the end of the process, in whatever way the process ends; a lock
file left by a kill is free. Readers ignore the lock.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from socketio_eventlog.errors import StoreInUse
from socketio_eventlog.options import DEFAULT_FILE_MODE

try:
    import fcntl
except ImportError:  # Windows: there is no lock, and only the epochs distinguish two servers on a database
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

logger = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 0.02
_ADVICE: Final = (
    "One process serves a database: end the other one, or start only one worker (uvicorn --workers 1)."
)
MAX_NOTE_BYTES: Final = 1000
_PROGRESS_AT: Final = 1024
_PROGRESS: Final = struct.Struct("<32sQQ")
_UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})
"""The errors of file systems without such locks, for example of some network file systems."""

_locked_handles: Final[set[int]] = set()


def _close_inherited_handles() -> None:
    while _locked_handles:
        os.close(_locked_handles.pop())


if hasattr(os, "register_at_fork"):
    # A worker process of the application may outlive a killed server, and would keep the lock.
    os.register_at_fork(after_in_child=_close_inherited_handles)


class Progress(NamedTuple):
    """The last commit of a server."""

    epoch: str
    """The epoch of the server."""
    head: int
    """The last sequence."""
    changes: int
    """The number of transactions that changed memberships, or the events that sessions may receive."""


class Lock:
    """The right to write a database, until ``release`` or the end of the process."""

    def __init__(self, path: Path, timeout_seconds: float, file_mode: int = DEFAULT_FILE_MODE) -> None:
        """Acquire the lock, or wait for its release; blocking. The folder of ``path`` must exist.

        Raises StoreInUse after the timeout, OSError when the lock file cannot be created.
        """
        path = path.resolve()  # servers with different symbolic links need the same lock file
        self._file = path.with_name(path.name + "-lock")
        self._file_mode = file_mode
        self._handle: int | None = None
        self.found_progress: Progress | None = None
        """The progress of a killed server, until recorded in the database; None after a clean stop."""
        deadline, warned = time.monotonic() + timeout_seconds, False
        while HAS_LOCKS and not self._try_acquire():
            if time.monotonic() >= deadline:
                raise StoreInUse(f"{path} is in use by another server. {_ADVICE}")
            if not warned:
                logger.warning(
                    "%s is in use by another server; waiting up to %g s for its end.", path, timeout_seconds
                )
                warned = True
            time.sleep(_PAUSE_SECONDS)

    @classmethod
    def if_free(cls, path: Path, file_mode: int = DEFAULT_FILE_MODE) -> Lock | None:
        """Acquire the lock without waiting; None while another process has it. Raises OSError."""
        try:
            return cls(path, 0.0, file_mode)
        except StoreInUse:
            return None

    @property
    def note(self) -> str:
        """The text in the lock file; a killed server leaves the text to the next server."""
        if self._handle is None:
            return ""
        return os.pread(self._handle, MAX_NOTE_BYTES, 0).rstrip(b"\0").decode(errors="replace")

    @note.setter
    def note(self, text: str) -> None:
        if self._handle is not None:
            os.pwrite(self._handle, text.encode().ljust(MAX_NOTE_BYTES, b"\0"), 0)
            os.fsync(self._handle)  # a power cut must not bring an earlier note back

    def forget(self) -> None:
        """Delete the note and the progress: both are about a database that is replaced."""
        if self._handle is not None:
            self.found_progress = None
            os.ftruncate(self._handle, 0)
            os.fsync(self._handle)

    def note_progress(self, progress: Progress) -> None:
        """Record the last commit, behind the note; without a sync.

        The record survives the end of the process, as the commit does: the next start notices a WAL that was
        cut or deleted afterwards.
        """
        if self._handle is not None:
            content = _PROGRESS.pack(progress.epoch.encode(), *progress[1:])
            with suppress(OSError):  # the commit has succeeded; an older note misses less, and nothing wrong
                os.pwrite(self._handle, content, _PROGRESS_AT)

    @staticmethod
    def _read_progress(handle: int) -> Progress | None:
        content = os.pread(handle, _PROGRESS.size, _PROGRESS_AT)
        if len(content) < _PROGRESS.size:
            return None
        epoch, head, changes = _PROGRESS.unpack(content)
        return Progress(epoch.rstrip(b"\0").decode(errors="replace"), head, changes)

    def release(self, *, keep_file: bool = False) -> None:
        """Release the lock and delete the lock file, note included. A second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is None or handle not in _locked_handles:
            return
        with suppress(OSError):  # a lock file without a lock does no harm
            if not keep_file and self._is_lock_file(handle):
                self._file.unlink()
        _locked_handles.discard(handle)
        os.close(handle)

    def _try_acquire(self) -> bool:
        """Return whether the lock is acquired, or the file system has no locks."""
        handle = os.open(self._file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The former owner may have deleted the opened file: a lock on a deleted file excludes no server.
            if self._is_lock_file(handle):
                with suppress(PermissionError):  # of another owner
                    os.fchmod(handle, self._file_mode)  # os.open would apply the umask
                    self._give_to_owner(handle)
                self._handle = handle
                self.found_progress = self._read_progress(handle)
                _locked_handles.add(handle)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                logger.warning("%s: this file system has no locks; start one server only.", self._file)
                return True
            if not isinstance(error, BlockingIOError):
                raise
        finally:
            if self._handle is None:
                os.close(handle)
        return self._handle is not None

    def _give_to_owner(self, handle: int) -> None:
        """Give a file made by root to the user of the server, who must be able to open the file."""
        owner, present = self._file.parent.stat(), os.fstat(handle)
        if present.st_uid == 0 != owner.st_uid:
            os.fchown(handle, owner.st_uid, owner.st_gid)

    def _is_lock_file(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self._file.stat())
        except FileNotFoundError:
            return False
