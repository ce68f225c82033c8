"""The deletion of old and surplus rows of ``session_history``, and of ``ended_sessions`` without a history.

Jobs of a database thread, in the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from socketio_eventlog import history
from socketio_eventlog.history import RowBound

_NEWEST: Final = "SELECT coalesce(max(number), 0) FROM session_history"
_COUNT: Final = "SELECT count(*) FROM session_history"
# The numbers ascend as the uptimes do, so the old rows are the first rows. The newest row stays: otherwise
# the numbers would begin anew, and readers continue behind a number.
_PRUNE: Final = """
DELETE FROM session_history
WHERE number IN (SELECT number FROM session_history ORDER BY number LIMIT ?)
  AND (uptime < ? OR number IN (SELECT number FROM session_history ORDER BY number LIMIT ?))
  AND number <> ?
RETURNING session
"""
_FORGET_ENDED: Final = """
DELETE FROM ended_sessions
WHERE session = ?1 AND NOT EXISTS (SELECT 1 FROM session_history AS h WHERE h.session = ?1)
"""
# Every 16th row is checked: enough to find a session with very many rows, at less cost in a storm of clients.
_CROWDED: Final = """
SELECT session FROM (SELECT DISTINCT session FROM session_history
                     WHERE number > ? AND number <= ? AND number % 16 = 0) AS recent
WHERE EXISTS (SELECT 1 FROM session_history AS h WHERE h.session = recent.session
              ORDER BY h.number DESC LIMIT 1 OFFSET ?)
"""
_TRIM: Final = """
DELETE FROM session_history
WHERE session = ?1 AND number <= (SELECT h.number FROM session_history AS h WHERE h.session = ?1
                                  ORDER BY h.number DESC LIMIT 1 OFFSET ?2)
"""


class HistoryPruning:
    """Deletes rows of the histories, with the state between two calls."""

    def __init__(self, max_rows: int) -> None:
        """``max_rows``: the newest rows of all sessions together, which pruning leaves."""
        self._max_rows = max_rows
        self._trimmed_through: int | None = None
        """The last row checked for surplus rows; None before the first pruning."""
        self._bound: RowBound | None = None

    def prune(self, connection: sqlite3.Connection, before: float, limit: int) -> bool:
        """Delete old and surplus rows, at most ``limit`` of each kind; return whether there are more."""
        (newest,) = connection.execute(_NEWEST).fetchone()
        if self._bound is None or self._bound.is_loose(newest, self._max_rows):
            self._bound = RowBound(connection.execute(_COUNT).fetchone()[0], newest)
        surplus = min(limit, max(0, self._bound.at(newest) - self._max_rows))
        deleted = connection.execute(_PRUNE, (limit, before, surplus, newest)).fetchall()
        connection.executemany(_FORGET_ENDED, set(deleted))
        self._bound = RowBound(self._bound.rows - len(deleted), self._bound.newest)
        return self._trim(connection, newest, limit) or len(deleted) == limit

    def _trim(self, connection: sqlite3.Connection, newest: int, limit: int) -> bool:
        """Delete the surplus rows of the sessions with new rows; return whether there are more new rows."""
        start = newest if self._trimmed_through is None else self._trimmed_through
        stop = min(newest, start + limit)
        crowded = connection.execute(_CROWDED, (start, stop, history.ENTRIES_KEPT)).fetchall()
        connection.executemany(_TRIM, [(session, history.ENTRIES_KEPT) for (session,) in crowded])
        self._trimmed_through = stop
        return stop < newest
