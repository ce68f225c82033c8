"""The rows of ``sessions`` and ``rooms``: statements for each kind of change, except the kinds of ``claims``.

Jobs of a database thread, in the caller's transaction. A change of a session without a row does nothing: the
end of the session may have been written before.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from socketio_eventlog.session_changes import (
    DataSaved,
    IdentityRevoked,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionBound,
    SessionOpened,
    TokenAccepted,
)
from socketio_eventlog.sqlite.point import Point

SessionChange: TypeAlias = (
    SessionOpened
    | SessionBound
    | TokenAccepted
    | IdentityRevoked
    | DataSaved
    | RoomJoined
    | RoomLeft
    | RoomClosed
)

# An ended session may still have a history under the number.
_OPEN: Final = """
INSERT INTO sessions (number, namespace, sid, pid_hash, start_boot, start_offset, former_offset,
                      confirmed, opened_at, auth_hash, node, data)
VALUES (1 + max(coalesce((SELECT max(number) FROM sessions), 0),
                coalesce((SELECT max(session) FROM session_history), 0)),
        ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '{}')
"""
_BIND: Final = "UPDATE sessions SET identity = ? WHERE namespace = ? AND sid = ?"
_ACCEPT: Final = """
UPDATE sessions SET token_expires_at = ?, token_rooms = ? WHERE namespace = ? AND sid = ?
"""
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


def write(connection: sqlite3.Connection, changes: Sequence[SessionChange], point: Point) -> None:
    """Write changes of one kind, all at the same point."""
    statements, parameters = _WRITES[type(changes[0])]
    rows = [parameters(change, point) for change in changes]
    for statement in statements:
        connection.executemany(statement, rows)


_Parameters: TypeAlias = tuple[object, ...]


def _opened(change: SessionOpened, point: Point) -> _Parameters:
    node, position = point.node, point.position
    former, opened_at, auth_hash = change.former_offset, change.opened_at, change.auth_hash
    session = change.namespace, change.sid, change.pid_hash
    return (*session, node, position, former, position, opened_at, auth_hash, node)


def _bound(change: SessionBound, point: Point) -> _Parameters:
    return change.identity, change.namespace, change.sid


def _token_accepted(change: TokenAccepted, point: Point) -> _Parameters:
    rooms = json.dumps(change.rooms, ensure_ascii=False)
    return change.expires_at, rooms, change.namespace, change.sid


def _revoked(change: IdentityRevoked, point: Point) -> _Parameters:
    return (change.identity,)


def _saved(change: DataSaved, point: Point) -> _Parameters:
    return change.data, change.namespace, change.sid


def _joined(change: RoomJoined, point: Point) -> _Parameters:
    return change.room, point.position, change.namespace, change.sid, change.room


def _left(change: RoomLeft, point: Point) -> _Parameters:
    through = point.position if change.through is None else change.through
    return through, change.namespace, change.sid, change.room


def _closed(change: RoomClosed, point: Point) -> _Parameters:
    return point.position, change.namespace, change.room


_WRITES: Final[dict[type[SessionChange], tuple[tuple[str, ...], Callable[[Any, Point], _Parameters]]]] = {
    SessionOpened: ((_OPEN,), _opened),
    SessionBound: ((_BIND,), _bound),
    TokenAccepted: ((_ACCEPT,), _token_accepted),
    IdentityRevoked: ((_REVOKE_MEMBERSHIPS, _REVOKE), _revoked),
    DataSaved: ((_SAVE,), _saved),
    RoomJoined: ((_JOIN,), _joined),
    RoomLeft: ((_LEAVE,), _left),
    RoomClosed: ((_CLOSE,), _closed),
}
"""The statements by type of change, and the function that makes the parameters."""
