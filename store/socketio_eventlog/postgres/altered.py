"""The rows of ``altered_ranges``: the notes of the triggers and of a start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from socketio_eventlog.altered import MAX_RANGES, AlteredRange
from socketio_eventlog.postgres.connection import Connection

_ALL: Final = """
SELECT namespace, first, last, audience_lost FROM eventstore.altered_ranges ORDER BY number LIMIT %s
"""
# A tool that deletes every second event leaves a row for each event. Above MAX_RANGES, rows are read in
# blocks.
_BLOCKS: Final = """
SELECT namespace, min(first), max(last), bool_or(audience_lost) FROM eventstore.altered_ranges
GROUP BY namespace, first / 4096
"""
# As in the functions of the database: a start loses the audience of existing rows.
_NUMBERS: Final = """
SELECT count(*) + (count(*) FILTER (WHERE audience_lost) << 32), coalesce(max(number), 0)
FROM eventstore.altered_ranges
"""
_NOTE_GONE: Final = """
INSERT INTO eventstore.altered_ranges (first, last, audience_lost)
SELECT o, o, true FROM unnest(%s::bigint[]) AS t(o)
WHERE o > (SELECT pruned_through FROM eventstore.log_state)
  AND NOT EXISTS (SELECT FROM eventstore.altered_ranges WHERE audience_lost AND o BETWEEN first AND last)
"""
_LOSE_AUDIENCE: Final = """
UPDATE eventstore.altered_ranges SET audience_lost = true WHERE last >= %s AND NOT audience_lost
"""
# Every event has the number after the one before; missing rows were deleted without the triggers. A single
# statement reads a single state of the database: others append and prune meanwhile.
_NOTE_LOST: Final = """
WITH part AS (
  SELECT greatest(pruned_through, %s) AS after, last AS head FROM eventstore.log_state, (
    SELECT last FROM eventstore.batches ORDER BY batch DESC LIMIT 1) AS h)
INSERT INTO eventstore.altered_ranges (first, last, audience_lost)
SELECT lower(r), upper(r) - 1, true FROM unnest(coalesce((
  SELECT range_agg(int8range(previous + 1, "offset")) FROM (
    SELECT "offset", lag("offset", 1, (SELECT after FROM part)) OVER (ORDER BY "offset") AS previous FROM (
      SELECT "offset" FROM eventstore.events
      WHERE "offset" > (SELECT after FROM part) AND "offset" <= (SELECT head FROM part)
      UNION ALL SELECT head + 1 FROM part) AS o) AS p
  WHERE previous < "offset" - 1), '{}')
  - coalesce((SELECT range_agg(int8range(first, last, '[]')) FROM eventstore.altered_ranges), '{}')) AS t(r)
RETURNING first, last
"""


async def ranges(connection: Connection) -> list[AlteredRange]:
    """Return all ranges; many ranges are merged."""
    rows: list[Any] = await (await connection.execute(_ALL, (MAX_RANGES + 1,))).fetchall()
    if len(rows) > MAX_RANGES:
        rows = await (await connection.execute(_BLOCKS)).fetchall()
    return [AlteredRange(*row) for row in rows]


async def numbers(connection: Connection) -> tuple[int, int]:
    """Return two numbers that together show a change.

    The first is the number of ranges, with the number of ranges without audience above 32 bits. The second is
    the largest number of a range.
    """
    row: Any = await (await connection.execute(_NUMBERS)).fetchone()
    return row[0], row[1]


async def note_lost(connection: Connection, first_sequence: int) -> list[tuple[int, int]]:
    """Record the ranges of lost events from a sequence on; return the new ranges."""
    cursor: Any = await connection.execute(_NOTE_LOST, (first_sequence - 1,))
    return list(await cursor.fetchall())


async def note_gone(connection: Connection, sequences: Sequence[int]) -> None:
    """Record events that a node has not found: the shared index lacks the events."""
    await connection.execute(_NOTE_GONE, (list(sequences),))


async def lose_audience(connection: Connection, first_sequence: int) -> None:
    """Record that the audience of altered events from a sequence on is unknown."""
    await connection.execute(_LOSE_AUDIENCE, (first_sequence,))
