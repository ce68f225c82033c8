"""The index of events by audience, in memory. No I/O.

An index by room on disk dirties a random page for every event; in memory the index costs next to nothing.
The index divides the log into segments of consecutive sequences. A segment is complete as soon as the log
has grown past the segment. The store then writes the segment to disk once, drops the segment from memory
when the index exceeds the memory limit, and deletes the segment as a whole with the segment's last event.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from socketio_eventlog.records import Room
from socketio_eventlog.segment import SEGMENT_LENGTH, AudienceRange, Segment, SegmentChunk

_MIN_CHUNK_LISTS = 256


class Index:
    """The segments of the log: the keys of all segments, and the newest segments with their lists."""

    def __init__(self, max_memory_bytes: int) -> None:
        """``max_memory_bytes``: the limit of ``memory_bytes``; the newest segment stays in any case."""
        self._max_memory_bytes = max_memory_bytes
        self._keys: list[int] = []
        self._loaded: dict[int, Segment] = {}
        self._on_disk: set[int] = set()
        self._newest: Segment | None = None
        self._older_bytes: float = 0

    @property
    def memory_bytes(self) -> int:
        """An estimate of the memory of all lists, in bytes."""
        return int(self._older_bytes + (0 if self._newest is None else self._newest.memory_bytes))

    def add(self, sequence: int, namespace: str, rooms: Sequence[Room] | None, size_bytes: int) -> None:
        """Add an event with a larger sequence than every event before."""
        newest = self._newest
        if newest is None or sequence >= newest.first + SEGMENT_LENGTH:
            newest = Segment(sequence // SEGMENT_LENGTH)
            self.add_segment(newest, on_disk=False)
        newest.add(sequence, namespace, rooms, size_bytes)

    def add_segment(self, segment: Segment, *, on_disk: bool) -> None:
        """Add a segment with its lists, newer than every segment before."""
        if self._newest is not None:
            self._older_bytes += self._newest.memory_bytes
        self._newest = self._loaded[segment.key] = segment
        self._keys.append(segment.key)
        if on_disk:
            self._on_disk.add(segment.key)

    def add_stored_segment(self, key: int) -> None:
        """Add the key of a segment whose lists stay on disk, newer than every segment before."""
        self._keys.append(key)
        self._on_disk.add(key)

    def next_chunk(self, events: int) -> SegmentChunk | None:
        """Return the next chunk of the complete segments for a commit of ``events`` events, or None.

        The oldest segment comes first. A segment of direct messages has a list for each event, and all
        lists in one commit would delay the commit. A chunk grows with ``events``, since in the end the
        store must write a segment faster than the events of the commits arrive.
        """
        segment = self._oldest_unwritten()
        if segment is None:
            return None
        start, end = segment.lists_written, len(segment.lists)
        share = 2 * end * events // SEGMENT_LENGTH
        return SegmentChunk(segment, start, min(start + max(share, _MIN_CHUNK_LISTS), end))

    def _oldest_unwritten(self) -> Segment | None:
        oldest = None
        for key in reversed(self._keys):
            if key in self._on_disk:
                break
            if self._loaded[key] is not self._newest:
                oldest = self._loaded[key]
        return oldest

    def mark_written(self, chunk: SegmentChunk) -> None:
        """Record that the chunk is on disk. A second call with the same chunk does nothing."""
        segment = chunk.segment
        segment.lists_written = max(segment.lists_written, chunk.stop)
        if chunk.is_last and segment.key in self._loaded:
            self._on_disk.add(segment.key)

    def evict(self) -> None:
        """Drop the lists of the oldest segments on disk, until the rest fits the memory limit."""
        while self.memory_bytes > self._max_memory_bytes:
            oldest = next(iter(self._loaded.values()))
            if oldest.key not in self._on_disk or oldest is self._newest:
                break
            self._unload(oldest)

    def drop_through(self, sequence: int) -> None:
        """Drop the segments whose last sequence is at most ``sequence``."""
        end = bisect_left(self._keys, (sequence + 1) // SEGMENT_LENGTH)
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

    def segments_in_memory(self, ranges: Sequence[AudienceRange]) -> Iterator[Segment]:
        """Return the segments in memory that overlap the ranges, oldest first."""
        loaded = self._loaded
        return (loaded[key] for key in self._overlapping_keys(ranges) if key in loaded)

    def keys_on_disk_only(self, ranges: Sequence[AudienceRange]) -> list[int]:
        """Return the keys of segments that overlap the ranges and are not in memory, ascending."""
        loaded = self._loaded
        return [key for key in self._overlapping_keys(ranges) if key not in loaded]

    def _overlapping_keys(self, ranges: Sequence[AudienceRange]) -> list[int]:
        if not ranges:
            return []
        first = min(range_.first for range_ in ranges) // SEGMENT_LENGTH
        last = max(range_.last for range_ in ranges) // SEGMENT_LENGTH
        return self._keys[bisect_left(self._keys, first) : bisect_right(self._keys, last)]
