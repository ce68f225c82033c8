"""The reads and the pruning of ``session_history`` and ``ended_sessions``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from socketio_eventlog.history import (
    ENTRIES_KEPT,
    ENTRIES_READ,
    EndedState,
    HistoryEntry,
    HistoryKind,
    RowBound,
    SessionHistory,
)
from socketio_eventlog.postgres.connection import Connection
from socketio_eventlog.snapshot import Membership

MAX_SIZE_PER_ROW: Final = 1000
"""One row of all histories for so many bytes of ``max_size``."""

_KINDS: Final = frozenset(kind.value for kind in HistoryKind)
_ONE_SNAPSHOT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
_PRESENT: Final = "SELECT number FROM eventstore.sessions WHERE namespace = %s AND sid = %s"
_ENDED: Final = """
SELECT session, identity, start_offset, confirmed, rooms FROM eventstore.ended_sessions
WHERE namespace = %s AND sid = %s
"""
_READ: Final = """
SELECT number, kind, at, sequence, node, reason, detail FROM eventstore.session_history
WHERE session = %s ORDER BY number DESC LIMIT %s
"""
_NEWEST: Final = "SELECT coalesce(max(number), 0) FROM eventstore.session_history"
# The numbers ascend as the uptimes do, so the old rows are the first rows.
_PRUNE: Final = """
WITH old AS (
  DELETE FROM eventstore.session_history
  WHERE number = ANY(ARRAY(SELECT number FROM eventstore.session_history ORDER BY number LIMIT %s))
    AND (uptime < %s OR number = ANY(ARRAY(
      SELECT number FROM eventstore.session_history ORDER BY number LIMIT %s)))
  RETURNING session)
SELECT session FROM old
"""
_COUNT: Final = "SELECT count(*) FROM eventstore.session_history"
_FORGET_ENDED: Final = """
DELETE FROM eventstore.ended_sessions AS e
WHERE session = ANY(%s)
  AND NOT EXISTS (SELECT FROM eventstore.session_history AS h WHERE h.session = e.session)
"""
_TRIM: Final = """
DELETE FROM eventstore.session_history AS h USING (
  SELECT session, (SELECT n.number FROM eventstore.session_history AS n WHERE n.session = recent.session
                   ORDER BY n.number DESC LIMIT 1 OFFSET %s) AS surplus
  FROM (SELECT DISTINCT session FROM eventstore.session_history WHERE number > %s AND number <= %s) AS recent
) AS crowded
WHERE h.session = crowded.session AND h.number <= crowded.surplus
"""


async def read(connection: Connection, namespace: str, sid: str) -> SessionHistory | None:
    """Return the newest entries of a session, oldest first; None when there are none."""
    async with connection.transaction():  # the session may end between the reads
        await connection.execute(_ONE_SNAPSHOT)
        return await _read(connection, namespace, sid)


async def _read(connection: Connection, namespace: str, sid: str) -> SessionHistory | None:
    ended: EndedState | None = None
    row: Any = await (await connection.execute(_PRESENT, (namespace, sid))).fetchone()
    if row is None:
        row = await (await connection.execute(_ENDED, (namespace, sid))).fetchone()
        if row is None:
            return None
        _, identity, start, confirmed, rooms = row
        ended = EndedState(identity, start, confirmed, _memberships(rooms))
    rows: list[Any] = await (await connection.execute(_READ, (row[0], ENTRIES_READ))).fetchall()
    entries = [
        HistoryEntry(number, HistoryKind(kind), at, sequence, node, reason, _detail(detail))
        for number, kind, at, sequence, node, reason, detail in reversed(rows)
        if kind in _KINDS  # another program may have changed the row
    ]
    return SessionHistory(entries, ended) if rows else None


def _detail(text: str | None) -> str | int | None:
    try:
        found = None if text is None else json.loads(text)
    except ValueError:  # another program has changed the row
        return text
    return found if isinstance(found, str | int) else None


def _memberships(rooms: str) -> Sequence[Membership]:
    try:
        found = [
            Membership(json.loads(room), int(after), through) for room, after, through in json.loads(rooms)
        ]
    except (ValueError, TypeError):  # as above
        return []
    return [one for one in found if one.through is None or one.through > one.after]


class HistoryPruning:
    """The deletion of old and surplus entries, in steps."""

    def __init__(self, max_rows: int) -> None:
        """``max_rows``: the newest entries of all sessions together, which stay."""
        self._max_rows = max_rows
        self._trimmed_through: int | None = None
        """The last row checked for surplus rows; None before the first pruning."""
        self._bound: RowBound | None = None

    async def prune(self, connection: Connection, before: float, limit: int) -> bool:
        """Delete at most ``limit`` old or surplus entries; return whether there are more."""
        newest: Any = await (await connection.execute(_NEWEST)).fetchone()
        if self._bound is None or self._bound.is_loose(newest[0], self._max_rows):
            count: Any = await (await connection.execute(_COUNT)).fetchone()
            self._bound = RowBound(count[0], newest[0])
        surplus = min(limit, max(0, self._bound.at(newest[0]) - self._max_rows))
        deleted: list[Any] = await (await connection.execute(_PRUNE, (limit, before, surplus))).fetchall()
        self._bound = RowBound(self._bound.rows - len(deleted), self._bound.newest)
        if deleted:
            await connection.execute(_FORGET_ENDED, (list({row[0] for row in deleted}),))
        start = newest[0] if self._trimmed_through is None else self._trimmed_through
        stop = min(newest[0], start + limit)
        if start < stop:
            await connection.execute(_TRIM, (ENTRIES_KEPT, start, stop))
        self._trimmed_through = stop
        return stop < newest[0] or len(deleted) == limit
