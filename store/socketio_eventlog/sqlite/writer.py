"""The write transactions: the writer numbers batches and events, and changes become rows.

The code of this module runs on the writer's thread, and only the thread accesses the counters: appends
cannot overtake each other on the thread, however the callers run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, repeat
from pathlib import Path
from typing import Any, Final, cast

from socketio_eventlog.altered import AlteredRange
from socketio_eventlog.changes import (
    Batch,
    Change,
    Committed,
    EventHandled,
    Heartbeat,
    NodeDied,
    NodeJoined,
    Pruned,
    Published,
    Redacted,
)
from socketio_eventlog.errors import StoreRejected, StoreUnavailable
from socketio_eventlog.events import Event
from socketio_eventlog.maintenance import Compacted
from socketio_eventlog.segment import SegmentChunk
from socketio_eventlog.session_changes import (
    IdentityRevoked,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionBound,
    SessionEnded,
    SessionOpened,
    SessionResumed,
)
from socketio_eventlog.sqlite import (
    altered,
    claims,
    compact,
    events,
    idempotency_keys,
    nodes,
    publications,
    segments,
    sessions,
)
from socketio_eventlog.sqlite.lock import Lock, Progress
from socketio_eventlog.sqlite.point import Point, effective
from socketio_eventlog.sqlite.session_history import NoHistory
from socketio_eventlog.sqlite.space import BYTES_PER_APPEND, Space
from socketio_eventlog.sqlite.wal_guard import WalGuard
from socketio_eventlog.uptime import UptimeClock

_BEGIN: Final = "BEGIN IMMEDIATE"
_NEWEST: Final = """
SELECT boot, (SELECT max(number) FROM altered_ranges) FROM boots ORDER BY number DESC LIMIT 1
"""
_COUNT_CHANGE: Final = "UPDATE log_state SET changes = ?"
_NOTE_HEAD: Final = "UPDATE log_state SET head = ?"
_NARROWING: Final = frozenset({RoomJoined, RoomLeft, RoomClosed, SessionBound, SessionEnded, IdentityRevoked})


@dataclass(frozen=True, slots=True)
class WriterStart:
    """The state of the database from which a writer continues."""

    head: int
    """The last sequence at the beginning of the epoch."""
    changes: int
    """The number of transactions that changed memberships, or the events that sessions may receive."""
    altered_through: int
    """The number of the last known altered range."""
    lock: Lock | None
    """The lock of the file, which keeps the progress; None on a file system without locks."""


class Writer:
    """Executes the write transactions of a node, and numbers batches and events."""

    def __init__(
        self,
        path: Path,
        node: str,
        start: WriterStart,
        uptime: UptimeClock,
        wall_clock: Callable[[], float],
        space: Space,
        history: NoHistory,
    ) -> None:
        """The file must exist."""
        path = path.resolve()  # SQLite puts the WAL beside the target of a symbolic link
        self._path = path
        self._files = {file: _device_and_inode(file) for file in (path, path.with_name(path.name + "-wal"))}
        self._node = node
        self._head = start.head
        self._last_sequence = start.head
        self._changes = start.changes
        self._altered_through = start.altered_through
        self._altered: list[AlteredRange] = []
        self._lock = start.lock
        self._wal = WalGuard(path)
        self._last_batch = 0
        self._uptime = uptime
        self._wall_clock = wall_clock
        self._space = space
        self._history = history
        self._has_lost_file = False

    def append(
        self,
        connection: sqlite3.Connection,
        changes: Sequence[Change],
        chunks: Sequence[SegmentChunk],
        own: int,
    ) -> Batch:
        """Write the changes in order, and chunks of the index, in one transaction: the batch.

        A failed append uses up its sequences, too: a COMMIT with an error may still turn out committed after
        a crash. The number of a batch is in no row, and a failed append does not use up the number.

        Raises LogFull for growing changes without room.
        """
        append = partial(self._append, connection, changes, chunks, own)
        return self._space.run(connection, changes, append)

    def _append(
        self,
        connection: sqlite3.Connection,
        changes: Sequence[Change],
        chunks: Sequence[SegmentChunk],
        own: int,
    ) -> Batch:
        uptime, now = self._uptime.next()
        wall_time = self._wall_clock()
        self._begin(connection)
        self._space.admit(connection, changes)
        for chunk in chunks:
            segments.write(connection, chunk)
        head, sequence, changed = self._head, self._last_sequence, self._changes
        count = list(map(type, changes)).count(Event)
        self._last_sequence += count
        if count and sequence > head:
            altered.note_unused(connection, head + 1, sequence)
        if count < len(changes) and any(map(_narrows, changes)):
            changed += 1
            connection.execute(_COUNT_CHANGE, (changed,))
        committed: list[Committed] = []
        for kind, run in groupby(changes, type):
            group = list(run)
            if kind is Event:
                first, head = sequence + 1, sequence + len(group)
                events.insert(connection, first, cast("list[Event]", group))
                committed += effective(group, range(first, head + 1))
                sequence = head
            else:
                committed += self._write(connection, kind, group, Point(self._node, head, uptime, wall_time))
        connection.commit()
        self._head, self._changes = head, changed
        if self._lock is not None:
            self._lock.note_progress(Progress(self._node, head, changed))
        self._wal.committed()
        self._last_batch += 1
        self._uptime.step(uptime, now)
        return Batch(self._last_batch, self._node, own, uptime, committed)

    def close(self) -> None:
        """Close the watched files, when all connections are closed."""
        self._wal.close()

    def take_altered(self) -> list[AlteredRange]:
        """Return the altered ranges found since the last call."""
        found, self._altered = self._altered, []
        return found

    def _write(
        self, connection: sqlite3.Connection, kind: type[Change], changes: list[Any], point: Point
    ) -> Iterable[Committed]:
        """Write changes of one kind; return them with their outcomes."""
        if kind in claims.KINDS:
            return claims.write(connection, changes, point, self._history)
        if kind is EventHandled:
            idempotency_keys.write(connection, changes, point.uptime)
        elif kind is Published:
            publications.write(connection, changes, point)
        elif kind is Heartbeat:
            self._beat(connection, changes, point)
            self._space.measure(connection)
        elif kind is Pruned:
            _prune(connection, changes, point)
            self._space.count(connection)
        elif kind is Redacted:
            return [
                Committed(change, point.position, events.redact(connection, change)) for change in changes
            ]
        elif kind is NodeJoined or kind is NodeDied:
            raise StoreRejected("An SQLite database has one node, which no change makes or ends.")
        elif kind is SessionOpened:
            sessions.write(connection, changes, point)
            self._history.opened(connection, changes, point)
        else:
            self._history.before(connection, changes, point)
            sessions.write(connection, changes, point)
        return effective(changes, repeat(point.position), claim=1 if kind is SessionOpened else 0)

    def _beat(self, connection: sqlite3.Connection, heartbeats: Sequence[Heartbeat], point: Point) -> None:
        """Record a heartbeat. Raises StoreUnavailable for a deleted or replaced file.

        SQLite writes to a deleted file without an error, and every batch is lost at the end.
        """
        self._check_files()
        self._wal.check_frames()
        connection.execute(_NOTE_HEAD, (point.position,))
        for heartbeat in heartbeats:
            nodes.write_heartbeat(connection, heartbeat, point, point.now)

    def prune_idempotency_keys(
        self, connection: sqlite3.Connection, handled_before: float, limit: int
    ) -> int:
        """Delete keys as ``idempotency_keys.prune`` ``publications.prune`` do; return the larger count."""

        def prune() -> int:
            self._begin(connection)
            handled = idempotency_keys.prune(connection, handled_before, limit)
            published = publications.prune(connection, handled_before, limit)
            connection.commit()
            return max(handled, published)

        return self._space.run(connection, (), prune)

    def prune_history(self, connection: sqlite3.Connection, before: float, limit: int) -> bool:
        """Delete rows as ``HistoryRows.prune`` does; return whether there is more to delete."""

        def prune() -> bool:
            self._begin(connection)
            is_more = self._history.prune(connection, before, limit)
            self._space.count(connection)
            connection.commit()
            return is_more

        return self._space.run(connection, (), prune)

    def compact(self, connection: sqlite3.Connection, max_bytes: int | None) -> Compacted:
        """Compact the database as ``compact.compact`` does; the new WAL does not count as cut."""
        self._check_files()
        self._wal.check()
        try:
            return compact.compact(connection, self._path, max_bytes=max_bytes)[0]
        finally:
            self._wal.committed()
            self._space.count(connection)

    def truncate_wal(self, connection: sqlite3.Connection) -> bool:
        """Remove overwritten content from the WAL; return False while a reader still needs the WAL."""
        self._wal.check()
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._wal.committed()
        return not busy

    def _begin(self, connection: sqlite3.Connection) -> None:
        if self._has_lost_file:
            self._check_files()
        self._wal.check()
        self._wal.reserve_index(BYTES_PER_APPEND)
        connection.execute(_BEGIN)
        # The lock excludes other servers, as long as the lock file is not deleted.
        newest, altered_through = connection.execute(_NEWEST).fetchone()
        if newest != self._node:
            # Both servers would continue the log from their own memory: one server must stop.
            raise StoreUnavailable("Another server was started on this database and has taken it over.")
        if altered_through is not None and altered_through > self._altered_through:
            self._altered += altered.since(connection, self._altered_through)
            self._altered_through = altered_through

    def _check_files(self) -> None:
        lost = [file for file, known in self._files.items() if _device_and_inode(file) != known]
        self._has_lost_file = bool(lost)
        if lost:
            raise StoreUnavailable(f"{lost[0]} was deleted or replaced while the server was running.")


def _narrows(change: Change) -> bool:
    """Whether a session from before the change must not be recovered without the change."""
    return type(change) in _NARROWING or (type(change) is SessionResumed and bool(change.deferred))


def _prune(connection: sqlite3.Connection, changes: Sequence[Pruned], point: Point) -> None:
    """Delete the events up to a sequence as ``events.prune`` does, and the segments without events."""
    through = min(max(change.through for change in changes), point.position)
    events.prune(connection, through)
    altered.prune(connection, through)
    segments.delete(connection, through)


def _device_and_inode(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
