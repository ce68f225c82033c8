"""The rows of ``session_history`` and ``ended_sessions``: the entries that changes add to histories.

Jobs of a database thread, in the transaction of the changes. ``socketio_eventlog.history`` defines the
entries of a change; this module finds the sessions of a change, at the change's place in the order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from socketio_eventlog import history
from socketio_eventlog.changes import Change, Committed
from socketio_eventlog.history import Note
from socketio_eventlog.session_changes import (
    IdentityRevoked,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionAway,
    SessionBound,
    SessionEnd,
    SessionEnded,
    SessionOpened,
    SessionResumed,
)
from socketio_eventlog.sqlite.history_pruning import HistoryPruning
from socketio_eventlog.sqlite.point import Point

_Row: TypeAlias = tuple[object, ...]

_NOTE: Final = """
INSERT INTO session_history (kind, at, uptime, sequence, node, reason, detail, session)
SELECT ?, ?, ?, ?, ?, ?, ?, number FROM sessions WHERE namespace = ? AND sid = ?
"""
_NOTE_JOIN: Final = """
INSERT INTO session_history (kind, at, uptime, sequence, node, reason, detail, session)
SELECT ?, ?, ?, ?, ?, ?, ?, number FROM sessions WHERE namespace = ? AND sid = ?
  AND NOT EXISTS (SELECT 1 FROM rooms AS r
                  WHERE r.namespace = sessions.namespace AND r.sid = sessions.sid AND r.room = ?
                    AND r.left_after IS NULL)
"""
_NOTE_LEAVE: Final = """
INSERT INTO session_history (kind, at, uptime, sequence, node, reason, detail, session)
SELECT ?, ?, ?, ?, ?, ?, ?, number FROM sessions WHERE namespace = ? AND sid = ?
  AND EXISTS (SELECT 1 FROM rooms AS r
              WHERE r.namespace = sessions.namespace AND r.sid = sessions.sid AND r.room = ?
                AND r.left_after IS NULL)
"""
_NOTE_CLOSE: Final = """
INSERT INTO session_history (kind, at, uptime, sequence, node, reason, detail, session)
SELECT ?, ?, ?, ?, ?, ?, ?, number FROM rooms JOIN sessions USING (namespace, sid)
WHERE rooms.namespace = ? AND room = ? AND left_after IS NULL
"""
_NOTE_IDENTITY: Final = """
INSERT INTO session_history (kind, at, uptime, sequence, node, reason, detail, session)
SELECT ?, ?, ?, ?, ?, ?, ?, number FROM sessions WHERE namespace = ? AND sid = ? AND identity IS NOT ?
"""
_NOTE_REVOCATION: Final = """
INSERT INTO session_history (kind, at, uptime, sequence, node, reason, detail, session)
SELECT ?, ?, ?, ?, ?, ?, ?, number FROM sessions WHERE identity = ? ORDER BY number
"""
_NOTE_NUMBER: Final = """
INSERT INTO session_history (kind, at, uptime, sequence, node, reason, detail, session)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
# REPLACE: a repeated sid, as in tests, must not fail the end of a session. The size is bounded: the rooms of
# a session with very many rooms are not kept after the end.
_KEEP: Final = """
INSERT OR REPLACE INTO ended_sessions
  (session, namespace, sid, identity, pid_hash, start_offset, confirmed, rooms)
SELECT number, namespace, sid, identity, pid_hash, start_offset, confirmed,
       (SELECT CASE WHEN length(found) <= 4000 THEN found ELSE '[]' END FROM (
          SELECT json_group_array(json_array(room, joined_after, left_after)) AS found FROM rooms AS r
          WHERE r.namespace = sessions.namespace AND r.sid = sessions.sid))
FROM sessions WHERE namespace = ? AND sid = ? AND claim = coalesce(?, claim)
"""
_KEEP_REVOKED: Final = """
INSERT OR REPLACE INTO ended_sessions
  (session, namespace, sid, identity, pid_hash, start_offset, confirmed, rooms)
SELECT number, namespace, sid, identity, pid_hash, start_offset, confirmed,
       (SELECT CASE WHEN length(found) <= 4000 THEN found ELSE '[]' END FROM (
          SELECT json_group_array(json_array(room, joined_after, left_after)) AS found FROM rooms AS r
          WHERE r.namespace = sessions.namespace AND r.sid = sessions.sid))
FROM sessions WHERE identity = ?
"""
_FORGET: Final = """
DELETE FROM session_history
WHERE session = (SELECT number FROM sessions WHERE namespace = ? AND sid = ? AND claim = coalesce(?, claim))
"""
_FIND_SID: Final = """
SELECT number, sid FROM sessions WHERE namespace = ?1 AND sid = ?2
UNION ALL SELECT session, sid FROM ended_sessions WHERE namespace = ?1 AND sid = ?2
"""
_FIND_PID: Final = "SELECT session, sid FROM ended_sessions WHERE pid_hash = ? AND namespace = ?"
# Before the row of the new node: the newest row belongs to the former node of the sessions. The last sign of
# life is the last heartbeat, or an entry since then.
_NOTE_LEFT_BEHIND: Final = """
INSERT INTO session_history (kind, at, uptime, sequence, reason, session)
SELECT ?, max(coalesce((SELECT alive_at FROM boots ORDER BY number DESC LIMIT 1), ?),
              coalesce((SELECT at FROM session_history ORDER BY number DESC LIMIT 1), 0)),
       ?, ?, ?, number
FROM sessions WHERE node IS NOT NULL OR away_since IS NULL
"""
MAX_SIZE_PER_ROW: Final = 1000
"""One row of all histories for so many bytes of ``max_size``. A row has about 60 bytes."""
_FORGET_ALL: Final = ("DELETE FROM session_history", "DELETE FROM ended_sessions")


