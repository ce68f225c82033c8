"""Which events are addressed to whom, in memory. No I/O.

An index by room on disk dirties a random page for every event; in memory it costs next to nothing.
The log is cut into generations of consecutive numbers: each is complete when the log has moved past
it, is then written to disk once, dropped from memory when that grows too large, and deleted as a
whole when its last event is pruned.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from sys import getsizeof, maxsize
from typing import TypeAlias

from socketio_eventlog.records import Membership, Missed, Room

SEGMENT_LENGTH = 4096
_LARGEST_SIZE = 2**32 - 1
_EVERYONE = (None,)
_SMALLEST_CHUNK = 256

Audience: TypeAlias = tuple[str, Room | None]
"""A namespace, and a room in it; None for everyone in the namespace."""

# What CPython spends, measured (tests/test_index.py compares the sums with tracemalloc).
_SEGMENT_BYTES = 4 * SEGMENT_LENGTH + 700
_AUDIENCE_BYTES = 180
_NUMBER_BYTES = 2.2


@dataclass(frozen=True, slots=True)
class AudienceRange:
    """A stretch of the log in which one audience's events are looked for."""

    audience: Audience
    first: int
    """The first number that counts."""
    last: int
    """The last number that counts."""


def wanted(
    namespace: str, memberships: Iterable[Membership], after: int, through: int
) -> list[AudienceRange]:
    """The stretches in which events of (after, through] fall into one of the memberships."""
    ranges = []
    for interval in memberships:
        first = max(after, interval.after) + 1
        last = through if interval.through is None else min(through, interval.through)
        if first <= last:
            ranges.append(AudienceRange((namespace, interval.room), first, last))
    return ranges


class Segment:
    """The lists of GENERATION_LENGTH consecutive numbers."""

    __slots__ = ("audiences", "first", "key", "lists_on_disk", "memory_bytes", "order", "sizes")

    def __init__(self, key: int) -> None:
        """``key``: how many generations lie before it."""
        self.key = key
        self.first = key * SEGMENT_LENGTH
        self.audiences: dict[Audience, array[int]] = {}
        """By audience its numbers, ascending, less ``first``."""
        self.sizes = array("I", bytes(4 * SEGMENT_LENGTH))
        """By number less ``first``: what the event weighs, in bytes."""
        self.memory_bytes: float = _SEGMENT_BYTES
        self.order: list[Audience] | None = None
        """The order in which the lists are written, for the one who writes them."""
        self.lists_on_disk = 0

    def add(self, sequence: int, namespace: str, rooms: Sequence[Room] | None, size_bytes: int) -> None:
        """Enter an event; its number is larger than all before it."""
        offset = sequence - self.first
        self.sizes[offset] = min(size_bytes, _LARGEST_SIZE)
        for room in _EVERYONE if rooms is None else rooms:
            audience = (namespace, room)
            relative = self.audiences.get(audience)
            if relative is None:
                self.put(audience, array("H", (offset,)))
            elif relative[-1] != offset:  # the same room named twice
                relative.append(offset)
                self.memory_bytes += _NUMBER_BYTES

    def put(self, audience: Audience, relative: array[int]) -> None:
        """Enter a whole list."""
        self.audiences[audience] = relative
        self.memory_bytes += _AUDIENCE_BYTES + getsizeof(audience[1]) + len(relative) * _NUMBER_BYTES

    def find(self, ranges: Iterable[AudienceRange]) -> list[int]:
        """The numbers in any of the stretches, ascending, each once."""
        parts = [part for range_ in ranges if (part := self._part(range_))]
        if len(parts) == 1:
            return [self.first + offset for offset in parts[0]]
        return [self.first + offset for offset in sorted(set().union(*parts))]

    def _part(self, range_: AudienceRange) -> array[int] | None:
        relative = self.audiences.get(range_.audience)
        if relative is None:
            return None
        start = bisect_left(relative, range_.first - self.first)
        return relative[start : bisect_right(relative, range_.last - self.first)]

    def weigh(self, sequences: Iterable[int]) -> int:
        """The sizes of these numbers together, in bytes."""
        sizes, first = self.sizes, self.first
        return sum([sizes[sequence - first] for sequence in sequences])


@dataclass(frozen=True, slots=True)
class SegmentChunk:
    """Some lists of a complete generation, to be written with a commit."""

    segment: Segment
    start: int
    """How many of its lists were written before."""
    stop: int

    @property
    def is_last(self) -> bool:
        """Whether the generation is whole on disk after it."""
        return self.stop == len(self.segment.audiences)


def collect(
    segments: Iterable[Segment], ranges: Sequence[AudienceRange], at_most: int | None = None
) -> Missed:
    """Look through the generations, in their order.

    With ``at_most`` the search ends once it has more than so many: whoever refuses a longer answer
    need not pay for it.
    """
    limit = maxsize if at_most is None else at_most
    sequences: list[int] = []
    size_bytes = 0
    audiences = {range_.audience for range_ in ranges}
    for segment in segments:
        # Of a long log most generations have nothing for one client, and this is all that they cost.
        if segment.audiences.keys().isdisjoint(audiences):
            continue
        found = segment.find(ranges)
        if found:
            sequences += found
            size_bytes += segment.weigh(found)
            if len(sequences) > limit:
                break
    return Missed(tuple(sequences), size_bytes)


