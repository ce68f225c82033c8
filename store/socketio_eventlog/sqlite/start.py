"""The start of a node on a database: one transaction records the epoch and reads the stored state."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from socketio_eventlog.index import Index
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.sqlite import segments
from socketio_eventlog.sqlite.writer import Writer

_HEAD: Final = """
SELECT max((SELECT coalesce(max(offset), 0) FROM events),
           (SELECT pruned_through FROM log_state),
           (SELECT coalesce(max(began_after), 0) FROM boots)),
       (SELECT pruned_through FROM log_state),
       (SELECT coalesce(max(service_time), 0.0) FROM boots)
"""
_INSERT_EPOCH: Final = """
INSERT INTO boots (boot, began_after, started_at, alive_at, service_time) VALUES (?, ?, ?, ?, ?)
"""
# Deletes the epochs before the epoch of the oldest event and before the epochs in which sessions began. The
# offset that a client keeps from before its session stays with the session, as former_offset.
_PRUNE_EPOCHS: Final = """
DELETE FROM boots
WHERE boots.number <= (SELECT max(number) FROM boots) - ?
  AND boots.number < coalesce(
    (SELECT min(b.number) FROM sessions JOIN boots AS b ON b.boot = start_boot), boots.number + 1)
  AND boots.number < coalesce(
    (SELECT max(b.number) FROM boots AS b WHERE b.began_after < (SELECT min(offset) FROM events)),
    boots.number + 1)
"""
_EPOCHS: Final = "SELECT boot, began_after FROM boots ORDER BY number"

EPOCHS_KEPT = 1000
"""The newest epochs stay in any case: for people, and for clients with invented offsets."""


@dataclass(frozen=True, slots=True)
class InitialState:
    """The state of the database when the epoch of this node was recorded."""

    epochs: Epochs
    head: int
    """The sequence of the last event."""
    pruned_through: int
    """The sequence of the last deleted event."""
    uptime: float
    """The uptime of all earlier nodes on this database, in seconds."""
    index: Index
    writer: Writer


def begin_epoch(
    connection: sqlite3.Connection, path: Path, epoch: str, now: float, index_memory_bytes: int
) -> InitialState:
    """Record the epoch and read the stored state, in one transaction; a job of the writer's thread.

    ``now`` is a wall-clock time. The transaction must be durable whatever the configuration says: the
    row tells offsets of this epoch that a power cut took from offsets that a power cut left.
    """
    connection.execute("BEGIN IMMEDIATE")
    head, pruned_through, uptime = connection.execute(_HEAD).fetchone()
    connection.execute(_INSERT_EPOCH, (epoch, head, now, now, uptime))
    connection.execute(_PRUNE_EPOCHS, (EPOCHS_KEPT,))
    epochs = Epochs(connection.execute(_EPOCHS))
    index = segments.load(connection, pruned_through, index_memory_bytes)
    connection.commit()
    return InitialState(epochs, head, pruned_through, uptime, index, Writer(path, epoch, head))
