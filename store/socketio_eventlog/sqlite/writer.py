"""What happens inside the write transactions: numbers are given out, changes become rows.

Everything here runs on the writer's thread, and the counters are that thread's own: commits cannot
overtake each other there, whatever their callers do meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, cast

from socketio_eventlog.errors import StoreUnavailable
from socketio_eventlog.index import SegmentChunk
from socketio_eventlog.records import Change, Event, EventHandled, Offset
from socketio_eventlog.sqlite import events, idempotency_keys, segments, sessions

_BEGIN: Final = "BEGIN IMMEDIATE"
_NEWEST_BOOT: Final = "SELECT boot FROM boots ORDER BY number DESC LIMIT 1"
_BEAT: Final = "UPDATE boots SET alive_at = ?, service_time = ? WHERE boot = ?"


class Writer:
    """The one that gives out numbers, for one boot of the server."""

    def __init__(self, path: Path, epoch: str, head: int) -> None:
        """``head``: the log's last number when this boot began. The file must exist."""
        path = path.resolve()  # SQLite puts the WAL beside what a symbolic link points to
        self._files = {file: _identity(file) for file in (path, path.with_name(path.name + "-wal"))}
        self._epoch = epoch
        self._head = head
        self._last_used = head
        self._lost: Path | None = None

    def commit(
        self, connection: sqlite3.Connection, changes: Sequence[Change], chunk: SegmentChunk | None
    ) -> list[int]:
        """Write the changes in their order, and a portion of the index, in one transaction.

        Returns the log's position after each change. Numbers are used up even if this fails: a COMMIT
        that reports an error may still be found committed after a crash.
        """
        self._begin(connection)
        head = self._head
        sequence = self._last_used
        self._last_used += sum(1 for change in changes if type(change) is Event)
        positions: list[int] = []
        for kind, run in groupby(changes, type):
            group = list(run)
            if kind is Event:
                events.insert(connection, sequence + 1, cast("list[Event]", group))
                positions.extend(range(sequence + 1, sequence + 1 + len(group)))
                head = sequence = sequence + len(group)
            elif kind is EventHandled:
                idempotency_keys.write(connection, cast("list[EventHandled]", group))
                positions.extend([head] * len(group))
            else:
                offset = Offset(self._epoch, head)
                sessions.write(connection, cast("list[sessions.SessionChange]", group), offset)
                positions.extend([head] * len(group))
        if chunk is not None:
            segments.write(connection, chunk)
        connection.commit()
        self._head = head
        return positions

    def prune(
        self, connection: sqlite3.Connection, through: int, emitted_before: float, limit: int
    ) -> tuple[int, int]:
        """See ``events.prune``; index rows without events left go with them."""
        self._begin(connection)
        deleted, last = events.prune(connection, through, emitted_before, limit)
        if deleted:
            segments.delete(connection, last)
        connection.commit()
        return deleted, last

    def prune_idempotency_keys(
        self, connection: sqlite3.Connection, handled_before: float, limit: int
    ) -> int:
        """See ``idempotency_keys.prune``."""
        self._begin(connection)
        deleted = idempotency_keys.prune(connection, handled_before, limit)
        connection.commit()
        return deleted

    def heartbeat(self, connection: sqlite3.Connection, alive_at: float, uptime: float) -> None:
        """Note that this boot is alive. Raises StoreUnavailable if the files are not ours any more.

        On a file that was deleted SQLite goes on without an error, and all of it is gone at the end.
        """
        changed = (file for file, identity in self._files.items() if _identity(file) != identity)
        self._lost = next(changed, None)
        self._begin(connection)
        connection.execute(_BEAT, (alive_at, uptime, self._epoch))
        connection.commit()

    def _begin(self, connection: sqlite3.Connection) -> None:
        if self._lost is not None:
            raise StoreUnavailable(f"{self._lost} was deleted or replaced while the server was running.")
        connection.execute(_BEGIN)
        # The lock keeps other servers out, unless somebody deletes its file.
        (newest,) = connection.execute(_NEWEST_BOOT).fetchone()
        if newest != self._epoch:
            # It continues the log from its own memory, as this one would: one of them has to stop.
            raise StoreUnavailable("Another server was started on this database and has taken it over.")


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
