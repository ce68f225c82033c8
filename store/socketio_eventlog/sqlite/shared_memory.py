"""Room for the -shm, the shared memory of SQLite, on disks with blocks of less than 4 KB.

SQLite makes the file longer by one byte in each 4 KB, and writes the rest through a memory map. On a disk
with smaller blocks the rest is a hole, and if the disk has no free block, the system kills the process with
SIGBUS. Source: SQLite's os_unix.c, ``unixShmMap``.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

SQLITE_BLOCK_BYTES: Final = 4096
"""SQLite takes a block in each so many bytes by itself."""
REGION_BYTES: Final = 32_768
REGION_FRAMES: Final = 4096
"""The pages of the WAL in one part of the -shm. Source: https://sqlite.org/walformat.html."""
USUAL_FRAME_BYTES: Final = 4120
"""A page of a WAL, header included."""


def has_small_blocks(file: Path) -> bool:
    """Whether the disk of a file has blocks of less than 4 KB, and can reserve blocks."""
    if not hasattr(os, "posix_fallocate") or not hasattr(os, "statvfs"):
        return False
    try:
        return os.statvfs(file.parent).f_frsize < SQLITE_BLOCK_BYTES
    except OSError:  # the folder is made later, or the opening will name the error
        return False


def opening_bytes(database: Path) -> int:
    """Return the room for the opening of a database on such a disk, beside the blocks of the -shm.

    SQLite empties an unused -shm, and makes the file anew for the pages of the WAL.
    """
    frames = _status(database, "-wal")[0] // USUAL_FRAME_BYTES
    return max(0, size_for(frames) - _status(database, "-shm")[1])


def _status(database: Path, suffix: str) -> tuple[int, int]:
    """Return the size of a file, and the bytes of its blocks; 0 and 0 for none."""
    try:
        status = database.with_name(database.name + suffix).stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_size, status.st_blocks * 512


def size_for(frames: int) -> int:
    """Return the size of a -shm for a number of pages of the WAL, in bytes."""
    return (frames // REGION_FRAMES + 2) * REGION_BYTES  # the first part describes some less


class SharedMemory:
    """The blocks of the -shm of an open database, reserved before SQLite writes to them."""

    def __init__(self, database: Path) -> None:
        """``database`` is the path of the file, which exists."""
        self.is_needed: Final = has_small_blocks(database)
        """False where SQLite takes the blocks in time by itself."""
        self._size = 0

    def reserve(self, handle: int, frames: int) -> None:
        """Reserve blocks until the WAL has so many pages; ``handle`` may write the -shm.

        Raises OSError on a full disk.
        """
        if (size := size_for(frames)) <= self._size:
            return
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        self._size = size
