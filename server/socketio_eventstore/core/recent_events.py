"""The newest events, in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

from socketio_eventlog.events import Event
from socketio_eventstore.core.frames import Frames

RecentEvent: TypeAlias = tuple[int, Event, Frames | None, int]
"""Sequence, event, the frames if they were made, and the weight in bytes."""


class RecentEvents:
    """The newest events: a session that has missed only recent events needs no read from disk."""

    def __init__(
        self,
        position: int,
        limit_bytes: int,
        limit_events: int = 4096,
        *,
        encode: Callable[[int, Event], Frames] | None = None,
    ) -> None:
        """``encode`` makes the frames of an event without recipients here."""
        self.position = position
        """The sequence of the last event in effect."""
        self.begins_after = position
        """Every event after this sequence is in memory."""
        self._limit_bytes = limit_bytes
        self._limit_events = limit_events
        self._encode = encode
        self._events: deque[RecentEvent] = deque()
        self._made: dict[int, Frames] = {}
        """The frames made later, by the sequences of the events, shared by all sessions."""
        self._size_bytes = 0
        self.replaced = 0
        """The number of replaced events, since a replacement does not change the position."""
        self.total = 0
        """The number of events since the start."""

    def append(
        self, sequence: int, event: Event, frames: Frames | None, weight_bytes: int | None = None
    ) -> None:
        """Add the newest event with the sent frames, and drop the oldest events beyond the limits.

        ``weight_bytes`` is the weight of the event, if known.
        """
        if weight_bytes is None:
            weight_bytes = event.weight_bytes
        self._events.append((sequence, event, frames, weight_bytes))
        self.total += 1
        self._drop_oldest(self._size_bytes + weight_bytes)

    def extend(self, events: Sequence[RecentEvent]) -> None:
        """Add the newest events of a batch, without recipients here; nothing for no events."""
        if not events:
            return
        self.position = events[-1][0]
        self._events.extend(events)
        self.total += len(events)
        self._drop_oldest(self._size_bytes + sum([weight_bytes for _, _, _, weight_bytes in events]))

    def _drop_oldest(self, size_bytes: int) -> None:
        events = self._events
        while size_bytes > self._limit_bytes or len(events) > self._limit_events:
            self.begins_after, _, frames, weight_bytes = events.popleft()
            size_bytes -= weight_bytes
            if frames is None:
                self._made.pop(self.begins_after, None)
        self._size_bytes = size_bytes

    def frames_of(self, recent: RecentEvent) -> Frames:
        """Return the frames of a recent event. Raises the errors of ``encode``."""
        sequence, event, frames, _ = recent
        if frames is None:
            frames = self._made.get(sequence)
        if frames is not None:
            return frames
        if self._encode is None:
            raise ValueError("there are no frames")
        frames = self._made[sequence] = self._encode(sequence, event)
        return frames

    def replace(self, sequence: int, event: Event, frames: Frames) -> None:
        """Replace an event in memory, if present."""
        for place, (found, _, _, weight_bytes) in enumerate(self._events):
            if found == sequence:
                self._events[place] = (sequence, event, frames, event.weight_bytes)
                self._made.pop(sequence, None)
                self._size_bytes += event.weight_bytes - weight_bytes
                self.replaced += 1
                return

    def find(self, sequence: int) -> Event | None:
        """Return the event with a sequence; None for an event not in memory."""
        return next((event for found, event, _, _ in self._events if found == sequence), None)

    def clear(self) -> None:
        """Forget all events, since an event is missing: replays read the store."""
        self._events.clear()
        self._made.clear()
        self._size_bytes = 0
        self.begins_after = self.position

    def after(self, sequence: int) -> Iterator[RecentEvent]:
        """Iterate over the events beyond a sequence, oldest first.

        The sequence must be at least ``begins_after``.
        """
        newest_first = reversed(self._events)
        count = 0
        for found, _, _, _ in newest_first:
            if found <= sequence:
                break
            count += 1
        return islice(self._events, len(self._events) - count, None)
