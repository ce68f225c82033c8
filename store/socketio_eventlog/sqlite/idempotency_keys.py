"""The rows of ``answers``: the idempotency keys of clients' events, and the acknowledgements.

All functions are jobs of a database thread; ``write`` and ``prune`` run in the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from socketio_eventlog.changes import EventHandled
from socketio_eventlog.errors import ConditionFailed

_INSERT: Final = """
INSERT INTO answers (namespace, event, identity, key, answer, answered_at) VALUES (?, ?, ?, ?, ?, ?)
"""
_FIND: Final = "SELECT answer FROM answers WHERE namespace = ? AND event = ? AND identity = ? AND key = ?"
_PRUNE: Final = """
DELETE FROM answers
WHERE rowid IN (SELECT rowid FROM answers WHERE answered_at < ? ORDER BY answered_at LIMIT ?)
"""


def write(connection: sqlite3.Connection, handled: Sequence[EventHandled], uptime: float) -> None:
    """Write the keys and acknowledgements. Raises ConditionFailed for a stored key."""
    rows = [(a.namespace, a.name, a.identity, a.key, a.acknowledgement, uptime) for a in handled]
    try:
        connection.executemany(_INSERT, rows)
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
            raise
        raise ConditionFailed("A client's event with this idempotency key was handled already.") from error


def find(connection: sqlite3.Connection, namespace: str, name: str, identity: str, key: str) -> str | None:
    """Return the acknowledgement of a key, a JSON array; None for a new key."""
    row = connection.execute(_FIND, (namespace, name, identity, key)).fetchone()
    return None if row is None else str(row[0])


def prune(connection: sqlite3.Connection, handled_before: float, limit: int) -> int:
    """Delete the oldest keys from before an uptime in seconds; return the number of deleted keys."""
    return connection.execute(_PRUNE, (handled_before, limit)).rowcount
