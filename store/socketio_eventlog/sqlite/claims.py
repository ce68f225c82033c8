"""The changes of a session with an outcome: without effect after another claim, or after the session's end.

Jobs of a database thread, in the caller's transaction. Each change is a statement of its own, since
``executemany`` does not tell which statements found a row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import groupby
from typing import Final, TypeAlias

from socketio_eventlog.changes import Committed
from socketio_eventlog.session_changes import SessionAway, SessionClaimed, SessionEnded, SessionResumed
from socketio_eventlog.sqlite import sessions
from socketio_eventlog.sqlite.point import Point
from socketio_eventlog.sqlite.session_history import NoHistory

ConditionalChange: TypeAlias = SessionClaimed | SessionResumed | SessionAway | SessionEnded

KINDS: Final = frozenset({SessionClaimed, SessionResumed, SessionAway, SessionEnded})
"""The types of ConditionalChange."""

_CLAIM: Final = """
UPDATE sessions SET claim = claim + 1, node = ?, away_since = coalesce(away_since, ?)
WHERE namespace = ? AND sid = ?
RETURNING claim
"""
_RESUME: Final = """
UPDATE sessions SET resumed_at = ?, disconnected_at = NULL, away_since = NULL, left_by_client = 0
WHERE namespace = ? AND sid = ? AND claim = ?
"""
# A refused client must not clear left_by_client, which protects the session: only SessionResumed does.
_MARK_AWAY: Final = """
UPDATE sessions SET node = NULL, away_since = coalesce(away_since, ?),
                    disconnected_at = coalesce(disconnected_at, ?), confirmed = max(confirmed, ?),
                    left_by_client = max(left_by_client, ?)
WHERE namespace = ? AND sid = ? AND claim = ?
"""
_DELETE_RECEIVED: Final = "DELETE FROM rooms WHERE namespace = ? AND sid = ? AND left_after <= ?"
_END: Final = "DELETE FROM sessions WHERE namespace = ? AND sid = ? AND claim = coalesce(?, claim)"
_END_MEMBERSHIPS: Final = "DELETE FROM rooms WHERE namespace = ? AND sid = ?"


def write(
    connection: sqlite3.Connection, changes: Sequence[ConditionalChange], point: Point, history: NoHistory
) -> Sequence[Committed]:
    """Write changes of one kind, each by a statement; return the changes with their outcomes."""
    committed = [_write(connection, change, point, history) for change in changes]
    history.decided(connection, committed, point)
    return committed


def _write(
    connection: sqlite3.Connection, change: ConditionalChange, point: Point, history: NoHistory
) -> Committed:
    match change:
        case SessionClaimed():
            return _claim(connection, change, point)
        case SessionResumed():
            return Committed(change, point.position, _resume(connection, change, point, history))
        case SessionAway():
            return Committed(change, point.position, _mark_away(connection, change, point))
        case SessionEnded():
            return Committed(change, point.position, _end(connection, change, point, history))


def _claim(connection: sqlite3.Connection, change: SessionClaimed, point: Point) -> Committed:
    values = (point.node, point.uptime, change.namespace, change.sid)
    claims = connection.execute(_CLAIM, values).fetchall()
    return Committed(change, point.position, bool(claims), claims[0][0] if claims else 0)


def _resume(connection: sqlite3.Connection, change: SessionResumed, point: Point, history: NoHistory) -> bool:
    values = (change.resumed_at, change.namespace, change.sid, change.claim)
    if not connection.execute(_RESUME, values).rowcount:
        return False
    if change.deferred:
        history.resumed(connection, change, point)
    for _, run in groupby(change.deferred, type):
        group = list(run)
        history.before(connection, group, point)
        sessions.write(connection, group, point)
    return True


def _mark_away(connection: sqlite3.Connection, change: SessionAway, point: Point) -> bool:
    session = (change.namespace, change.sid)
    times = (point.uptime, change.disconnected_at)
    values = (*times, change.confirmed, change.left_by_client, *session, change.claim)
    if not connection.execute(_MARK_AWAY, values).rowcount:
        return False
    connection.execute(_DELETE_RECEIVED, (*session, change.confirmed))
    return True


def _end(connection: sqlite3.Connection, change: SessionEnded, point: Point, history: NoHistory) -> bool:
    session = (change.namespace, change.sid)
    history.ending(connection, change, point)
    if not connection.execute(_END, (*session, change.claim)).rowcount:
        return False
    connection.execute(_END_MEMBERSHIPS, session)
    return True
