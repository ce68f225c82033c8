"""The reads of ``events`` and ``attachments``.

The rows count only in the history that this node has seen: after the return of an older state, another event
may have the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from socketio_eventlog.errors import HistoryLost
from socketio_eventlog.event_rows import logged_events
from socketio_eventlog.events import Event, LoggedEvent
from socketio_eventlog.postgres.connection import Connection

_READ: Final = """
SELECT "offset", emitted_at, namespace, event, rooms, skip, attachments, payload
FROM (SELECT *, sum(size_bytes) OVER (ORDER BY "offset") - size_bytes AS before
      FROM eventstore.events WHERE "offset" = ANY(%s)) AS e
WHERE before <= coalesce(%s, before)
  AND EXISTS (SELECT FROM eventstore.batches WHERE batch = %s AND chain = %s)
ORDER BY "offset"
"""
_READ_RANGES: Final = """
SELECT "offset", emitted_at, namespace, event, rooms, skip, attachments, payload, before + size_bytes
FROM (SELECT e.*, (sum(size_bytes) OVER (ORDER BY "offset") - size_bytes)::bigint AS before
      FROM unnest(%s::bigint[], %s::bigint[]) AS r(first, last)
      JOIN eventstore.events AS e ON e."offset" BETWEEN r.first AND r.last) AS e
WHERE ("offset" <= %s OR before < %s)
  AND EXISTS (SELECT FROM eventstore.batches WHERE batch = %s AND chain = %s) ORDER BY "offset"
"""
_HAS_SEEN: Final = "SELECT EXISTS (SELECT FROM eventstore.batches WHERE batch = %s AND chain = %s)"
_READ_ATTACHMENTS: Final = """
SELECT "offset", content FROM eventstore.attachments WHERE "offset" = ANY(%s) ORDER BY "offset", num
"""
_READ_TIMES: Final = """
SELECT "offset", emitted_at FROM eventstore.events WHERE "offset" = ANY(%s)
  AND EXISTS (SELECT FROM eventstore.batches WHERE batch = %s AND chain = %s)
ORDER BY "offset"
"""
_READ_PAYLOADS: Final = """
SELECT "offset", payload, attachments FROM eventstore.events
WHERE "offset" BETWEEN %s AND %s ORDER BY "offset"
"""


class Seen(NamedTuple):
    """The last batch seen by a node, which identifies the history."""

    batch: int
    chain: bytes


async def emission_times(
    connection: Connection, sequences: Sequence[int], seen: Seen
) -> list[tuple[int, float]]:
    """Return the sequences, ascending, each with the time of the event."""
    cursor: Any = await connection.execute(_READ_TIMES, (list(set(sequences)), *seen))
    return [(sequence, emitted_at) for sequence, emitted_at in await cursor.fetchall()]


async def read(
    connection: Connection, sequences: Sequence[int], seen: Seen, limit_bytes: int | None = None
) -> list[LoggedEvent]:
    """Read the events with the sequences, ascending, up to the first event beyond the limit."""
    cursor = await connection.execute(_READ, (list(set(sequences)), limit_bytes, *seen))
    return await _with_attachments(connection, await cursor.fetchall())


async def read_ranges(
    connection: Connection, ranges: Sequence[tuple[int, int]], seen: Seen, limit_bytes: int
) -> tuple[dict[int, Event], int]:
    """Read the events in ranges of sequences, first and last included; absent events are left out.

    Return the events, and the end of the read: the last sequence, or the sequence of the event beyond the
    limit. The first range is read whole. Raises HistoryLost when the database lacks the batch ``seen``, which
    has the last of the events.
    """
    firsts, lasts = [first for first, _ in ranges], [last for _, last in ranges]
    cursor = await connection.execute(_READ_RANGES, (firsts, lasts, lasts[0], limit_bytes, *seen))
    rows: list[Any] = await cursor.fetchall()
    reached = max(rows[-1][0], lasts[0]) if rows and rows[-1][8] >= limit_bytes else lasts[-1]
    logged = await _with_attachments(connection, [row[:8] for row in rows])
    expected = sum(max(min(last, reached) + 1 - first, 0) for first, last in ranges)
    # The attachments are read later than the events.
    if len(logged) != expected or any(one.event.attachments for one in logged):
        row = await (await connection.execute(_HAS_SEEN, seen)).fetchone()
        if row is None or not row[0]:
            raise HistoryLost(f"Batch {seen.batch} is missing.")
    return dict(logged), reached


async def _with_attachments(connection: Connection, rows: Sequence[Any]) -> list[LoggedEvent]:
    contents = await _read_attachments(connection, [row[0] for row in rows if row[6]])
    return logged_events(rows, contents)


async def _read_attachments(connection: Connection, sequences: Sequence[int]) -> dict[int, list[bytes]]:
    contents: dict[int, list[bytes]] = {sequence: [] for sequence in sequences}
    if sequences:
        async with connection.cursor(binary=True) as cursor:
            await cursor.execute(_READ_ATTACHMENTS, (sequences,))
            rows: list[Any] = await cursor.fetchall()
        for sequence, content in rows:
            contents[sequence].append(content)
    return contents


async def payloads(connection: Connection, first: int, last: int) -> list[Any]:
    """Return sequence, payload and number of attachments of the events in a range."""
    return await (await connection.execute(_READ_PAYLOADS, (first, last))).fetchall()


def unreadable(rows: Sequence[Any], is_readable: Callable[[str, int], bool]) -> list[int]:
    """Return the sequences of the rows that fail the check."""
    return [sequence for sequence, payload, attachments in rows if not is_readable(payload, attachments)]
