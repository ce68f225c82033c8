"""Whether another program has cut the WAL, past SQLite, while the server runs."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from socketio_eventlog.errors import StoreUnavailable
from socketio_eventlog.sqlite.shared_memory import SharedMemory

_WAL_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_INDEX_HEADER_BYTES: Final = 48
CAN_READ: Final = hasattr(os, "pread")


class _Sample(NamedTuple):
    """The last frame of the WAL at a heartbeat."""

    wal_header: bytes
    """The header of the WAL. The header's salt changes when SQLite begins the WAL anew."""
    at: int
    """Where the frame begins, in bytes."""
    frame_header: bytes


class _Index(NamedTuple):
    """The header of the index of the WAL, in the -shm.

    Source: https://sqlite.org/walformat.html, "The WAL-Index File Format".
    """

    content: bytes

    @property
    def frames(self) -> int:
        """The number of committed frames."""
        return int.from_bytes(self.content[16:20], sys.byteorder)

    @property
    def frame_bytes(self) -> int:
        page_bytes = int.from_bytes(self.content[14:16], sys.byteorder)
        return _FRAME_HEADER_BYTES + (65536 if page_bytes == 1 else page_bytes)

    @property
    def end(self) -> int:
        """Where the last frame ends in the WAL, in bytes."""
        return _WAL_HEADER_BYTES + self.frames * self.frame_bytes


class WalGuard:
    """Notices a cut before the next transaction, by the size; or at a heartbeat, by a missing frame.

    SQLite would write behind the end and leave zeros in the middle, which the next checkpoint copies into the
    database. A cut during a transaction escapes the comparison of the sizes, and not the heartbeat.
    """

    def __init__(self, path: Path) -> None:
        """``path``: the database, without symbolic links."""
        self._wal = path.with_name(f"{path.name}-wal")
        self._shm = path.with_name(f"{path.name}-shm")
        self._shared_memory = SharedMemory(path)
        self._size = 0
        self._sample: _Sample | None = None
        self._handles: tuple[int, int] | None = None
        self._was_cut = False

    def committed(self) -> None:
        """Take note of the size after a commit."""
        self._size = self._present_size()

    def check(self) -> None:
        """Raise StoreUnavailable for a WAL shorter than SQLite assumes."""
        if self._was_cut or (self._present_size() < self._size and self._lacks_frames()):
            self._refuse()

    def reserve_index(self, more_bytes: int) -> None:
        """Reserve room for the index of so many more bytes in the WAL; before a transaction.

        Raises OSError on a full disk, where SQLite would be killed at the first write to the new room.
        """
        if self._shared_memory.is_needed:
            _, shm = self._open()
            frames = (self._present_size() + more_bytes) // self._index().frame_bytes
            self._shared_memory.reserve(shm, frames)

    def check_frames(self) -> None:
        """Raise StoreUnavailable when the last frame of the last check is gone; inside of a transaction."""
        if not CAN_READ:
            return
        wal, _ = self._open()
        header = os.pread(wal, _WAL_HEADER_BYTES, 0)
        sample = self._sample
        is_same = sample is not None and header == sample.wal_header
        if sample is not None and is_same and sample.frame_header != _frame_header(wal, sample.at):
            self._refuse()
        index = self._index()
        if index.frames and not any(header):
            self._refuse()
        at = index.end - index.frame_bytes
        self._sample = _Sample(header, at, _frame_header(wal, at)) if index.frames else None

    def close(self) -> None:
        """Close the files; only when no connection of this process is open.

        The close of any handle of the -shm drops all locks of the process on the file.
        """
        handles, self._handles = self._handles, None
        for handle in handles or ():
            os.close(handle)

    def _refuse(self) -> None:
        self._was_cut = True
        raise StoreUnavailable(
            f"{self._wal} was cut by another program while the server ran. Start the server again."
        )

    def _present_size(self) -> int:
        if not CAN_READ:
            return self._size
        wal, _ = self._open()
        return os.lseek(wal, 0, os.SEEK_END)  # twice for each commit: a fifth of the time of os.stat

    def _lacks_frames(self) -> bool:
        """Whether the WAL has fewer frames than the index: another program may cut the WAL through SQLite.

        SQLite empties the index before a cut of the WAL, and counts frames after their write. So the size
        counts only while the index stays the same; the index has a new salt after each cut.
        """
        while True:
            index = self._index()
            size = self._present_size()
            if index == self._index():
                return index.frames > 0 and size < index.end

    def _index(self) -> _Index:
        _, shm = self._open()
        return _Index(os.pread(shm, _INDEX_HEADER_BYTES, 0))

    def _open(self) -> tuple[int, int]:
        """Return the handles of WAL and index, opened before the first transaction."""
        if self._handles is None:
            flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
            for_index = flags | (os.O_RDWR if self._shared_memory.is_needed else 0)
            with ExitStack() as opened:
                try:
                    wal = os.open(self._wal, flags)
                    opened.callback(os.close, wal)
                    self._handles = wal, os.open(self._shm, for_index)
                except OSError as error:
                    raise StoreUnavailable(f"{self._wal} cannot be watched: {error}.") from error
                opened.pop_all()
        return self._handles


def _frame_header(wal: int, at: int) -> bytes:
    return os.pread(wal, _FRAME_HEADER_BYTES, at)
