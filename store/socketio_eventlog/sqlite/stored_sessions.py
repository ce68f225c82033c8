"""The load of all sessions and memberships. A job of a database thread."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from typing import Final

from socketio_eventlog.session_rows import stored_sessions
from socketio_eventlog.snapshot import Membership, StoredSession

_LOAD: Final = """
SELECT namespace, sid, pid_hash, start_boot, start_offset, former_offset, identity, data, away_since,
       confirmed, auth_hash, left_by_client, claim, 0 AS claimed_in, node, token_expires_at, token_rooms
FROM sessions ORDER BY number
"""
_LOAD_MEMBERSHIPS: Final = """
SELECT namespace, sid, room, joined_after, left_after FROM rooms JOIN sessions USING (namespace, sid)
WHERE left_after IS NULL OR left_after > max(confirmed, ?) ORDER BY joined_after
"""


def load(connection: sqlite3.Connection, pruned_through: int) -> list[StoredSession]:
    """Load all sessions, in the order of opening.

    Memberships with an end at or before ``pruned_through`` are left out, since the events are deleted, and
    with an end at or before the session's confirmed sequence, since the client has received the events.
    """
    memberships: defaultdict[tuple[str, str], list[Membership]] = defaultdict(list)
    for namespace, sid, room, joined_after, left_after in connection.execute(
        _LOAD_MEMBERSHIPS, (pruned_through,)
    ):
        memberships[namespace, sid].append(Membership(room, joined_after, left_after))
    return stored_sessions(connection.execute(_LOAD), memberships)
