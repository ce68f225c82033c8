"""The space of a database: the size limit, and the behaviour on a full disk.

All methods run on the writer's thread. The pages in use and the WAL count; unused pages of the database are
space for new events, since no page ever returns to the disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from socketio_eventlog.changes import Change
from socketio_eventlog.errors import LogFull, StoreUnavailable
from socketio_eventlog.free_space import FreeSpace, grows, may_grow
from socketio_eventlog.sqlite.change_sizes import have_longer_data, max_bytes
from socketio_eventlog.sqlite.reserve import Reserve
from socketio_eventlog.sqlite.schema import WAL_BYTES

T = TypeVar("T")

USUAL_WAL_BYTES: Final = 8_000_000
"""A larger WAL waits for a reader. Deletions would make the WAL grow, and free nothing."""
BYTES_PER_APPEND: Final = 64_000_000
"""The most that an append adds, except for very large groups: 8 million characters of up to 4 bytes, in the
WAL and then in the database. Counting costs more than 5 µs, so a small log is not counted at each append."""
OVERSHOOT: Final = 8
"""The log may exceed the limit by 1/OVERSHOOT, until all deletable events are deleted."""


class _NoRoom(Exception):
    """The disk has not enough space for the changes and the checkpoint."""


class Space:
    """Refuses growing changes while there is no free space, and gives up the reserve on a full disk."""

    def __init__(
        self,
        path: Path,
        max_size: int,
        reserve: Reserve,
        free_space: FreeSpace,
        call_on_loop: Callable[..., object],
    ) -> None:
        """``call_on_loop`` calls a function on the event loop of ``free_space``."""
        path = path.resolve()  # SQLite puts the WAL beside the target of a symbolic link
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._max_size = max_size
        self._reserve = reserve
        self._free_space = free_space
        self._call_on_loop = call_on_loop
        self._page_bytes = 0
        self._unused_bytes = 0
        """The unused pages of the database at the last count."""
        self._unwritten_bytes = 0
        """Pages in the WAL for which the database file has to grow at the next checkpoint."""
        self._used_bytes = 0
        self._appends_until_count = 0
        self._has_reserve = False
        self._is_disk_full = False
        self._is_stuck = False
        """Whether not even the end of a session could be written."""
        self._reported: tuple[bool, str | None] = (False, None)

    @property
    def wal_bytes(self) -> int:
        """The size of the WAL at which a checkpoint is due: less for a small log or disk."""
        return min(WAL_BYTES, self._max_size // 8, self._reserve.size_bytes // 2)

    def begin(self, connection: sqlite3.Connection) -> None:
        """Count the space and make the reserve, after the start."""
        (self._page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        self._has_reserve = self._reserve.create()
        self._count(connection)
        self._look_for_space()
        self._report()

    def run(
        self, connection: sqlite3.Connection, changes: Sequence[Change], transaction: Callable[[], T]
    ) -> T:
        """Run a transaction that writes the changes; give up the reserve when the disk is full.

        Raises LogFull for growing changes without space, StoreUnavailable when other changes have no space
        either.
        """
        self._look_for_space()
        try:
            result = transaction()
        except (sqlite3.Error, OSError, _NoRoom) as error:
            if not isinstance(error, _NoRoom) and not self._reserve.ran_out(error):
                raise
            self._ran_out(connection)
            if may_grow(changes):
                self._report()
                raise LogFull(self._disk_is_full()) from error
            result = self._run_again(transaction)
        self._is_stuck = False
        if self._is_disk_full:
            self._checkpoint(connection)  # the next transaction then needs no space in the WAL
        self._report()
        return result

    def admit(self, connection: sqlite3.Connection, changes: Sequence[Change]) -> None:
        """Count the space, in the transaction of the changes; raise LogFull when there is no space."""
        self._appends_until_count -= 1
        is_counted = self._appends_until_count < 0
        if is_counted:
            self.count(connection)
        refusal = self._refusal()
        if refusal is not None and (grows(changes) or have_longer_data(connection, changes)):
            raise LogFull(refusal)
        if is_counted and grows(changes) and not self._has_space_for(max_bytes(changes)):
            raise _NoRoom

    def count(self, connection: sqlite3.Connection) -> None:
        """Count the space, in a transaction."""
        self._count(connection)
        self._report()

    def measure(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Report the size of the log; return the numbers of all and of unused pages."""
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (unused,) = connection.execute("PRAGMA freelist_count").fetchone()
        wal_bytes = self._wal_bytes()
        self._free_space.used_bytes = (pages - unused) * self._page_bytes + wal_bytes
        self._free_space.wal_bytes = wal_bytes
        return pages, unused

    def _count(self, connection: sqlite3.Connection) -> None:
        pages, unused = self.measure(connection)
        self._unused_bytes = unused * self._page_bytes
        self._used_bytes = self._free_space.used_bytes
        left = max(0, min(self._max_size - self._used_bytes, self._reserve.free_bytes))
        self._appends_until_count = left // BYTES_PER_APPEND if self._has_reserve else 0
        self._unwritten_bytes = max(0, pages * self._page_bytes - self._path.stat().st_size)

    def _wal_bytes(self) -> int:
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0

    # The disk -----------------------------------------------------------------------------------------

    def _has_space_for(self, size_bytes: int) -> bool:
        """Whether a checkpoint will succeed after changes of ``size_bytes``, if need be with the reserve.

        Otherwise the changes would fill the WAL with pages, no checkpoint could move the pages to the
        database, and the WAL could never be written from the start again.
        """
        growth = self._unwritten_bytes + max(0, size_bytes - self._unused_bytes)
        if growth <= (self._reserve.size_bytes // 2 if self._has_reserve else 0):
            return True
        return self._reserve.free_bytes >= growth + size_bytes

    def _look_for_space(self) -> None:
        """Make the reserve again when there is space; unused pages of the database do as well."""
        if self._has_reserve:
            return
        self._has_reserve = self._reserve.create()
        enough = self._reserve.size_bytes
        if self._has_reserve or not self._reserve.is_possible or self._unused_bytes >= enough:
            self._is_disk_full = False
        elif self._unused_bytes < enough // 2:
            self._is_disk_full = True

    def _ran_out(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        self._reserve.give_up()
        self._has_reserve, self._is_disk_full, self._unused_bytes = False, True, 0
        self._appends_until_count = 0
        self._checkpoint(connection)

    def _run_again(self, transaction: Callable[[], T]) -> T:
        try:
            return transaction()
        except (sqlite3.Error, OSError) as error:
            if not self._reserve.ran_out(error):
                raise
            self._is_stuck = True
            self._report()
            raise StoreUnavailable(self._disk_is_full()) from error

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Move the WAL to the database, as far as there is space; the WAL is then written from the start."""
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    # The report ---------------------------------------------------------------------------------------

    def _refusal(self) -> str | None:
        """Return the reason for the refusal of new events; None when new events are accepted."""
        if self._is_disk_full:
            return self._disk_is_full()
        over = self._used_bytes - self._max_size
        if over <= 0 or (over <= self._max_size // OVERSHOOT and self._may_shrink()):
            return None
        return f"{self._path} and its WAL have reached max_size = {self._max_size} bytes."

    def _disk_is_full(self) -> str:
        if self._is_stuck:
            return self._reserve.disk_is_full(self._path)
        return (
            f"The disk of {self._path} is full: new events are refused until old ones could be deleted, or "
            "there is room on the disk."
        )

    def _may_shrink(self) -> bool:
        """Whether the deletion of old events may bring the log below the limit again."""
        return not self._free_space.is_pruned and not self._is_wal_too_large()

    def _is_wal_too_large(self) -> bool:
        wal = self._wal_bytes()
        return self._used_bytes - wal + min(wal, USUAL_WAL_BYTES) <= self._max_size

    def _report(self) -> None:
        is_over = self._used_bytes > self._max_size and not self._is_wal_too_large()
        report = (self._is_disk_full or is_over, self._refusal())
        if report == self._reported:
            return
        self._reported = report
        with suppress(RuntimeError):  # a closed event loop
            self._call_on_loop(lambda: self._free_space.report(is_scarce=report[0], refusal=report[1]))
