"""The index of events by audience, in memory. No I/O.

An index by room on disk dirties a random page for every event; in memory the index costs next to nothing. The
index divides the log into segments of consecutive sequences. A segment is complete as soon as the log has
grown past the segment, or the segment weighs a share of the memory limit: events to thousands of rooms fill a
segment soon. The store then writes the segment to disk once, drops the segment from memory when the index
exceeds the memory limit, and deletes the segment as a whole with the segment's last event.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter

from socketio_eventlog.events import Room
from socketio_eventlog.segment import (
    SEGMENT_LENGTH,
    AudienceRange,
    Segment,
    SegmentChunk,
    end_of_segment,
)

LEAST_FULL_SEGMENT_BYTES = 2_000_000
"""The least weight at which a segment is complete, in bytes."""
_SEGMENTS_IN_MEMORY = 8
_MIN_CHUNK_LISTS = 256
_LISTS_PER_EVENT = 4
"""Lists of a chunk for each event of its commit, beside those that the last commit has brought."""
_FIRST, _LAST = attrgetter("first"), attrgetter("last")


class Index:
    """The segments of the log: the keys of all segments, and the newest segments with their lists."""

    def __init__(
        self, max_memory_bytes: int, least_full_segment_bytes: int = LEAST_FULL_SEGMENT_BYTES
    ) -> None:
        """``max_memory_bytes``: the limit of ``memory_bytes``.

        Segments without a copy on disk stay in any case: the newest segment, up to an eighth of the limit or
        ``least_full_segment_bytes``; the segment before; and the events of the commits of the moment.
        """
        self._max_memory_bytes = max_memory_bytes
        self._full_segment_bytes = max(least_full_segment_bytes, max_memory_bytes // _SEGMENTS_IN_MEMORY)
        self._max_unwritten_bytes = max(max_memory_bytes, 2 * self._full_segment_bytes)
        self._keys: list[int] = []
        self._loaded: dict[int, Segment] = {}
        self._on_disk: set[int] = set()
        self._newest: Segment | None = None
        self._older_bytes: float = 0
        self._older_lists = 0  # of all segments that were the newest one
        self._counted_lists = 0

    @property
    def memory_bytes(self) -> int:
        """An estimate of the memory of all lists, in bytes."""
        return int(self._older_bytes + (0 if self._newest is None else self._newest.memory_bytes))

    def add(self, sequence: int, namespace: str, rooms: Sequence[Room] | None, size_bytes: int) -> None:
        """Add an event with a larger sequence than every event before."""
        newest = self._newest
        if newest is None or sequence >= newest.end:
            newest = Segment(self._first_of_next(sequence))
            self.add_segment(newest, on_disk=False)
        newest.add(sequence, namespace, rooms, size_bytes)
        self._close_when_full(newest, sequence)

    def add_run(self, last: int, namespace: str, rooms: Sequence[Room] | None, sizes: Sequence[int]) -> None:
        """Add consecutive events of one address: the sequence of the last one, and the bytes of each."""
        first, added = last + 1 - len(sizes), 0
        is_one_list = rooms is None or len(rooms) == 1
        while added < len(sizes):
            self.add(first + added, namespace, rooms, sizes[added])
            added += 1
            newest = self._newest
            if is_one_list and newest is not None:
                stop = min(len(sizes), newest.end - first)
                newest.extend((namespace, rooms[0] if rooms else None), first + added, sizes[added:stop])
                self._close_when_full(newest, first + stop - 1)
                added = stop

    def _close_when_full(self, newest: Segment, last: int) -> None:
        if newest.memory_bytes > self._full_segment_bytes:
            newest.close_after(last)
            self._retire(newest)

    def _first_of_next(self, sequence: int) -> int:
        """Return the first sequence of the next segment: the sequence of the next event."""
        first = sequence - sequence % SEGMENT_LENGTH
        return sequence if self._keys and self._keys[-1] >= first else first

    def add_segment(self, segment: Segment, *, on_disk: bool) -> None:
        """Add a segment and the segment's lists, newer than every segment before."""
        if self._newest is not None:
            self._retire(self._newest)
        self._newest = self._loaded[segment.first] = segment
        self._keys.append(segment.first)
        if on_disk:
            self._on_disk.add(segment.first)

    def _retire(self, newest: Segment) -> None:
        self._older_bytes += newest.memory_bytes
        self._older_lists += len(newest.lists)
        self._newest = None

    def add_stored_segment(self, key: int) -> None:
        """Add the key of a segment whose lists stay on disk, newer than every segment before."""
        self._keys.append(key)
        self._on_disk.add(key)

    def next_chunks(self, events: int) -> list[SegmentChunk]:
        """Return the next chunks of the complete segments for a commit of ``events`` events.

        The oldest segment comes first. A segment of direct messages has a list for each event, and all lists
        in one commit would delay the commit. A chunk grows with ``events``, since in the end the store must
        write a segment faster than the events of the commits arrive. A segment of few events with thousands
        of rooms each would be one chunk: the store writes such lists as fast as further lists arrive, and
        commits of other events do not wait. Only the excess over the memory limit is written at once.
        """
        chunks: list[SegmentChunk] = []
        most = 2 * self._lists_since_last_call() + _LISTS_PER_EVENT * events
        excess_bytes: float = self.memory_bytes - self._max_unwritten_bytes
        for segment in self._unwritten():
            if chunks and excess_bytes <= 0:
                break
            start, end = segment.lists_written, len(segment.lists)
            share = min(2 * end * events // len(segment.sizes), most)
            excess = int(end * min(excess_bytes / segment.memory_bytes, 1))
            stop = min(start + max(share, excess, _MIN_CHUNK_LISTS), end)
            chunks.append(SegmentChunk(segment, start, stop))
            excess_bytes -= segment.memory_bytes
        return chunks

    def _lists_since_last_call(self) -> int:
        count = self._older_lists + (0 if self._newest is None else len(self._newest.lists))
        since, self._counted_lists = count - self._counted_lists, count
        return since

    def _unwritten(self) -> list[Segment]:
        """Return the complete segments without a copy on disk, oldest first."""
        unwritten = []
        for key in reversed(self._keys):
            if key in self._on_disk:
                break
            segment = self._loaded[key]
            if segment is not self._newest:
                unwritten.append(segment)
        return unwritten[::-1]

    def mark_written(self, chunk: SegmentChunk) -> None:
        """Record that the chunk is on disk. A second call with the same chunk does nothing."""
        segment = chunk.segment
        segment.lists_written = max(segment.lists_written, chunk.stop)
        if chunk.is_last and segment.first in self._loaded:
            self._on_disk.add(segment.first)

    def evict(self) -> None:
        """Drop the lists of the oldest segments on disk, until the rest fits the memory limit."""
        while self.memory_bytes > self._max_memory_bytes:
            oldest = next(iter(self._loaded.values()))
            if oldest.first not in self._on_disk or oldest is self._newest:
                break
            self._unload(oldest)

    def drop_through(self, sequence: int) -> None:
        """Drop the segments with a last sequence of at most ``sequence``."""
        end = bisect_right(self._keys, sequence)
        if end and self._end_at_the_latest(end - 1) > sequence + 1:
            end -= 1
        for key in self._keys[:end]:
            self._on_disk.discard(key)
            if key in self._loaded:
                self._unload(self._loaded[key])
        del self._keys[:end]

    def _end_at_the_latest(self, number: int) -> int:
        """Return a sequence after all events of a segment, and before the events of later segments."""
        return min([end_of_segment(self._keys[number]), *self._keys[number + 1 : number + 2]])

    def _unload(self, segment: Segment) -> None:
        del self._loaded[segment.first]
        if segment is self._newest:
            self._older_lists += len(segment.lists)
            self._newest = None
        else:
            self._older_bytes -= segment.memory_bytes

    def overlapping(self, ranges: Sequence[AudienceRange]) -> tuple[list[Segment], list[int]]:
        """Return the segments in memory that overlap the ranges, and the keys of the others, oldest first.

        All of the others are older than those in memory.
        """
        if not ranges:
            return [], []
        keys, loaded = self._keys, self._loaded
        first, last = min(map(_FIRST, ranges)), max(map(_LAST, ranges))
        start = bisect_right(keys, first)
        if start:
            before = loaded.get(keys[start - 1])
            if (self._end_at_the_latest(start - 1) if before is None else before.end) > first:
                start -= 1
        found = keys[start : bisect_right(keys, last)]
        if len(loaded) == len(keys):  # unless the index exceeds its limit
            return list(map(loaded.__getitem__, found)), []
        in_memory = [loaded[key] for key in found if key in loaded]
        return in_memory, [key for key in found if key not in loaded]
