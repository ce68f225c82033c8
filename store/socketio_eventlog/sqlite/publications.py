"""The rows of ``publications``: the idempotency keys of publishers, and the offsets of the events.

All functions are jobs of a database thread; ``write`` and ``prune`` run in the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from socketio_eventlog.changes import Published
from socketio_eventlog.errors import ConditionFailed
from socketio_eventlog.events import Offset, Publication
from socketio_eventlog.sqlite.point import Point

_INSERT: Final = """
INSERT INTO publications (publisher, key, digest, boot, last_offset, events, published_at)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_FIND: Final = "SELECT digest, boot, last_offset, events FROM publications WHERE publisher = ? AND key = ?"
_PRUNE: Final = """
DELETE FROM publications
WHERE rowid IN (SELECT rowid FROM publications WHERE published_at < ? ORDER BY published_at LIMIT ?)
"""


def write(connection: sqlite3.Connection, published: Sequence[Published], point: Point) -> None:
    """Write the keys; the events of each end at the point. Raises ConditionFailed for a stored key."""
    rows = [(p.publisher, p.key, p.digest, *point.offset, p.events, point.uptime) for p in published]
    try:
        connection.executemany(_INSERT, rows)
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
            raise
        raise ConditionFailed("Events with this idempotency key were published already.") from error


def find(connection: sqlite3.Connection, publisher: str, key: str) -> Publication | None:
    """Return the publication under a key; None for a new key."""
    row = connection.execute(_FIND, (publisher, key)).fetchone()
    if row is None:
        return None
    digest, epoch, last, events = row
    return Publication(digest, Offset(epoch, last), events)


def prune(connection: sqlite3.Connection, published_before: float, limit: int) -> int:
    """Delete the oldest keys from before an uptime in seconds; return the number of deleted keys."""
    return connection.execute(_PRUNE, (published_before, limit)).rowcount
