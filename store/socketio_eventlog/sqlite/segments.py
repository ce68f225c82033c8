"""The segments of the index on disk, written once when complete. Jobs of a database thread."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final

from socketio_eventlog.index import Index
from socketio_eventlog.segment import SEGMENT_LENGTH, Audience, Segment, SegmentChunk
from socketio_eventlog.segment_rows import add_list, audience_text, lists_of, sizes_from_bytes, to_bytes
from socketio_eventlog.sqlite import events

# OR IGNORE: every commit receives the chunk until a commit has succeeded, and again after a crash.
_WRITE_SIZES: Final = "INSERT OR IGNORE INTO index_generations (generation, sizes) VALUES (?, ?)"
_WRITE_LIST: Final = """
INSERT OR IGNORE INTO index_lists (generation, audience, offsets, size_bytes) VALUES (?, ?, ?, ?)
"""
_DELETE_SIZES: Final = "DELETE FROM index_generations WHERE generation < ?"
_COUNT_LISTS: Final = "SELECT count(*) FROM index_lists WHERE generation < ?"
_LAST_OF_STEP: Final = """
SELECT generation, audience FROM index_lists WHERE generation < ?
ORDER BY generation, audience LIMIT 1 OFFSET ?
"""
_DELETE_STEP: Final = "DELETE FROM index_lists WHERE (generation, audience) <= (?, ?)"
_DELETE_LISTS: Final = "DELETE FROM index_lists WHERE generation < ?"
# Rows that another program has moved or lengthened: later events would be missing in the index.
_DELETE_BEYOND: Final = "DELETE FROM index_generations WHERE generation + length(sizes) / 4 > ? + 1"
_DELETE_UNFINISHED: Final = "DELETE FROM index_lists WHERE generation >= ?"
_KEYS: Final = "SELECT generation FROM index_generations WHERE generation >= ? ORDER BY generation"
_FIRST_KEPT: Final = """
SELECT min(generation) FROM index_generations WHERE generation > ? AND generation + length(sizes) / 4 > ?
"""
_END: Final = """
SELECT generation + length(sizes) / 4 FROM index_generations ORDER BY generation DESC LIMIT 1
"""
_READ_SIZES: Final = "SELECT sizes FROM index_generations WHERE generation = ?"
_READ_ALL: Final = "SELECT audience, offsets, size_bytes FROM index_lists WHERE generation = ?"
_READ_SOME: Final = """
SELECT audience, offsets, size_bytes
FROM json_each(?) CROSS JOIN index_lists ON generation = ? AND audience = value
"""

_MIN_STEP_LISTS: Final = 1000
"""The least number of pruned lists that a step of the pruning deletes."""


def write(connection: sqlite3.Connection, chunk: SegmentChunk) -> None:
    """Write some lists of a complete segment; the last chunk adds the row which makes the segment valid."""
    segment = chunk.segment
    lists = [
        (segment.first, audience_text(audience), to_bytes(events_), events_.size_bytes)
        for audience, events_ in lists_of(chunk)
    ]
    connection.executemany(_WRITE_LIST, lists)
    if chunk.is_last:
        connection.execute(_WRITE_SIZES, (segment.first, to_bytes(segment.sizes)))


def delete(connection: sqlite3.Connection, pruned_through: int) -> None:
    """Delete the segments with a pruned last event, and some of the lists of such segments.

    The triggers cost a microsecond for each list, and a segment may have tens of thousands: all lists in one
    commit would delay the commit. With a quarter of the lists in each step, the rest stays bounded however
    many lists each pruning brings. The rows of the segments come first: the triggers note valid lists only.
    """
    first = _first_kept(connection, pruned_through)
    connection.execute(_DELETE_SIZES, (first,))
    (lists,) = connection.execute(_COUNT_LISTS, (first,)).fetchone()
    step = max(_MIN_STEP_LISTS, lists // 4)
    if lists <= step:
        connection.execute(_DELETE_LISTS, (first,))
    else:
        last = connection.execute(_LAST_OF_STEP, (first, step - 1)).fetchone()
        connection.execute(_DELETE_STEP, last)


def delete_beyond(connection: sqlite3.Connection, head: int) -> None:
    """Delete the segments that end after the last event of the log."""
    connection.execute(_DELETE_BEYOND, (head,))


def _first_kept(connection: sqlite3.Connection, pruned_through: int) -> int:
    """Return the first sequence of the oldest segment with an unpruned event."""
    # A segment that began before has ended: no segment is longer.
    begins_after = pruned_through + 1 - SEGMENT_LENGTH
    (first,) = connection.execute(_FIRST_KEPT, (begins_after, pruned_through + 1)).fetchone()
    return max(begins_after + 1, first_unwritten(connection)) if first is None else int(first)


def read(connection: sqlite3.Connection, keys: Iterable[int], audiences: Iterable[Audience]) -> list[Segment]:
    """Read the audiences' lists in the segments with the keys; pruned segments are left out."""
    names = json.dumps([audience_text(audience) for audience in audiences], ensure_ascii=False)
    found = (_read(connection, key, _READ_SOME, (names, key)) for key in keys)
    return [segment for segment in found if segment is not None]


def read_all(connection: sqlite3.Connection) -> Iterator[Segment]:
    """Yield the segments on disk with all their lists, oldest first."""
    for (key,) in connection.execute(_KEYS, (0,)).fetchall():
        segment = _read(connection, key, _READ_ALL, (key,))
        if segment is not None:
            yield segment


def first_unwritten(connection: sqlite3.Connection) -> int:
    """Return the first sequence without a segment on disk."""
    row = connection.execute(_END).fetchone()
    return 0 if row is None else int(row[0])


def load(connection: sqlite3.Connection, pruned_through: int, memory_bytes: int) -> Index:
    """Return the index in its state at the last commit.

    Reads the newest segments from disk up to ``memory_bytes``, since most returning clients need the newest
    segments; of older segments only the keys are read. Scans only the events after the last complete segment.
    Lists of the next segment, left by a crash, are deleted: the new segment may end elsewhere.
    """
    index = Index(memory_bytes)
    unwritten = first_unwritten(connection)
    connection.execute(_DELETE_UNFINISHED, (unwritten,))
    keys = [key for (key,) in connection.execute(_KEYS, (_first_kept(connection, pruned_through),))]
    newest: list[Segment] = []
    memory_left: float = memory_bytes
    while keys and memory_left > 0:
        segment = _read(connection, keys[-1], _READ_ALL, (keys[-1],), memory_left)
        if segment is None or segment.memory_bytes > memory_left:
            break
        memory_left -= segment.memory_bytes
        newest.append(segment)
        keys.pop()
    for key in keys:
        index.add_stored_segment(key)
    for segment in reversed(newest):
        index.add_segment(segment, on_disk=True)
    for event in events.read_newest(connection, unwritten):
        index.add(*event)
    return index


def _read(
    connection: sqlite3.Connection,
    key: int,
    lists: str,
    parameters: tuple[object, ...],
    max_memory_bytes: float = math.inf,
) -> Segment | None:
    """Return a segment with some of the lists; incomplete beyond ``max_memory_bytes``."""
    row = connection.execute(_READ_SIZES, (key,)).fetchone()
    if row is None:
        return None
    segment = Segment(key, sizes_from_bytes(row[0]))
    for audience, content, size_bytes in connection.execute(lists, parameters):
        add_list(segment, audience, content, size_bytes)  # a row from before migration 0004 has no size
        if segment.memory_bytes > max_memory_bytes:
            break
    return segment
