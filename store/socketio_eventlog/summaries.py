"""The summaries of missed events, shared by all clients with the same missed events. No I/O.

The clients of a returning crowd need the same summary: all have the same rooms, and the room of a client's
own sid has no events.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from socketio_eventlog.events import MissedSummary
from socketio_eventlog.missed_summary import summarise
from socketio_eventlog.segment import Audience, AudienceRange, Segment

_AUDIENCE = attrgetter("audience")
KEPT_RANGES = 10_000
"""The most rooms in the kept questions."""


class Summaries:
    """The summaries up to a sequence."""

    def __init__(self) -> None:
        self._through = -1
        self._kept: dict[object, MissedSummary] = {}
        self._kept_ranges = 0

    def summarise(
        self,
        segments: Sequence[Segment],
        ranges: Sequence[AudienceRange],
        through: int,
        max_events: int,
        max_bytes: int,
    ) -> MissedSummary:
        """Summarise as ``missed_summary`` does; no range ends after ``through``."""
        if self._through != through or self._kept_ranges >= KEPT_RANGES:
            self._through, self._kept_ranges = through, 0
            self._kept.clear()
        audiences, addressed = set(map(_AUDIENCE, ranges)), set[Audience]()
        for segment in segments:
            addressed |= segment.lists.keys() & audiences
        found = tuple([range_ for range_ in ranges if range_.audience in addressed])
        key = found, max_events, max_bytes
        summary = self._kept.get(key)
        if summary is None:
            summary = self._kept[key] = summarise(segments, found, max_events, max_bytes)
            self._kept_ranges += 1 + len(found)
        return summary
