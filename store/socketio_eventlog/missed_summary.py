"""The missed events of a client, in numbers: enough for a decision about the client. No I/O.

The cost of a decision about a client must not grow with the missed events: any client can return again and
again and hang up at once. So the events are not listed. Bounds are made from the lengths and the total sizes
of the lists; a segment is counted event by event only while the bounds leave open whether a limit is
exceeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from socketio_eventlog.events import Missed, MissedSummary
from socketio_eventlog.segment import AudienceRange, EventList, Segment

_COUNTED_EVENTS = 64
"""A part of a list with at most so many events is counted at once."""

_Part = tuple[EventList, int, int]
"""A list, and the bounds of a range in the list."""


@dataclass(slots=True)
class _Bounds:
    """Bounds for the number and the total size of missed events."""

    fewest: int
    most: int
    smallest_bytes: int
    largest_bytes: int


class _SegmentParts:
    """The missed events of one segment, not listed."""

    def __init__(self, segment: Segment, parts: Sequence[_Part]) -> None:
        self.segment = segment
        self._parts = parts
        # No event is in two lists (then the sum counts), or all events are in the longest list.
        counts = [stop - start for _, start, stop in parts]
        sizes = [self._size_bounds(part) for part in parts]
        self.bounds = _Bounds(
            max(counts), sum(counts), max(low for low, _ in sizes), sum(high for _, high in sizes)
        )

    def _size_bounds(self, part: _Part) -> tuple[int, int]:
        events, start, stop = part
        if stop - start == len(events):
            return events.size_bytes, events.size_bytes
        if stop - start <= _COUNTED_EVENTS:
            sizes = self.segment.sizes
            size_bytes = sum([sizes[remainder] for remainder in events[start:stop]])
            return size_bytes, size_bytes
        return 0, events.size_bytes

    @property
    def range(self) -> tuple[int, int]:
        """The sequences of the first and of the last event."""
        first = min(events[start] for events, start, _ in self._parts)
        last = max(events[stop - 1] for events, _, stop in self._parts)
        return self.segment.first + first, self.segment.first + last

    def count(self) -> _Bounds:
        """Count the events singly, unless the last count was the same: many clients share a room."""
        segment, key = self.segment, tuple((id(events), start, stop) for events, start, stop in self._parts)
        counted = segment.last_count
        if counted is None or counted[0] != key:
            events = set().union(*(events[start:stop] for events, start, stop in self._parts))
            sizes = segment.sizes
            counted = (key, len(events), sum([sizes[remainder] for remainder in events]))
            segment.last_count = counted
        _, events_counted, size_bytes = counted
        return _Bounds(events_counted, events_counted, size_bytes, size_bytes)


def summarise(
    segments: Iterable[Segment], ranges: Sequence[AudienceRange], max_events: int, max_bytes: int
) -> MissedSummary:
    """Summarise the events in the ranges; ``segments`` are in ascending order."""
    audiences = {range_.audience for range_ in ranges}
    found = []
    total = _Bounds(0, 0, 0, 0)
    for segment in segments:
        # Most segments of a long log have no event for a client, and cost only this test.
        if segment.lists.keys().isdisjoint(audiences):
            continue
        parts = [part for range_ in ranges if (part := segment.part(range_)) is not None]
        if parts:
            of_segment = _SegmentParts(segment, parts)
            found.append(of_segment)
            _replace(total, None, of_segment.bounds)
    exceeds = _exceeds(total, found, max_events, max_bytes)
    return MissedSummary(tuple(parts.range for parts in found), exceeds, at_most=total.most)


def _exceeds(total: _Bounds, found: Iterable[_SegmentParts], max_events: int, max_bytes: int) -> bool:
    for parts in found:
        if total.fewest > max_events or total.smallest_bytes > max_bytes:
            return True
        if total.most <= max_events and total.largest_bytes <= max_bytes:
            return False
        _replace(total, parts.bounds, parts.count())
    return total.fewest > max_events or total.smallest_bytes > max_bytes


def _replace(total: _Bounds, old: _Bounds | None, new: _Bounds) -> None:
    if old is not None:
        total.fewest -= old.fewest
        total.most -= old.most
        total.smallest_bytes -= old.smallest_bytes
        total.largest_bytes -= old.largest_bytes
    total.fewest += new.fewest
    total.most += new.most
    total.smallest_bytes += new.smallest_bytes
    total.largest_bytes += new.largest_bytes


def summary_of(missed: Missed, max_events: int, max_bytes: int) -> MissedSummary:
    """Summarise listed events, for a log with all events in memory."""
    sequences = missed.sequences
    exceeds = len(sequences) > max_events or missed.size_bytes > max_bytes
    ranges = ((sequences[0], sequences[-1]),) if sequences else ()
    return MissedSummary(ranges, exceeds, at_most=len(sequences))
