"""The read of a session's history. A job of a database thread."""

from __future__ import annotations

import json
import sqlite3
from typing import Final

from socketio_eventlog.history import ENTRIES_READ, EndedState, HistoryEntry, HistoryKind, SessionHistory
from socketio_eventlog.snapshot import Membership

_KINDS: Final = frozenset(kind.value for kind in HistoryKind)
_DETAILS: Final = (str, int, type(None))
_PRESENT: Final = "SELECT number FROM sessions WHERE namespace = ? AND sid = ?"
_ENDED: Final = """
SELECT session, identity, start_offset, confirmed, rooms FROM ended_sessions WHERE namespace = ? AND sid = ?
"""
_READ: Final = """
SELECT number, kind, at, sequence, node, reason, detail FROM session_history
WHERE session = ? ORDER BY number DESC LIMIT ?
"""


def read(connection: sqlite3.Connection, namespace: str, sid: str) -> SessionHistory | None:
    """Return the newest entries of a session, oldest first; None when there are none."""
    connection.execute("BEGIN")  # the session may end between the reads
    try:
        return _read(connection, namespace, sid)
    finally:
        connection.execute("COMMIT")


def _read(connection: sqlite3.Connection, namespace: str, sid: str) -> SessionHistory | None:
    ended: EndedState | None = None
    row = connection.execute(_PRESENT, (namespace, sid)).fetchone()
    if row is None:
        row = connection.execute(_ENDED, (namespace, sid)).fetchone()
        if row is None:
            return None
        _, identity, start, confirmed, rooms = row
        ended = EndedState(identity, start, confirmed, _memberships(rooms))
    rows = connection.execute(_READ, (row[0], ENTRIES_READ)).fetchall()
    if not rows:
        return None
    entries = [
        HistoryEntry(number, HistoryKind(kind), at, sequence, node, reason, detail)
        for number, kind, at, sequence, node, reason, detail in reversed(rows)
        if kind in _KINDS and isinstance(detail, _DETAILS)  # another program may have changed the row
    ]
    return SessionHistory(entries, ended)


def _memberships(rooms: str) -> list[Membership]:
    try:
        found = [Membership(room, int(after), through) for room, after, through in json.loads(rooms)]
        return [one for one in found if one.through is None or one.through > one.after]
    except (ValueError, TypeError):  # as above
        return []
