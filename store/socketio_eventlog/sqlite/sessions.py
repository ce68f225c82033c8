"""The rows of ``sessions`` and ``rooms``: a statement for each kind of change, and the load at the start.

Jobs of a database thread, in the caller's transaction. A change of a session without a row does nothing:
the end of the session may have been written before.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, TypeAlias

from socketio_eventlog.records import (
    DataSaved,
    IdentityRevoked,
    Membership,
    Offset,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionAway,
    SessionBound,
    SessionEnded,
    SessionOpened,
    SessionResumed,
    StoredSession,
)

SessionChange: TypeAlias = (
    SessionOpened
    | SessionResumed
    | SessionAway
    | SessionEnded
    | SessionBound
    | IdentityRevoked
    | DataSaved
    | RoomJoined
    | RoomLeft
    | RoomClosed
)

_OPEN: Final = """
INSERT INTO sessions (namespace, sid, pid_hash, start_boot, start_offset, former_offset,
                      confirmed, opened_at, auth_hash, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '{}')
"""
_RESUME: Final = """
UPDATE sessions SET resumed_at = ?, disconnected_at = NULL, away_since = NULL, left_by_client = 0
WHERE namespace = ? AND sid = ?
"""
_MARK_AWAY: Final = """
UPDATE sessions SET disconnected_at = ?, away_since = ?, confirmed = max(confirmed, ?),
                    left_by_client = ?
WHERE namespace = ? AND sid = ?
"""
_END: Final = "DELETE FROM sessions WHERE namespace = ? AND sid = ?"
_END_MEMBERSHIPS: Final = "DELETE FROM rooms WHERE namespace = ? AND sid = ?"
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
    SessionResumed: (_RESUME,),
    SessionAway: (_MARK_AWAY,),
    SessionEnded: (_END, _END_MEMBERSHIPS),
    SessionBound: (_BIND,),
    IdentityRevoked: (_REVOKE_MEMBERSHIPS, _REVOKE),
    DataSaved: (_SAVE,),
    RoomJoined: (_JOIN,),
    RoomLeft: (_LEAVE,),
    RoomClosed: (_CLOSE,),
}

_LOAD: Final = """
SELECT namespace, sid, pid_hash, start_boot, start_offset, former_offset, identity, data, away_since,
       confirmed, auth_hash, left_by_client
FROM sessions ORDER BY number
"""
_LOAD_MEMBERSHIPS: Final = """
SELECT namespace, sid, room, joined_after, left_after FROM rooms
WHERE left_after IS NULL OR left_after > ? ORDER BY joined_after
"""


def write(connection: sqlite3.Connection, changes: Sequence[SessionChange], offset: Offset) -> None:
    """Write changes of one kind, all at the same offset."""
    rows = [_parameters(change, offset) for change in changes]
    for statement in _STATEMENTS[type(changes[0])]:
        connection.executemany(statement, rows)


def _parameters(change: SessionChange, offset: Offset) -> tuple[object, ...]:
    if isinstance(change, RoomClosed | IdentityRevoked):
        return _parameters_for_many(change, offset)
    session = (change.namespace, change.sid)
    match change:
        case SessionOpened():
            epoch, sequence = offset
            return (
                *session,
                change.pid_hash,
                epoch,
                sequence,
                change.former_offset,
                sequence,
                change.opened_at,
                change.auth_hash,
            )
        case SessionResumed():
            return (change.resumed_at, *session)
        case SessionAway():
            return (
                change.disconnected_at,
                change.away_since,
                change.confirmed,
                change.left_by_client,
                *session,
            )
        case SessionEnded():
            return session
        case SessionBound():
            return (change.identity, *session)
        case DataSaved():
            return (change.data, *session)
        case RoomJoined():
            return (change.room, offset.sequence, *session, change.room)
        case RoomLeft():
            return (offset.sequence, *session, change.room)


def _parameters_for_many(change: RoomClosed | IdentityRevoked, offset: Offset) -> tuple[object, ...]:
    """Return the parameters of a change that concerns several sessions."""
    if isinstance(change, RoomClosed):
        return offset.sequence, change.namespace, change.room
    return (change.identity,)


def load(connection: sqlite3.Connection, pruned_through: int) -> list[StoredSession]:
    """Load all sessions, in the order of their opening.

    Memberships with an end at or before ``pruned_through`` are left out: their events are deleted.
    """
    memberships: defaultdict[tuple[str, str], list[Membership]] = defaultdict(list)
    for namespace, sid, room, joined_after, left_after in connection.execute(
        _LOAD_MEMBERSHIPS, (pruned_through,)
    ):
        memberships[namespace, sid].append(Membership(room, joined_after, left_after))
    rows = connection.execute(_LOAD)
    return [
        StoredSession(
            namespace=namespace,
            sid=sid,
            pid_hash=pid_hash,
            start=Offset(epoch, sequence),
            former_offset=former_offset,
            identity=identity,
            data=data,
            away_since=away_since,
            confirmed=confirmed,
            memberships=tuple(memberships.get((namespace, sid), ())),
            auth_hash=auth_hash,
            left_by_client=bool(left_by_client),
        )
        for (
            namespace,
            sid,
            pid_hash,
            epoch,
            sequence,
            former_offset,
            identity,
            data,
            away_since,
            confirmed,
            auth_hash,
            left_by_client,
        ) in rows
    ]
