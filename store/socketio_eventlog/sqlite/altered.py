"""The rows of ``altered_ranges`` and ``unused_ranges``. Jobs of a database thread, in a transaction.

Triggers note the events that another program changes or deletes. The server's own pruning raises
``log_state.pruned_through`` first, so pruned rows are not noted.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator
from typing import Final

from socketio_eventlog.altered import MAX_RANGES, AlteredRange

_SINCE: Final = """
SELECT namespace, first, last, audience_lost FROM altered_ranges WHERE number > ? ORDER BY number LIMIT ?
"""
# A tool that deletes every second event leaves a row for each event. Above MAX_RANGES, rows are read in
# blocks.
_BLOCKS_SINCE: Final = """
SELECT namespace, min(first), max(last), max(audience_lost) FROM altered_ranges
WHERE number > ? GROUP BY namespace, first / 4096
"""
_NEWEST: Final = "SELECT coalesce(max(number), 0) FROM altered_ranges"
_LOSE_AUDIENCE: Final = "UPDATE altered_ranges SET audience_lost = 1 WHERE last >= ? AND audience_lost = 0"
_INSERT: Final = "INSERT INTO altered_ranges (first, last, audience_lost) VALUES (?, ?, 1)"
_EXPLAINED: Final = """
SELECT first, last FROM unused_ranges WHERE last >= :first
UNION ALL SELECT first, last FROM altered_ranges WHERE last >= :first ORDER BY first
"""
_ALTERED: Final = "SELECT first, last FROM altered_ranges WHERE last >= ? ORDER BY first"
_HOLES: Final = """
SELECT previous + 1, offset - 1 FROM (
  SELECT offset, lag(offset, 1, :after) OVER (ORDER BY offset) AS previous FROM (
    SELECT offset FROM events WHERE offset > :after AND offset <= :through
    UNION ALL SELECT :through + 1))
WHERE previous < offset - 1 ORDER BY offset
"""
_NOTE_UNUSED: Final = "INSERT OR REPLACE INTO unused_ranges (first, last) VALUES (?, ?)"
_FORGET: Final = "DELETE FROM altered_ranges WHERE number > ?"
# The newest row stays: a later row must not get a number that the writer has read already.
_PRUNE: Final = (
    "DELETE FROM altered_ranges WHERE last <= ? AND number < (SELECT max(number) FROM altered_ranges)",
    "DELETE FROM unused_ranges WHERE last <= ?",
)


def since(connection: sqlite3.Connection, number: int) -> list[AlteredRange]:
    """Return the ranges with larger numbers; many ranges are merged."""
    rows = connection.execute(_SINCE, (number, MAX_RANGES + 1)).fetchall()
    if len(rows) > MAX_RANGES:
        rows = connection.execute(_BLOCKS_SINCE, (number,)).fetchall()
    return [AlteredRange(namespace, first, last, bool(lost)) for namespace, first, last, lost in rows]


def newest(connection: sqlite3.Connection) -> int:
    """Return the largest number of a range; 0 when there is none."""
    (number,) = connection.execute(_NEWEST).fetchone()
    return int(number)


def note_unused(connection: sqlite3.Connection, first: int, last: int) -> None:
    """Record the sequences of failed appends, to distinguish a hole in the log from a loss."""
    connection.execute(_NOTE_UNUSED, (first, last))


def note_lost(connection: sqlite3.Connection, ranges: Iterable[tuple[int, int]]) -> None:
    """Record ranges of lost events."""
    connection.executemany(_INSERT, ranges)


def lose_audience(connection: sqlite3.Connection, first_sequence: int) -> None:
    """Record that the audience of altered events from a sequence on is unknown."""
    connection.execute(_LOSE_AUDIENCE, (first_sequence,))


def forget_since(connection: sqlite3.Connection, number: int) -> None:
    """Delete the ranges with larger numbers: the server itself has changed their events.

    Only in the transaction of the change: no other program has seen the numbers, which come again.
    """
    connection.execute(_FORGET, (number,))


def holes(connection: sqlite3.Connection, after: int, through: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges in (after, through] without events, ascending; without unused and noted ranges."""
    explained = _Ranges(connection.execute(_EXPLAINED, {"first": after + 1}))
    for first, last in connection.execute(_HOLES, {"after": after, "through": through}).fetchall():
        for known_first, known_last in explained.overlapping(first, last):
            if first < known_first:
                yield first, known_first - 1
            first = known_last + 1
        if first <= last:
            yield first, last


class _Ranges:
    """Disjoint ranges, made from overlapping ranges."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        """``ranges``: by first sequence, ascending."""
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def overlapping(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges that overlap a range, ascending."""
        start, stop = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        return zip(self._firsts[start:stop], self._lasts[start:stop], strict=True)

    def __contains__(self, sequence: object) -> bool:
        assert isinstance(sequence, int)
        index = bisect_right(self._firsts, sequence) - 1
        return index >= 0 and sequence <= self._lasts[index]


def sequences(connection: sqlite3.Connection, first_sequence: int) -> Container[int]:
    """Return the sequences of altered events from a sequence on."""
    return _Ranges(connection.execute(_ALTERED, (first_sequence,)))


def prune(connection: sqlite3.Connection, through: int) -> None:
    """Delete the ranges whose events are all pruned."""
    for statement in _PRUNE:
        connection.execute(statement, (through,))
