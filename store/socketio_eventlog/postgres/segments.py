"""The segments of the index in their tables, written once when complete."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from socketio_eventlog.event_rows import rooms_from_json
from socketio_eventlog.index import Index
from socketio_eventlog.postgres.connection import Connection
from socketio_eventlog.records import Room
from socketio_eventlog.segment import Audience, Segment, SegmentChunk
from socketio_eventlog.segment_rows import add_list, audience_text, lists_of, sizes_from_bytes, to_bytes

# Every append receives the chunk until one has succeeded, and again after a crash.
_WRITE_LISTS: Final = """
INSERT INTO eventstore.index_lists (segment, audience, offsets, size_bytes)
SELECT %s, audience, offsets, size_bytes
FROM unnest(%s::text[], %s::bytea[], %s::bigint[]) AS l(audience, offsets, size_bytes)
ON CONFLICT DO NOTHING
"""
_WRITE_SIZES: Final = """
INSERT INTO eventstore.index_segments (segment, sizes) VALUES (%s, %s) ON CONFLICT DO NOTHING
"""
_ASYNCHRONOUS: Final = "SELECT set_config('synchronous_commit', 'off', true)"
_DELETE_UNFINISHED: Final = "DELETE FROM eventstore.index_lists WHERE segment >= %s"
_KEYS: Final = "SELECT segment, segment + length(sizes) / 4 FROM eventstore.index_segments ORDER BY segment"
_READ_SIZES: Final = "SELECT sizes FROM eventstore.index_segments WHERE segment = %s"
_READ_ALL: Final = "SELECT audience, offsets, size_bytes FROM eventstore.index_lists WHERE segment = %s"
_READ_SOME: Final = """
SELECT segment, audience, offsets, size_bytes FROM eventstore.index_lists
WHERE segment = ANY(%s) AND audience = ANY(%s)
"""
_READ_SOME_SIZES: Final = """
SELECT segment, sizes FROM eventstore.index_segments WHERE segment = ANY(%s) ORDER BY segment
"""
# Events that were changed through SQL do not tell any more to whom they were addressed.
_READ_NEWEST: Final = """
SELECT "offset", namespace, rooms, size_bytes FROM eventstore.events AS e
WHERE "offset" >= %s
  AND NOT EXISTS (SELECT FROM eventstore.altered_ranges WHERE e."offset" BETWEEN first AND last)
ORDER BY "offset"
"""


async def write(connection: Connection, chunks: Sequence[SegmentChunk]) -> None:
    """Write some lists of complete segments; the last chunk adds the row which makes a segment valid."""
    async with connection.transaction():
        await connection.execute(_ASYNCHRONOUS)
        for chunk in chunks:
            lists = lists_of(chunk)
            columns = (
                [audience_text(audience) for audience, _ in lists],
                [to_bytes(events) for _, events in lists],
                [events.size_bytes for _, events in lists],
            )
            await connection.execute(_WRITE_LISTS, (chunk.segment.first, *columns))
            if chunk.is_last:
                sizes = to_bytes(chunk.segment.sizes)
                await connection.execute(_WRITE_SIZES, (chunk.segment.first, sizes))


async def ends(connection: Connection) -> list[tuple[int, int]]:
    """Return the keys of the stored segments, ascending, each with its end."""
    rows: list[Any] = await (await connection.execute(_KEYS)).fetchall()
    return rows


async def load(connection: Connection, pruned_through: int, memory_bytes: int) -> Index:
    """Return the index in its state at the last append.

    Reads the newest segments up to ``memory_bytes``, and only the keys of older ones. Scans the events after
    the last complete segment.
    """
    index = Index(memory_bytes)
    stored = await ends(connection)
    unwritten = stored[-1][1] if stored else 0
    await connection.execute(_DELETE_UNFINISHED, (unwritten,))
    keys = [key for key, end in stored if end > pruned_through + 1]
    newest: list[Segment] = []
    memory_left: float = memory_bytes
    while keys and memory_left > 0:
        segment = await _read_all(connection, keys[-1], memory_left)
        if segment is None or segment.memory_bytes > memory_left:
            break
        memory_left -= segment.memory_bytes
        newest.append(segment)
        keys.pop()
    for key in keys:
        index.add_stored_segment(key)
    for segment in reversed(newest):
        index.add_segment(segment, on_disk=True)
    async for event in _newest_events(connection, unwritten):
        index.add(*event)
    return index


async def _newest_events(
    connection: Connection, first: int
) -> AsyncIterator[tuple[int, str, tuple[Room, ...] | None, int]]:
    cursor: Any
    async with connection.cursor() as cursor:
        async for sequence, namespace, rooms, size_bytes in cursor.stream(_READ_NEWEST, (first,)):
            yield sequence, namespace, rooms_from_json(rooms), size_bytes


async def _read_all(connection: Connection, key: int, max_memory_bytes: float = math.inf) -> Segment | None:
    """Return a segment; it is not complete if it exceeds ``max_memory_bytes``."""
    cursor: Any
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(_READ_SIZES, (key,))
        row = await cursor.fetchone()
        if row is None:
            return None
        segment = Segment(key, sizes_from_bytes(row[0]))
        await cursor.execute(_READ_ALL, (key,))
        for audience, content, size_bytes in await cursor.fetchall():
            add_list(segment, audience, content, size_bytes)
            if segment.memory_bytes > max_memory_bytes:
                break
    return segment


async def read(
    connection: Connection, keys: Iterable[int], audiences: AbstractSet[Audience]
) -> list[Segment]:
    """Read the audiences' lists in the segments with these keys; pruned segments are left out."""
    names = [audience_text(audience) for audience in audiences]
    cursor: Any
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(_READ_SOME_SIZES, (list(keys),))
        segments = {key: Segment(key, sizes_from_bytes(sizes)) for key, sizes in await cursor.fetchall()}
        await cursor.execute(_READ_SOME, (list(segments), names))
        for key, audience, content, size_bytes in await cursor.fetchall():
            add_list(segments[key], audience, content, size_bytes)
    return list(segments.values())
