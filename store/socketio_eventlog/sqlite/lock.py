"""The lock that lets one process at a time write a database.

It is on a file of its own beside the database, never on the database: closing any handle of that one would
drop the locks that SQLite holds on it (https://sqlite.org/howtocorrupt.html, "POSIX advisory locks").
The kernel gives it back when the process ends, however that ends; a file that a kill left behind is free.
Readers take no notice of it.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from socketio_eventlog.errors import StoreNotUsable

try:
    import fcntl
except ImportError:  # Windows; two servers on one database are told apart by their boots only
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

logger = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 0.02
_NOT_HERE: Final = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})
"""What file systems say that have no such locks, some of those on a network."""

_held: Final[set[int]] = set()


def _close_inherited() -> None:
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    # A worker process of the application, which may outlive a server that is killed, would keep the lock.
    os.register_at_fork(after_in_child=_close_inherited)


class Lock:
    """The right to write a database, until ``release`` or the end of the process."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        """Take it, or wait for whoever has it; blocking. The folder must exist.

        Raises StoreNotUsable when it was not free in time, OSError when its file cannot be made.
        """
        path = path.resolve()  # servers that go by different symbolic links must meet
        self._file = path.with_name(path.name + "-lock")
        self._handle: int | None = None
        deadline, told = time.monotonic() + timeout_seconds, False
        while HAS_LOCKS and not self._try():
            if time.monotonic() >= deadline:
                raise StoreNotUsable(f"{path} is in use by another server.")
            if not told:
                logger.warning(
                    "%s is in use by another server; waiting up to %g s for its end.", path, timeout_seconds
                )
                told = True
            time.sleep(_PAUSE_SECONDS)

    def release(self) -> None:
        """Give it back. May be called again."""
        handle, self._handle = self._handle, None
        if handle is None or handle not in _held:
            return
        with suppress(OSError):  # an empty file in the way of nobody
            if self._is_file_of(handle):
                self._file.unlink()
        _held.discard(handle)
        os.close(handle)

    def _try(self) -> bool:
        """Whether it is ours now, or there is nothing to be had."""
        handle = os.open(self._file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have deleted the file that was opened here: then it locks nobody out.
            if self._is_file_of(handle):
                self._handle = handle
                _held.add(handle)
        except OSError as error:
            if error.errno in _NOT_HERE:
                logger.warning("%s: this file system has no locks; start one server only.", self._file)
                return True
            if not isinstance(error, BlockingIOError):
                raise
        finally:
            if self._handle is None:
                os.close(handle)
        return self._handle is not None

    def _is_file_of(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self._file.stat())
        except FileNotFoundError:
            return False
