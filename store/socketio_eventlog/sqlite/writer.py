"""The write transactions: the writer assigns sequences, and changes become rows.

The code of this module runs on the writer's thread, and only the thread accesses the counters: commits
cannot overtake each other on the thread, however the callers run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, cast

from socketio_eventlog.errors import StoreUnavailable
from socketio_eventlog.records import Change, Event, EventHandled, Offset
from socketio_eventlog.segment import SegmentChunk
from socketio_eventlog.sqlite import events, idempotency_keys, segments, sessions

_BEGIN: Final = "BEGIN IMMEDIATE"
_NEWEST_EPOCH: Final = "SELECT boot FROM boots ORDER BY number DESC LIMIT 1"
_HEARTBEAT: Final = "UPDATE boots SET alive_at = ?, service_time = ? WHERE boot = ?"


class Writer:
    """Executes the write transactions of one epoch and assigns the sequences."""

    def __init__(self, path: Path, epoch: str, head: int) -> None:
        """``head``: the last sequence at the beginning of the epoch. The file must exist."""
        path = path.resolve()  # SQLite puts the WAL beside the target of a symbolic link
        self._files = {file: _device_and_inode(file) for file in (path, path.with_name(path.name + "-wal"))}
        self._epoch = epoch
        self._head = head
        self._last_sequence = head
        self._lost_file: Path | None = None

    def commit(
        self, connection: sqlite3.Connection, changes: Sequence[Change], chunk: SegmentChunk | None
    ) -> list[int]:
        """Write the changes in their order, and a chunk of the index, in one transaction.

        Returns the head after each change. A failed commit uses up its sequences, too: a COMMIT that
        reports an error may still be found committed after a crash.
        """
        self._begin(connection)
        head = self._head
        sequence = self._last_sequence
        self._last_sequence += sum(1 for change in changes if type(change) is Event)
        heads: list[int] = []
        for kind, run in groupby(changes, type):
            group = list(run)
            if kind is Event:
                events.insert(connection, sequence + 1, cast("list[Event]", group))
                heads.extend(range(sequence + 1, sequence + 1 + len(group)))
                head = sequence = sequence + len(group)
            elif kind is EventHandled:
                idempotency_keys.write(connection, cast("list[EventHandled]", group))
                heads.extend([head] * len(group))
            else:
                offset = Offset(self._epoch, head)
                sessions.write(connection, cast("list[sessions.SessionChange]", group), offset)
                heads.extend([head] * len(group))
        if chunk is not None:
            segments.write(connection, chunk)
        connection.commit()
        self._head = head
        return heads

    def prune(
        self, connection: sqlite3.Connection, through: int, emitted_before: float, limit: int
    ) -> tuple[int, int]:
        """Delete events as ``events.prune`` does, and the segments without events."""
        self._begin(connection)
        deleted, last = events.prune(connection, through, emitted_before, limit)
        if deleted:
            segments.delete(connection, last)
        connection.commit()
        return deleted, last

    def prune_idempotency_keys(
        self, connection: sqlite3.Connection, handled_before: float, limit: int
    ) -> int:
        """Delete keys as ``idempotency_keys.prune`` does."""
        self._begin(connection)
        deleted = idempotency_keys.prune(connection, handled_before, limit)
        connection.commit()
        return deleted

    def heartbeat(self, connection: sqlite3.Connection, alive_at: float, uptime: float) -> None:
        """Record that the node is alive. Raises StoreUnavailable for a deleted or replaced file.

        SQLite writes to a deleted file without an error, and every commit is lost at the end.
        """
        changed = (file for file, known in self._files.items() if _device_and_inode(file) != known)
        self._lost_file = next(changed, None)
        self._begin(connection)
        connection.execute(_HEARTBEAT, (alive_at, uptime, self._epoch))
        connection.commit()

    def _begin(self, connection: sqlite3.Connection) -> None:
        if self._lost_file is not None:
            raise StoreUnavailable(f"{self._lost_file} was deleted or replaced while the server was running.")
        connection.execute(_BEGIN)
        # The lock excludes other servers, as long as the lock file is not deleted.
        (newest,) = connection.execute(_NEWEST_EPOCH).fetchone()
        if newest != self._epoch:
            # Both servers would continue the log, each from its own memory: one server has to stop.
            raise StoreUnavailable("Another server was started on this database and has taken it over.")


def _device_and_inode(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
