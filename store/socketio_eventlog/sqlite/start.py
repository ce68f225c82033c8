"""The start of a node on a database: one transaction records the epoch and reads the stored state.

The lock of the file guarantees the end of every other node, so the same transaction marks the sessions of
other nodes as away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from socketio_eventlog.altered import AlteredRanges
from socketio_eventlog.index import Index
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.sqlite import altered, segments
from socketio_eventlog.sqlite.database import StoreConnection
from socketio_eventlog.sqlite.lock import Progress
from socketio_eventlog.sqlite.session_history import NoHistory
from socketio_eventlog.sqlite.space import Space
from socketio_eventlog.sqlite.writer import Writer, WriterStart
from socketio_eventlog.uptime import UptimeClock

logger = logging.getLogger(__name__)

_HEAD: Final = """
SELECT max((SELECT coalesce(max(offset), 0) FROM events),
           (SELECT pruned_through FROM log_state),
           (SELECT coalesce(max(began_after), 0) FROM boots),
           (SELECT coalesce(max(last), 0) FROM altered_ranges)),
       pruned_through, head, changes, (SELECT boot FROM boots ORDER BY number DESC LIMIT 1)
FROM log_state
"""
# Every row with an uptime: an uptime must not come back, and heartbeats are less frequent than batches.
_UPTIME: Final = """
SELECT max(coalesce((SELECT max(service_time) FROM boots), 0.0),
           coalesce((SELECT max(away_since) FROM sessions), 0.0),
           coalesce((SELECT max(answered_at) FROM answers), 0.0),
           coalesce((SELECT max(published_at) FROM publications), 0.0),
           coalesce((SELECT max(uptime) FROM positions), 0.0))
"""
# Before the row of the new node: the newest row is the last sign of life of the sessions' former node.
_PUT_AWAY: Final = """
UPDATE sessions SET node = NULL, away_since = coalesce(away_since, ?),
  disconnected_at = coalesce(disconnected_at, (SELECT alive_at FROM boots ORDER BY number DESC LIMIT 1), ?)
WHERE node IS NOT NULL OR away_since IS NULL
"""
_INSERT_EPOCH: Final = """
INSERT INTO boots (boot, began_after, started_at, alive_at, service_time, max_disconnection)
VALUES (?, ?, ?, ?, ?, ?)
"""
# Deletes the epochs before the epoch of the oldest event and before the epochs in which sessions began. A
# client's offset from before the session stays with the session, as former_offset.
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

_LOST: Final = (
    "%s has lost the events %s to %s: rows were deleted, or a part of a file. A client that missed one of "
    "them gets a new session."
)

EPOCHS_KEPT = 1000
"""The newest epochs stay in any case: for people, and for clients with invented offsets."""


@dataclass(frozen=True, slots=True)
class InitialState:
    """The state of the database at the record of the node's epoch."""

    epochs: Epochs
    head: int
    """The sequence of the last event."""
    pruned_through: int
    """The sequence of the last deleted event."""
    uptime: float
    """The uptime at the last batch of the earlier nodes on the database, in seconds."""
    index: Index
    altered: AlteredRanges
    writer: Writer


def begin_epoch(
    connection: StoreConnection,
    path: Path,
    epoch: str,
    wall_clock: Callable[[], float],
    monotonic: Callable[[], float],
    index_memory_bytes: int,
    space: Space,
    history: NoHistory,
    max_disconnection_seconds: float | None,
) -> InitialState:
    """Record the epoch and read the stored state, in one transaction; a job of the writer's thread.

    ``max_disconnection_seconds``: how long clients may be away, for the views; None if unknown.

    The transaction must be durable under any configuration: after a power cut, the row distinguishes the lost
    offsets of the epoch from the remaining offsets.
    """
    connection.execute("BEGIN IMMEDIATE")
    now = wall_clock()
    head, pruned_through, noted_head, changes, newest_epoch = connection.execute(_HEAD).fetchone()
    former = None if connection.lock is None else connection.lock.found_progress
    if former is None or former.epoch != newest_epoch:
        former = Progress(newest_epoch, noted_head, changes)
    segments.delete_beyond(connection, max(head, former.head))
    lost = list(_find_lost(connection, pruned_through, Progress(newest_epoch, head, changes), former))
    altered.note_lost(connection, lost)
    head = max([head, *(last for _, last in lost)])
    (uptime,) = connection.execute(_UPTIME).fetchone()
    history.begin(connection, now, uptime, head)
    connection.execute(_PUT_AWAY, (uptime, now))
    connection.execute(_INSERT_EPOCH, (epoch, head, now, now, uptime, max_disconnection_seconds))
    connection.execute(_PRUNE_EPOCHS, (EPOCHS_KEPT,))
    epochs = Epochs(connection.execute(_EPOCHS))
    # The changed rows may not have the original audience of the events.
    altered.lose_audience(connection, segments.first_unwritten(connection))
    ranges = AlteredRanges(altered.since(connection, 0))
    index = segments.load(connection, pruned_through, index_memory_bytes)
    connection.commit()
    if connection.lock is not None:
        connection.lock.found_progress = None  # the database has the progress now
    for first, last in lost:
        logger.warning(_LOST, path, first, last)
    start = WriterStart(head, changes, altered.newest(connection), connection.lock)
    writer = Writer(path, epoch, start, UptimeClock(uptime, monotonic), wall_clock, space, history)
    return InitialState(epochs, head, pruned_through, uptime, index, ranges, writer)


def _find_lost(
    connection: StoreConnection, pruned_through: int, present: Progress, former: Progress
) -> Iterator[tuple[int, int]]:
    """Yield the ranges of the log with lost events, except events in the index.

    A lost event in a segment on disk is noticed when a client needs the event: a count of all events would
    delay the start. ``present``: the progress in the database; ``former``: the progress of the last server.
    """
    after = max(pruned_through, segments.first_unwritten(connection) - 1)
    yield from altered.holes(connection, after, present.head)
    end = former.head
    if former.changes > present.changes:
        # A join may be lost: no earlier session is recovered, not even the session of a client with all
        # events.
        end = max(end, present.head) + 1
    if end > present.head:
        yield present.head + 1, end
