"""The rows of ``sessions`` and ``rooms``: statements for each kind of change that ``claims`` does not write.

Jobs of a database thread, in the caller's transaction. A change of a session without a row does nothing:
the end of the session may have been written before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final, TypeAlias

from socketio_eventlog.records import (
    DataSaved,
    IdentityRevoked,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionBound,
    SessionOpened,
)
from socketio_eventlog.sqlite.point import Point

SessionChange: TypeAlias = (
    SessionOpened | SessionBound | IdentityRevoked | DataSaved | RoomJoined | RoomLeft | RoomClosed
)

_OPEN: Final = """
INSERT INTO sessions (namespace, sid, pid_hash, start_boot, start_offset, former_offset,
                      confirmed, opened_at, auth_hash, node, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '{}')
"""
_BIND: Final = "UPDATE sessions SET identity = ? WHERE namespace = ? AND sid = ?"
_REVOKE_MEMBERSHIPS: Final = """
DELETE FROM rooms WHERE (namespace, sid) IN (SELECT namespace, sid FROM sessions WHERE identity = ?)
"""
_REVOKE: Final = "DELETE FROM sessions WHERE identity = ?"
_SAVE: Final = "UPDATE sessions SET data = ? WHERE namespace = ? AND sid = ?"

# A second join of the same room must not move the beginning of the membership.
_JOIN: Final = """
INSERT INTO rooms (namespace, sid, room, joined_after)
SELECT namespace, sid, ?, ? FROM sessions
WHERE namespace = ? AND sid = ?
  AND NOT EXISTS (SELECT 1 FROM rooms AS r
                  WHERE r.namespace = sessions.namespace AND r.sid = sessions.sid AND r.room = ?
                    AND r.left_after IS NULL)
ON CONFLICT (namespace, sid, room, joined_after) DO UPDATE SET left_after = NULL
"""
_LEAVE: Final = """
UPDATE rooms SET left_after = ?
WHERE namespace = ? AND sid = ? AND room = ? AND left_after IS NULL
"""
# The statement scans every membership of the namespace, 9 ms for 100,000. An index by room would make each
# join three times as dear, and joins are much more frequent.
_CLOSE: Final = """
UPDATE rooms SET left_after = ? WHERE namespace = ? AND room = ? AND left_after IS NULL
"""

_STATEMENTS: Final[dict[type[SessionChange], tuple[str, ...]]] = {
    SessionOpened: (_OPEN,),
    SessionBound: (_BIND,),
    IdentityRevoked: (_REVOKE_MEMBERSHIPS, _REVOKE),
    DataSaved: (_SAVE,),
    RoomJoined: (_JOIN,),
    RoomLeft: (_LEAVE,),
    RoomClosed: (_CLOSE,),
}


def write(connection: sqlite3.Connection, changes: Sequence[SessionChange], point: Point) -> None:
    """Write changes of one kind, all at the same point."""
    rows = [_parameters(change, point) for change in changes]
    for statement in _STATEMENTS[type(changes[0])]:
        connection.executemany(statement, rows)


def _parameters(change: SessionChange, point: Point) -> tuple[object, ...]:
    if isinstance(change, RoomClosed | IdentityRevoked):
        return _parameters_for_many(change, point)
    session = (change.namespace, change.sid)
    match change:
        case SessionOpened():
            return (
                *session,
                change.pid_hash,
                *point.offset,
                change.former_offset,
                point.position,
                change.opened_at,
                change.auth_hash,
                point.node,
            )
        case SessionBound():
            return (change.identity, *session)
        case DataSaved():
            return (change.data, *session)
        case RoomJoined():
            return (change.room, point.position, *session, change.room)
        case RoomLeft():
            return (point.position, *session, change.room)


def _parameters_for_many(change: RoomClosed | IdentityRevoked, point: Point) -> tuple[object, ...]:
    """Return the parameters of a change that concerns several sessions."""
    if isinstance(change, RoomClosed):
        return point.position, change.namespace, change.room
    return (change.identity,)