class Index:
    """The generations of the log: all of them by key, the newest ones with their lists."""

    def __init__(self, memory_bytes: int) -> None:
        """``memory_bytes``: what the lists may take; the newest generation stays in any case."""
        self._bound_bytes = memory_bytes
        self._keys: list[int] = []
        self._loaded: dict[int, Segment] = {}
        self._on_disk: set[int] = set()
        self._newest: Segment | None = None
        self._older_bytes: float = 0

    @property
    def memory_bytes(self) -> int:
        """An estimate of what the lists take."""
        return int(self._older_bytes + (0 if self._newest is None else self._newest.memory_bytes))

    def add(self, sequence: int, namespace: str, rooms: Sequence[Room] | None, size_bytes: int) -> None:
        """Enter an event; its number is larger than all before it."""
        newest = self._newest
        if newest is None or sequence >= newest.first + SEGMENT_LENGTH:
            newest = Segment(sequence // SEGMENT_LENGTH)
            self.hold(newest, on_disk=False)
        newest.add(sequence, namespace, rooms, size_bytes)

    def hold(self, segment: Segment, *, on_disk: bool) -> None:
        """Take in a whole generation, newer than all before it."""
        if self._newest is not None:
            self._older_bytes += self._newest.memory_bytes
        self._newest = self._loaded[segment.key] = segment
        self._keys.append(segment.key)
        if on_disk:
            self._on_disk.add(segment.key)

    def know(self, key: int) -> None:
        """Take note of a generation, newer than all before it, whose lists stay on disk."""
        self._keys.append(key)
        self._on_disk.add(key)

    def chunk(self, events: int) -> SegmentChunk | None:
        """What is to be written next of the generations that the log has moved past, oldest first.

        A generation of direct messages has a list for each event, and all of them in one commit would
        hold it up. In the end it must be written faster than the ``events`` of the commits come in.
        """
        segment = self._oldest_unwritten()
        if segment is None:
            return None
        start, end = segment.lists_on_disk, len(segment.audiences)
        share = 2 * end * events // SEGMENT_LENGTH
        return SegmentChunk(segment, start, min(start + max(share, _SMALLEST_CHUNK), end))

    def _oldest_unwritten(self) -> Segment | None:
        oldest = None
        for key in reversed(self._keys):
            if key in self._on_disk:
                break
            if self._loaded[key] is not self._newest:
                oldest = self._loaded[key]
        return oldest

    def written(self, chunk: SegmentChunk) -> None:
        """Take note that it is on disk from now on."""
        segment = chunk.segment
        segment.lists_on_disk = max(segment.lists_on_disk, chunk.stop)
        if chunk.is_last and segment.key in self._loaded:
            self._on_disk.add(segment.key)

    def evict(self) -> None:
        """Drop the lists of the oldest generations that are on disk, until the rest fits the bound."""
        while self.memory_bytes > self._bound_bytes:
            oldest = next(iter(self._loaded.values()))
            if oldest.key not in self._on_disk or oldest is self._newest:
                break
            self._unload(oldest)

    def forget(self, through: int) -> None:
        """Drop the generations whose last number is at most ``through``."""
        end = bisect_left(self._keys, (through + 1) // SEGMENT_LENGTH)
        for key in self._keys[:end]:
            self._on_disk.discard(key)
            if key in self._loaded:
                self._unload(self._loaded[key])
        del self._keys[:end]

    def _unload(self, segment: Segment) -> None:
        del self._loaded[segment.key]
        if segment is self._newest:
            self._newest = None
        else:
            self._older_bytes -= segment.memory_bytes

    def loaded(self, ranges: Sequence[AudienceRange]) -> Iterator[Segment]:
        """The generations in memory that the stretches touch, oldest first."""
        loaded = self._loaded
        return (loaded[key] for key in self._touched(ranges) if key in loaded)

    def only_on_disk(self, ranges: Sequence[AudienceRange]) -> list[int]:
        """The keys of the generations that the stretches touch and memory does not hold, ascending."""
        loaded = self._loaded
        return [key for key in self._touched(ranges) if key not in loaded]

    def find(self, namespace: str, memberships: Iterable[Membership], after: int, through: int) -> Missed:
        """What memory knows of the events in (after, through] that a membership covers."""
        ranges = wanted(namespace, memberships, after, through)
        return collect(self.loaded(ranges), ranges)

    def _touched(self, ranges: Sequence[AudienceRange]) -> list[int]:
        if not ranges:
            return []
        first = min(range_.first for range_ in ranges) // SEGMENT_LENGTH
        last = max(range_.last for range_ in ranges) // SEGMENT_LENGTH
        return self._keys[bisect_left(self._keys, first) : bisect_right(self._keys, last)]
