"""The part of a durable log above the engine: the index of events by audience, and searches in the index."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from socketio_eventlog import offsets
from socketio_eventlog.altered import AlteredRange, AlteredRanges
from socketio_eventlog.changed_sessions import ChangedSessions
from socketio_eventlog.changes import Batch, Pruned
from socketio_eventlog.events import Event, Missed, MissedSummary, Offset, Room
from socketio_eventlog.index import Index
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.segment import (
    Audience,
    AudienceRange,
    Segment,
    SegmentChunk,
    audience_ranges,
    find_missed,
)
from socketio_eventlog.snapshot import Membership
from socketio_eventlog.summaries import Summaries

_SEGMENTS_PER_READ: Final = 16
_REPORT_SECONDS: Final = 10.0

logger = logging.getLogger(__name__)


class IndexedLog(ABC):
    """A log with an index of all batches; the engine stores the segments beyond the memory limit."""

    def __init__(
        self, epochs: Epochs, index: Index, altered: AlteredRanges, head: int, pruned_through: int
    ) -> None:
        self._epochs = epochs
        self._index = index
        self._altered = altered
        self._head = head
        self.pruned_through = pruned_through
        self._summaries = Summaries()
        self._loop = asyncio.get_running_loop()
        self._report_after = 0.0

    @abstractmethod
    async def _read_segments(self, keys: Sequence[int], audiences: AbstractSet[Audience]) -> list[Segment]:
        """Read the lists of audiences in the stored segments with the keys, oldest first."""

    @property
    def contact_at(self) -> float:
        return time.monotonic()

    @property
    def changed_sessions(self) -> ChangedSessions | None:
        return None

    async def may_live(self, node: str) -> bool:
        return True

    @property
    def index_memory_bytes(self) -> int:
        return self._index.memory_bytes

    @property
    def head(self) -> int:
        return self._head

    def offset_of(self, sequence: int) -> Offset:
        return Offset(self._epochs.epoch_of(sequence), sequence)

    def locate(self, offset: str) -> Offset:
        return self._epochs.check(offsets.parse(offset), self._head)

    def precedes_epoch(self, earlier: str, later: str) -> bool:
        return self._epochs.precedes(earlier, later)

    def _add_to_index(self, batch: Batch, chunks: Sequence[SegmentChunk]) -> int:
        """Add the events of the next batch, whose commit wrote the chunks; return the size in bytes."""
        index, total_bytes = self._index, 0
        address: tuple[str, Sequence[Room] | None] = "", None
        sizes: list[int] = []  # those of the last events, which are consecutive and all have this address
        for change, position, _, _ in batch.changes:
            if type(change) is Event:
                namespace, _, payload, attachments, rooms, _, _ = change
                if (namespace, rooms) != address or position != self._head + 1:
                    index.add_run(self._head, *address, sizes)
                    address, sizes = (namespace, rooms), []
                size_bytes = change.size_bytes if attachments else len(payload)
                sizes.append(size_bytes)
                total_bytes += size_bytes
                self._head = position
            elif type(change) is Pruned:
                index.add_run(self._head, *address, sizes)
                sizes = []
                self.pruned_through = max(self.pruned_through, min(change.through, position))
                index.drop_through(self.pruned_through)
                self._altered.drop_through(self.pruned_through)
        index.add_run(self._head, *address, sizes)
        for chunk in chunks:
            index.mark_written(chunk)
        index.evict()
        return total_bytes

    def _report(self, altered: Sequence[AlteredRange]) -> None:
        """Write a log line about changed rows, at most once in ten seconds."""
        now = self._loop.time()
        if now >= self._report_after:
            self._report_after = now + _REPORT_SECONDS
            first, last = min(one.first for one in altered), max(one.last for one in altered)
            logger.warning(
                "Another program has changed or deleted events between %s and %s through SQL. A client that "
                "missed one of them gets a new session.",
                first,
                last,
            )

    async def missed(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed:
        ranges = audience_ranges(namespace, memberships, max(after, self.pruned_through), through)
        sequences: list[int] = []
        size_bytes, left = 0, at_most
        async with aclosing(self._segments(ranges)) as parts:
            async for segments_ in parts:
                found = find_missed(segments_, ranges, left)
                sequences += found.sequences
                size_bytes += found.size_bytes
                if left is not None and (left := left - len(found.sequences)) < 0:
                    break
        return Missed(tuple(sequences), size_bytes)

    async def summarise_missed(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        max_events: int,
        max_bytes: int,
    ) -> MissedSummary:
        ranges = audience_ranges(namespace, memberships, max(after, self.pruned_through), through)
        found, on_disk = self._index.overlapping(ranges)
        if on_disk:
            found = [segment async for segments_ in self._segments(ranges) for segment in segments_]
        summary = self._summaries.summarise(found, ranges, through, max_events, max_bytes)
        if self._altered.concern(namespace, ranges, found):
            return replace(summary, is_incomplete=True)
        return summary

    async def _segments(self, ranges: Sequence[AudienceRange]) -> AsyncGenerator[list[Segment], None]:
        """Give out the segments that overlap the ranges, oldest first, a few at a time."""
        newest, keys = self._index.overlapping(ranges)
        audiences = {range_.audience for range_ in ranges}
        for start in range(0, len(keys), _SEGMENTS_PER_READ):
            yield await self._read_segments(keys[start : start + _SEGMENTS_PER_READ], audiences)
        yield newest

    def missed_in_memory(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed | None:
        ranges = audience_ranges(namespace, memberships, max(after, self.pruned_through), through)
        found, on_disk = self._index.overlapping(ranges)
        return None if on_disk else find_missed(found, ranges, at_most)
