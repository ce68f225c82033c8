"""Segments: the index of parts of the log, in memory. No I/O.

A segment covers at most SEGMENT_LENGTH consecutive sequences, and ends before a multiple of SEGMENT_LENGTH.
For each audience the segment has a list with the audience's events, as remainders: the distances from the
first sequence of the segment.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from sys import getsizeof, maxsize
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

from socketio_eventlog.events import Missed, Room
from socketio_eventlog.snapshot import Membership

if TYPE_CHECKING:
    _Remainders: TypeAlias = array[int]
else:
    _Remainders = array  # before Python 3.12 the class cannot be subscripted

SEGMENT_LENGTH = 4096
_MAX_SIZE_BYTES = 2**32 - 1
_WHOLE_NAMESPACE = (None,)

Audience: TypeAlias = tuple[str, Room | None]
"""A namespace and a room in the namespace; None instead of a room for the whole namespace."""

# CPython's use of memory, measured (tests/unit/test_index.py compares the sums with tracemalloc).
_SEGMENT_BYTES = 700
_SIZE_BYTES = 4
_LIST_BYTES = 205
_REMAINDER_BYTES = 2.2


def end_of_segment(first: int) -> int:
    """Return the last sequence at which a segment that begins with ``first`` may end."""
    return first - first % SEGMENT_LENGTH + SEGMENT_LENGTH


class AudienceRange(NamedTuple):
    """A range of sequences to search for the events of an audience."""

    audience: Audience
    first: int
    """The first sequence of the range."""
    last: int
    """The last sequence of the range, included."""


def audience_ranges(
    namespace: str, memberships: Iterable[Membership], after: int, through: int
) -> list[AudienceRange]:
    """Return the parts of (after, through] covered by the memberships, a range a membership."""
    ranges = []
    for membership in memberships:
        first = max(after, membership.after) + 1
        last = through if membership.through is None else min(through, membership.through)
        if first <= last:  # as ``AudienceRange(...)``, without the function that a named tuple calls
            ranges.append(tuple.__new__(AudienceRange, ((namespace, membership.room), first, last)))
    return ranges


class EventList(_Remainders):
    """The events of an audience in a segment, as ascending remainders; and the total size of the events.

    The total answers whether a client has missed too much. Adding up the sizes of 95,000 missed events costs
    20 ms, before the decision about the client.
    """

    __slots__ = ("size_bytes",)
    size_bytes: int

    @classmethod
    def of(cls, remainders: Iterable[int], size_bytes: int) -> Self:
        """``remainders``: ascending; ``size_bytes``: the total size of the events."""
        made = cls("H", remainders)
        made.size_bytes = size_bytes
        return made


class Segment:
    """The lists and event sizes of consecutive sequences."""

    __slots__ = (
        "end",
        "first",
        "last_count",
        "lists",
        "lists_written",
        "memory_bytes",
        "sizes",
        "write_order",
    )

    def __init__(self, first: int, sizes: array[int] | None = None) -> None:
        """``sizes``: the sizes of all sequences of a stored segment.

        A new segment covers all sequences up to the next multiple of SEGMENT_LENGTH.
        """
        self.first = first
        """The first sequence of the segment: the key of the segment."""
        self.lists: dict[Audience, EventList] = {}
        """By audience the events."""
        if sizes is None:
            sizes = array("I", bytes(_SIZE_BYTES * (end_of_segment(first) - first)))
        self.sizes = sizes
        """The size of each event of the segment in bytes, by remainder."""
        self.end = first + len(sizes)
        """The first sequence after the segment."""
        self.last_count: tuple[object, int, int] | None = None
        """The last counted parts of lists, with the number and the total size of the events."""
        self.memory_bytes: float = _SEGMENT_BYTES + _SIZE_BYTES * len(self.sizes)
        self.write_order: list[Audience] | None = None
        """The order in which the store writes the lists; None before the first write."""
        self.lists_written = 0
        """The number of lists on disk."""

    def add(self, sequence: int, namespace: str, rooms: Sequence[Room] | None, size_bytes: int) -> None:
        """Add an event with a larger sequence than every event before."""
        remainder = sequence - self.first
        size_bytes = min(size_bytes, _MAX_SIZE_BYTES)
        self.sizes[remainder] = size_bytes
        lists, memory_bytes = self.lists, self.memory_bytes
        for room in _WHOLE_NAMESPACE if rooms is None else rooms:
            audience = (namespace, room)
            remainders = lists.get(audience)
            if remainders is None:
                # As ``add_list`` and ``EventList.of``: an event may have ten thousand rooms, and the
                # event loop waits.
                lists[audience] = made = EventList("H", (remainder,))
                made.size_bytes = size_bytes
                memory_bytes += _LIST_BYTES + getsizeof(room) + _REMAINDER_BYTES
            elif remainders[-1] != remainder:  # an emit may name the same room twice
                remainders.append(remainder)
                remainders.size_bytes += size_bytes
                memory_bytes += _REMAINDER_BYTES
        self.memory_bytes = memory_bytes

    def extend(self, audience: Audience, first: int, sizes: Sequence[int]) -> None:
        """Add consecutive events for an audience that has a list, of the sequences from ``first`` on."""
        start = first - self.first
        stop = start + len(sizes)
        if start == stop:
            return
        if max(sizes) > _MAX_SIZE_BYTES:
            sizes = [min(size_bytes, _MAX_SIZE_BYTES) for size_bytes in sizes]
        clipped = array("I", sizes)
        self.sizes[start:stop] = clipped
        remainders = self.lists[audience]
        remainders.extend(range(start, stop))
        remainders.size_bytes += sum(clipped)
        self.memory_bytes += len(clipped) * _REMAINDER_BYTES

    def close_after(self, last: int) -> None:
        """End the segment with the sequence ``last``."""
        covered = len(self.sizes)
        self.sizes = self.sizes[: last + 1 - self.first]
        self.end = last + 1
        self.memory_bytes -= _SIZE_BYTES * (covered - len(self.sizes))

    def add_list(self, audience: Audience, remainders: EventList) -> None:
        """Add the whole list of an audience."""
        self.lists[audience] = remainders
        self.memory_bytes += _LIST_BYTES + getsizeof(audience[1]) + len(remainders) * _REMAINDER_BYTES

    def find(self, ranges: Iterable[AudienceRange], at_most: int = SEGMENT_LENGTH) -> list[int]:
        """Return the sequences of the first events in any of the ranges, ascending, each once."""
        parts = [part for range_ in ranges if (part := self._find_remainders(range_, at_most))]
        if len(parts) == 1:
            return [self.first + remainder for remainder in parts[0]]
        return [self.first + remainder for remainder in sorted(set().union(*parts))[:at_most]]

    def _find_remainders(self, range_: AudienceRange, at_most: int) -> array[int] | None:
        found = self.part(range_)
        if found is None:
            return None
        remainders, start, stop = found
        return remainders[start : min(stop, start + at_most)]

    def part(self, range_: AudienceRange) -> tuple[EventList, int, int] | None:
        """Return the list of an audience, and the bounds of the range in the list; None without an event."""
        remainders = self.lists.get(range_.audience)
        if remainders is None:
            return None
        start = bisect_left(remainders, range_.first - self.first)
        stop = bisect_right(remainders, range_.last - self.first)
        return (remainders, start, stop) if start < stop else None

    def total_size(self, sequences: Iterable[int]) -> int:
        """Return the total size of events, in bytes."""
        sizes, first = self.sizes, self.first
        return sum([sizes[sequence - first] for sequence in sequences])


@dataclass(frozen=True, slots=True)
class SegmentChunk:
    """Some lists of a complete segment, for a single commit."""

    segment: Segment
    start: int
    """The number of lists before the chunk in the write order."""
    stop: int
    """The number of lists up to the end of the chunk in the write order."""

    @property
    def is_last(self) -> bool:
        """Whether the segment is complete on disk after the chunk."""
        return self.stop == len(self.segment.lists)


def find_missed(
    segments: Iterable[Segment], ranges: Sequence[AudienceRange], at_most: int | None = None
) -> Missed:
    """Search the segments, in ascending order, for the events in the ranges.

    With ``at_most`` the search stops after ``at_most + 1`` events, which saves the cost of a longer result.
    """
    left = maxsize if at_most is None else at_most + 1
    sequences: list[int] = []
    size_bytes = 0
    audiences = {range_.audience for range_ in ranges}
    for segment in segments:
        # Most segments of a long log have no event for a client, and cost only this test.
        if segment.lists.keys().isdisjoint(audiences):
            continue
        found = segment.find(ranges, left)
        if found:
            sequences += found
            size_bytes += segment.total_size(found)
            left -= len(found)
            if not left:
                break
    return Missed(tuple(sequences), size_bytes)
