"""The check of the index on disk against the events."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Container, Iterator
from typing import Final

from socketio_eventlog.segment import Audience, Segment
from socketio_eventlog.sqlite import altered, segments

_EVENTS: Final = """
SELECT offset, namespace, rooms, size_bytes FROM events WHERE offset BETWEEN ? AND ? ORDER BY offset
"""


def check(connection: sqlite3.Connection, pruned_through: int) -> Iterator[str]:
    """Yield a sentence for each segment that does not match the events in the segment's range.

    The sizes in a segment are the sizes at the emit; a redaction does not change the sizes.
    """
    changed = altered.sequences(connection, pruned_through + 1)
    end = 0
    for segment in segments.read_all(connection):
        if segment.first < end:
            yield f"index: the segment {segment.first} begins before the end of the one before it"
        end = segment.end
        yield from _compare(connection, segment, pruned_through, changed)


def _compare(
    connection: sqlite3.Connection, segment: Segment, pruned_through: int, changed: Container[int]
) -> Iterator[str]:
    first, last = max(segment.first, pruned_through + 1), segment.end - 1
    expected = Segment(segment.first)
    for sequence, namespace, rooms, size_bytes in connection.execute(_EVENTS, (first, last)):
        if sequence not in changed:
            expected.add(sequence, namespace, None if rooms is None else json.loads(rooms), size_bytes)
    for audience in segment.lists.keys() | expected.lists.keys():
        indexed = _sequences(segment, audience, first, changed)
        stored = _sequences(expected, audience, first, changed)
        if indexed != stored:
            example = min(indexed ^ stored)
            state = "lacks" if example in stored else "names"
            namespace, room = audience
            to = f"all of {namespace}" if room is None else f"room {room!r} of {namespace}"
            yield f"index: the segment {segment.first} {state} event {example} to {to}, unlike the events"
            return


def _sequences(segment: Segment, audience: Audience, first: int, changed: Container[int]) -> set[int]:
    found = (segment.first + remainder for remainder in segment.lists.get(audience, ()))
    return {sequence for sequence in found if sequence >= first and sequence not in changed}
