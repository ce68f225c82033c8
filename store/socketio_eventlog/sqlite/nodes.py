"""The rows of ``boots`` and ``positions``: the node's signs of life, and positions at earlier uptimes.

Jobs of a database thread, in the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from socketio_eventlog.changes import Heartbeat
from socketio_eventlog.sqlite.point import Point

POSITIONS_KEPT: Final = 128
"""The most noted positions; beyond, the oldest is deleted for a new position."""

_HEARTBEAT: Final = """
UPDATE boots SET alive_at = ?, service_time = ?, applied = ?, floor = ? WHERE boot = ?
"""
_NOTE_POSITION: Final = "INSERT INTO positions (uptime, position) VALUES (?, ?)"
_DELETE_POSITIONS: Final = "DELETE FROM positions WHERE number <= (SELECT max(number) FROM positions) - ?"
_POSITIONS: Final = "SELECT uptime, position FROM positions ORDER BY number"


def write_heartbeat(
    connection: sqlite3.Connection, heartbeat: Heartbeat, point: Point, alive_at: float
) -> None:
    """Record a heartbeat of the node; ``alive_at`` is a wall-clock time."""
    values = (alive_at, point.uptime, heartbeat.applied, heartbeat.floor, point.node)
    connection.execute(_HEARTBEAT, values)
    if heartbeat.notes_position:
        connection.execute(_NOTE_POSITION, (point.uptime, point.position))
        connection.execute(_DELETE_POSITIONS, (POSITIONS_KEPT,))


def positions(connection: sqlite3.Connection) -> tuple[tuple[float, int], ...]:
    """Return the noted positions, ascending: uptime and position."""
    return tuple(connection.execute(_POSITIONS))