class NoHistory:
    """Writes no history."""

    def begin(self, connection: sqlite3.Connection, now: float, uptime: float, head: int) -> None:
        """Delete the former history, which would lack the changes since then.

        Called at the start of a node, before the node's row and before the sessions of other nodes become
        away.
        """
        for statement in _FORGET_ALL:
            connection.execute(statement)

    def before(self, connection: sqlite3.Connection, changes: Sequence[Any], point: Point) -> None:
        """Note changes of one kind before ``sessions`` writes the changes, except SessionOpened."""

    def opened(self, connection: sqlite3.Connection, changes: Sequence[SessionOpened], point: Point) -> None:
        """Note new sessions, after the write of the rows."""

    def decided(self, connection: sqlite3.Connection, committed: Sequence[Committed], point: Point) -> None:
        """Note changes of one kind, written by ``claims``."""

    def resumed(self, connection: sqlite3.Connection, change: SessionResumed, point: Point) -> None:
        """Note an acceptance, before the deferred changes."""

    def ending(self, connection: sqlite3.Connection, change: SessionEnded, point: Point) -> None:
        """Note the end of a session before its deletion, and keep the columns that the history needs.

        The history of a never accepted session is deleted.
        """

    def prune(self, connection: sqlite3.Connection, before: float, limit: int) -> bool:
        """Delete old and surplus rows, at most ``limit`` of each kind; return whether there are more."""
        return False


