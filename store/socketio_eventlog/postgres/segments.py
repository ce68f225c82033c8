"""The segments of the index in the tables, written once when complete."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from socketio_eventlog.event_rows import rooms_from_json
from socketio_eventlog.events import Room
from socketio_eventlog.index import Index
from socketio_eventlog.postgres.connection import Connection
from socketio_eventlog.segment import Audience, Segment, SegmentChunk
from socketio_eventlog.segment_rows import add_list, audience_text, lists_of, sizes_from_bytes, to_bytes

# Every append receives the chunk until an append has succeeded, and again after a crash. Several nodes write
# the same segments; nodes with another division of the log write segments of other lengths.
_WRITE_LISTS: Final = """
INSERT INTO eventstore.index_lists (segment, length, audience, offsets, size_bytes)
SELECT %s, %s, audience, offsets, size_bytes
FROM unnest(%s::text[], %s::bytea[], %s::bigint[]) AS l(audience, offsets, size_bytes)
ON CONFLICT DO NOTHING
"""
_WRITE_SIZES: Final = """
INSERT INTO eventstore.index_segments (segment, length, sizes) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING
"""
_BEGIN: Final = "SELECT eventstore.index_of_node(%s)"
_IS_STORED: Final = "SELECT EXISTS (SELECT FROM eventstore.index_segments WHERE segment = %s AND length = %s)"
_KEYS: Final = "SELECT segment, length FROM eventstore.index_segments ORDER BY segment, length DESC"
_READ_SIZES: Final = "SELECT sizes FROM eventstore.index_segments WHERE segment = %s AND length = %s"
_READ_ALL: Final = """
SELECT audience, offsets, size_bytes FROM eventstore.index_lists WHERE segment = %s AND length = %s
"""
_READ_SOME: Final = """
SELECT segment, audience, offsets, size_bytes FROM eventstore.index_lists
JOIN unnest(%s::bigint[], %s::integer[]) AS k(segment, length) USING (segment, length)
WHERE audience = ANY(%s)
"""
_READ_SOME_SIZES: Final = """
SELECT segment, sizes FROM eventstore.index_segments
JOIN unnest(%s::bigint[], %s::integer[]) AS k(segment, length) USING (segment, length) ORDER BY segment
"""
# Events changed through SQL may not have the original audience.
_READ_NEWEST: Final = """
SELECT "offset", namespace, rooms, size_bytes FROM eventstore.events AS e
WHERE "offset" >= %s
  AND NOT EXISTS (SELECT FROM eventstore.altered_ranges WHERE e."offset" BETWEEN first AND last)
ORDER BY "offset"
"""


async def write(connection: Connection, node: str, chunks: Sequence[SegmentChunk]) -> list[SegmentChunk]:
    """Write some lists of complete segments; the last chunk adds the row that makes a segment valid.

    Return the stored lengths: a whole segment if another node has written the segment, nothing while another
    node writes. Raises NodeFenced.
    """
    written: list[SegmentChunk] = []
    async with connection.transaction():
        row = await (await connection.execute(_BEGIN, (node,))).fetchone()
        if row is None or not row[0]:
            return written
        for chunk in chunks:
            segment = chunk.segment
            key = segment.first, len(segment.sizes)
            row = await (await connection.execute(_IS_STORED, key)).fetchone()
            if row is not None and row[0]:
                written.append(SegmentChunk(segment, 0, len(segment.lists)))
                continue
            lists = lists_of(chunk)
            columns = (
                [audience_text(audience) for audience, _ in lists],
                [to_bytes(events) for _, events in lists],
                [events.size_bytes for _, events in lists],
            )
            await connection.execute(_WRITE_LISTS, (*key, *columns))
            if chunk.is_last:
                await connection.execute(_WRITE_SIZES, (*key, to_bytes(segment.sizes)))
            written.append(chunk)
    return written


async def end_of_stored(connection: Connection) -> int:
    """Return the sequence after the stored segments for a start; 0 without any."""
    stored = await _stored(connection)
    return sum(stored[-1]) if stored else 0


async def _stored(connection: Connection) -> list[tuple[int, int]]:
    """Return first sequence and length of the stored segments, if all nodes divide the log alike."""
    found: list[tuple[int, int]] = []
    rows: Any = await (await connection.execute(_KEYS)).fetchall()
    for first, length in rows:
        if found and first == found[-1][0]:
            continue  # the longest segment of the same beginning came first
        if found and first < sum(found[-1]):
            # Some of the events from there on are in neither segment, and are read again.
            while found and sum(found[-1]) > first:
                found.pop()
            break
        found.append((first, length))
    return found


async def load(
    connection: Connection, pruned_through: int, memory_bytes: int
) -> tuple[Index, Sequence[tuple[int, int]]]:
    """Return the index at the last append, and the first sequences and lengths of the segments.

    Reads the newest segments up to ``memory_bytes``, and only the keys of older segments. Scans the events
    after the last complete segment.
    """
    index = Index(memory_bytes)
    stored = await _stored(connection)
    unwritten = sum(stored[-1]) if stored else 0
    keys = [key for key in stored if sum(key) > pruned_through + 1]
    lengths = tuple(keys)
    newest: list[Segment] = []
    memory_left: float = memory_bytes
    while keys and memory_left > 0:
        segment = await _read_all(connection, keys[-1], memory_left)
        if segment is None or segment.memory_bytes > memory_left:
            break
        memory_left -= segment.memory_bytes
        newest.append(segment)
        keys.pop()
    for first, _ in keys:
        index.add_stored_segment(first)
    for segment in reversed(newest):
        index.add_segment(segment, on_disk=True)
    async for event in _newest_events(connection, unwritten):
        index.add(*event)
    return index, lengths


async def _newest_events(
    connection: Connection, first: int
) -> AsyncIterator[tuple[int, str, tuple[Room, ...] | None, int]]:
    cursor: Any
    async with connection.cursor() as cursor:
        async for sequence, namespace, rooms, size_bytes in cursor.stream(_READ_NEWEST, (first,)):
            yield sequence, namespace, rooms_from_json(rooms), size_bytes


async def _read_all(
    connection: Connection, key: tuple[int, int], max_memory_bytes: float = math.inf
) -> Segment | None:
    """Return a segment, incomplete beyond ``max_memory_bytes``."""
    cursor: Any
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(_READ_SIZES, key)
        row = await cursor.fetchone()
        if row is None:
            return None
        segment = Segment(key[0], sizes_from_bytes(row[0]))
        await cursor.execute(_READ_ALL, key)
        for audience, content, size_bytes in await cursor.fetchall():
            add_list(segment, audience, content, size_bytes)
            if segment.memory_bytes > max_memory_bytes:
                break
    return segment


async def read(
    connection: Connection, keys: Sequence[tuple[int, int]], audiences: AbstractSet[Audience]
) -> list[Segment]:
    """Read the audiences' lists in segments, by first sequence and length; pruned segments are left out."""
    names = [audience_text(audience) for audience in audiences]
    columns = [first for first, _ in keys], [length for _, length in keys]
    cursor: Any
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(_READ_SOME_SIZES, columns)
        segments = {key: Segment(key, sizes_from_bytes(sizes)) for key, sizes in await cursor.fetchall()}
        await cursor.execute(_READ_SOME, (*columns, names))
        for key, audience, content, size_bytes in await cursor.fetchall():
            if key in segments:
                add_list(segments[key], audience, content, size_bytes)
    return list(segments.values())
