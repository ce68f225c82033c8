"""The index on disk: generations written once when complete, read back by list. Jobs of a database thread."""

from __future__ import annotations

import json
import sqlite3
import sys
from array import array
from collections.abc import Iterable
from typing import Final

from socketio_eventlog.index import SEGMENT_LENGTH, Audience, Index, Segment, SegmentChunk
from socketio_eventlog.sqlite import events

# OR IGNORE: a portion is offered to every commit until one has succeeded, and again after a crash.
_WRITE_SIZES: Final = "INSERT OR IGNORE INTO index_generations (generation, sizes) VALUES (?, ?)"
_WRITE_LIST: Final = "INSERT OR IGNORE INTO index_lists (generation, audience, offsets) VALUES (?, ?, ?)"
_DELETE: Final = (
    "DELETE FROM index_lists WHERE generation < ?",
    "DELETE FROM index_generations WHERE generation < ?",
)
_KEYS: Final = "SELECT generation FROM index_generations WHERE generation >= ? ORDER BY generation"
_READ_SIZES: Final = "SELECT sizes FROM index_generations WHERE generation = ?"
_READ_ALL: Final = "SELECT audience, offsets FROM index_lists WHERE generation = ?"
_READ_SOME: Final = """
SELECT audience, offsets FROM json_each(?) CROSS JOIN index_lists ON generation = ? AND audience = value
"""


def write(connection: sqlite3.Connection, chunk: SegmentChunk) -> None:
    """Write some lists of a complete generation; the row that makes it count comes with the last of them."""
    segment = chunk.segment
    if segment.order is None:
        # Near to the order of their texts, so that each portion touches pages of its own.
        segment.order = sorted(segment.audiences, key=lambda audience: (audience[0], str(audience[1])))
    lists = [
        (segment.key, _to_text(audience), _to_bytes(segment.audiences[audience]))
        for audience in segment.order[chunk.start : chunk.stop]
    ]
    connection.executemany(_WRITE_LIST, lists)
    if chunk.is_last:
        connection.execute(_WRITE_SIZES, (segment.key, _to_bytes(segment.sizes)))


def delete(connection: sqlite3.Connection, pruned_through: int) -> None:
    """Delete the generations whose last event is pruned."""
    for statement in _DELETE:
        connection.execute(statement, ((pruned_through + 1) // SEGMENT_LENGTH,))


def read(connection: sqlite3.Connection, keys: Iterable[int], audiences: Iterable[Audience]) -> list[Segment]:
    """The lists of these audiences in these generations; a generation that was pruned is left out."""
    names = json.dumps([_to_text(audience) for audience in audiences], ensure_ascii=False)
    found = (_read(connection, key, _READ_SOME, (names, key)) for key in keys)
    return [segment for segment in found if segment is not None]


def load(connection: sqlite3.Connection, pruned_through: int, memory_bytes: int) -> Index:
    """The index as it was when the log was last written.

    The newest generations are read from disk, as many as ``memory_bytes`` holds, since a client that
    comes back asks for those; of older ones only their existence is noted. Events are scanned only
    after the last complete generation, and before it nothing.
    """
    index = Index(memory_bytes)
    first = (pruned_through + 1) // SEGMENT_LENGTH
    keys = [key for (key,) in connection.execute(_KEYS, (first,))]
    newest: list[Segment] = []
    room_left: float = memory_bytes
    while keys and room_left > 0:
        segment = _read(connection, keys[-1], _READ_ALL, (keys[-1],))
        if segment is None or segment.memory_bytes > room_left:
            break
        room_left -= segment.memory_bytes
        newest.append(segment)
        keys.pop()
    for key in keys:
        index.know(key)
    for segment in reversed(newest):
        index.hold(segment, on_disk=True)
    unwritten = (newest[0].key if newest else keys[-1] if keys else first - 1) + 1
    for entry in events.read_tail(connection, unwritten * SEGMENT_LENGTH):
        index.add(*entry)
    return index


def _read(
    connection: sqlite3.Connection, key: int, lists: str, parameters: tuple[object, ...]
) -> Segment | None:
    row = connection.execute(_READ_SIZES, (key,)).fetchone()
    if row is None:
        return None
    segment = Segment(key)
    segment.sizes = _from_bytes("I", row[0])
    for audience, relative in connection.execute(lists, parameters):
        namespace, room = json.loads(audience)
        segment.put((namespace, room), _from_bytes("H", relative))
    return segment


def _to_text(audience: Audience) -> str:
    return json.dumps(audience, ensure_ascii=False, separators=(",", ":"))


def _to_bytes(sequences: array[int]) -> bytes:
    if sys.byteorder == "little":
        return sequences.tobytes()
    swapped = sequences[:]
    swapped.byteswap()
    return swapped.tobytes()


def _from_bytes(typecode: str, content: bytes) -> array[int]:
    sequences: array[int] = array(typecode, content)
    if sys.byteorder == "big":
        sequences.byteswap()
    return sequences