class HistoryRows(NoHistory):
    """Writes the history of each session."""

    def __init__(self, max_rows: int) -> None:
        """``max_rows``: the newest rows of all sessions together, which pruning leaves."""
        self._pruning = HistoryPruning(max_rows)

    def begin(self, connection: sqlite3.Connection, now: float, uptime: float, head: int) -> None:
        kind, _, _, reason, _, _ = history.node_gone()
        connection.execute(_NOTE_LEFT_BEHIND, (kind, now, uptime, head, reason))

    def before(self, connection: sqlite3.Connection, changes: Sequence[Any], point: Point) -> None:
        kind = type(changes[0])
        if kind is RoomJoined or kind is RoomLeft:
            statement = _NOTE_JOIN if kind is RoomJoined else _NOTE_LEAVE
            rows = [
                (*_values(history.of_room(change), point), change.namespace, change.sid, change.room)
                for change in dict.fromkeys(changes)  # of two equal joins the second has no effect
            ]
            connection.executemany(statement, rows)
        elif kind is RoomClosed:
            rows = [
                (*_values(history.of_room(change), point), change.namespace, change.room)
                for change in dict.fromkeys(changes)
            ]
            connection.executemany(_NOTE_CLOSE, rows)
        elif kind is SessionBound:
            rows = [
                (*_values(history.bound(change), point), change.namespace, change.sid, change.identity)
                for change in dict.fromkeys(changes)
            ]
            connection.executemany(_NOTE_IDENTITY, rows)
        elif kind is IdentityRevoked:
            note = history.ended(SessionEnd.REVOKED)
            for change in dict.fromkeys(changes):
                connection.execute(_NOTE_REVOCATION, (*_values(note, point), change.identity))
                connection.execute(_KEEP_REVOKED, (change.identity,))

    def opened(self, connection: sqlite3.Connection, changes: Sequence[SessionOpened], point: Point) -> None:
        (newest,) = connection.execute("SELECT last_insert_rowid()").fetchone()
        rows: list[_Row] = []
        for number, change in enumerate(changes, newest - len(changes) + 1):
            former = None if change.instead_of is None else _former(connection, change)
            opened, connected = history.opened(change, point.node, None if former is None else former[1])
            rows += ((*_values(opened, point), number), (*_values(connected, point), number))
            if former is not None and (replaced := history.replaced(change)) is not None:
                rows.append((*_values(replaced, point), former[0]))
        connection.executemany(_NOTE_NUMBER, rows)

    def decided(self, connection: sqlite3.Connection, committed: Sequence[Committed], point: Point) -> None:
        note_of = _NOTES_OF_CLAIMS.get(type(committed[0].change))
        if note_of is None:
            return
        rows: list[_Row] = []
        change: Any
        for change, _, took_effect, _ in committed:
            if took_effect and not (type(change) is SessionResumed and change.deferred):
                note = note_of(change, point.node)
                rows.append((*_values(note, point), change.namespace, change.sid))
        connection.executemany(_NOTE, rows)

    def resumed(self, connection: sqlite3.Connection, change: SessionResumed, point: Point) -> None:
        values = _values(history.resumed(change, point.node), point)
        connection.execute(_NOTE, (*values, change.namespace, change.sid))

    def ending(self, connection: sqlite3.Connection, change: SessionEnded, point: Point) -> None:
        session = (change.namespace, change.sid)
        if change.reason in history.ENDS_WITHOUT_HISTORY:
            connection.execute(_FORGET, (*session, change.claim))
        elif connection.execute(_KEEP, (*session, change.claim)).rowcount:
            connection.execute(_NOTE, (*_values(history.ended(change.reason), point), *session))

    def prune(self, connection: sqlite3.Connection, before: float, limit: int) -> bool:
        return self._pruning.prune(connection, before, limit)


def _values(note: Note, point: Point) -> _Row:
    kind, at, node, reason, detail, sequence = note
    at, sequence = point.now if at is None else at, point.position if sequence is None else sequence
    return kind, at, point.uptime, sequence, node, reason, detail


_NOTES_OF_CLAIMS: Final[dict[type[Change], Callable[[Any, str], Note]]] = {
    SessionResumed: history.resumed,
    SessionAway: history.away,
}
"""Not SessionClaimed: an undecided claim is no entry of the history."""


def _former(connection: sqlite3.Connection, change: SessionOpened) -> tuple[int, str] | None:
    """Return number and sid of the requested session; None for an unknown session."""
    asked = change.instead_of
    found: tuple[int, str] | None = None
    if asked is not None and asked.sid is not None:
        found = connection.execute(_FIND_SID, (change.namespace, asked.sid)).fetchone()
    elif asked is not None and asked.pid_hash is not None:
        found = connection.execute(_FIND_PID, (asked.pid_hash, change.namespace)).fetchone()
    return found
