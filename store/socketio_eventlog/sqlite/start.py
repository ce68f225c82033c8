"""What happens once, when a server starts: its boot is written down, and what was there is read."""

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
_BEGIN_BOOT: Final = """
INSERT INTO boots (boot, began_after, started_at, alive_at, service_time) VALUES (?, ?, ?, ?, ?)
"""
# All that is older than the one that wrote the oldest event and the ones in which sessions began. What a
# client brings along from before its session began is kept with the session, as former_offset.
_PRUNE_BOOTS: Final = """
DELETE FROM boots
WHERE boots.number <= (SELECT max(number) FROM boots) - ?
  AND boots.number < coalesce(
    (SELECT min(b.number) FROM sessions JOIN boots AS b ON b.boot = start_boot), boots.number + 1)
  AND boots.number < coalesce(
    (SELECT max(b.number) FROM boots AS b WHERE b.began_after < (SELECT min(offset) FROM events)),
    boots.number + 1)
"""
_BOOTS: Final = "SELECT boot, began_after FROM boots ORDER BY number"

EPOCHS_KEPT = 1000
"""The newest starts are kept in any case, for people who look, and for clients that make up offsets."""


@dataclass(frozen=True, slots=True)
class Start:
    """What the database held when this boot was written into it."""

    epochs: Epochs
    head: int
    """The number of the last event."""
    pruned_through: int
    uptime: float
    """Seconds that servers had run on this database."""
    index: Index
    writer: Writer


def begin(
    connection: sqlite3.Connection, path: Path, epoch: str, now: float, index_memory_bytes: int
) -> Start:
    """Write this boot down and read what is there, in one transaction; a job of the writer's thread.

    The transaction must be durable whatever the configuration says: the row tells offsets of this boot
    that a power cut took from those that it did not.
    """
    connection.execute("BEGIN IMMEDIATE")
    head, pruned_through, uptime = connection.execute(_HEAD).fetchone()
    connection.execute(_BEGIN_BOOT, (epoch, head, now, now, uptime))
    connection.execute(_PRUNE_BOOTS, (EPOCHS_KEPT,))
    epochs = Epochs(connection.execute(_BOOTS))
    index = segments.load(connection, pruned_through, index_memory_bytes)
    connection.commit()
    return Start(epochs, head, pruned_through, uptime, index, Writer(path, epoch, head))
