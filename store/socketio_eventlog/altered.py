"""Events that differ from the emitted ones: changed or deleted through SQL, or lost with a file.

The server cannot send such an event, so a session that has missed such an event is not recovered. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Final, NamedTuple

from socketio_eventlog.segment import AudienceRange, Segment

MAX_RANGES: Final = 1000
"""The most ranges in memory. Further ranges are merged with neighbours, and fewer sessions recover."""


class AlteredRange(NamedTuple):
    """A range of the log with changed, deleted or lost events."""

    namespace: str | None
    """The namespace of the events; None for an unknown namespace."""
    first: int
    last: int
    """The last sequence of the range, included."""
    is_audience_lost: bool
    """Whether the audience of the events is unknown: the range then concerns every session."""


class AlteredRanges:
    """The altered ranges of the log, in memory."""

    def __init__(self, ranges: Iterable[AlteredRange]) -> None:
        self._ranges: list[AlteredRange] = []
        self.add(ranges)

    def add(self, ranges: Iterable[AlteredRange]) -> None:
        """Add ranges, in any order."""
        self._ranges += ranges
        while len(self._ranges) > MAX_RANGES:
            self._ranges.sort(key=lambda range_: range_.first)
            pairs = zip_longest(self._ranges[::2], self._ranges[1::2])
            self._ranges = [one if other is None else _merge(one, other) for one, other in pairs]

    def __iter__(self) -> Iterator[AlteredRange]:
        return iter(self._ranges)

    def beyond(self, others: AlteredRanges) -> list[AlteredRange]:
        """Return the ranges that are not among the others."""
        known = set(others._ranges)
        return [range_ for range_ in self._ranges if range_ not in known]

    def drop_through(self, sequence: int) -> None:
        """Forget the ranges whose events are all pruned."""
        if self._ranges:
            self._ranges = [range_ for range_ in self._ranges if range_.last > sequence]

    def concern(self, namespace: str, ranges: Sequence[AudienceRange], segments: Sequence[Segment]) -> bool:
        """Whether an altered event is among the events in the ranges.

        ``segments``: the segments that overlap the ranges. A segment names the audience of an event also
        after the event's row was deleted.
        """
        return bool(self._ranges) and any(
            range_.is_audience_lost or _has_event(segments, clipped)
            for range_ in self._ranges
            if range_.namespace in (None, namespace) and (clipped := list(_clip(ranges, range_)))
        )


def _merge(one: AlteredRange, other: AlteredRange) -> AlteredRange:
    return AlteredRange(
        one.namespace if one.namespace == other.namespace else None,
        min(one.first, other.first),
        max(one.last, other.last),
        one.is_audience_lost or other.is_audience_lost,
    )


def _clip(ranges: Iterable[AudienceRange], altered: AlteredRange) -> Iterator[AudienceRange]:
    for range_ in ranges:
        first, last = max(range_.first, altered.first), min(range_.last, altered.last)
        if first <= last:
            yield AudienceRange(range_.audience, first, last)


def _has_event(segments: Iterable[Segment], ranges: Sequence[AudienceRange]) -> bool:
    first, last = min(range_.first for range_ in ranges), max(range_.last for range_ in ranges)
    return any(
        segment.part(range_) is not None
        for segment in segments
        if segment.first <= last and first < segment.end
        for range_ in ranges
    )
