"""The newest events, in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from socketio_eventlog.events import Event
from socketio_eventstore.core.frames import Frames


class RecentEvents:
    """The newest events: a session that has missed only these needs no read from disk."""

    def __init__(self, position: int, limit_bytes: int, limit_events: int = 4096) -> None:
        self.position = position
        """The sequence of the last event that has taken effect."""
        self.begins_after = position
        """Every event after this sequence is here."""
        self._limit_bytes = limit_bytes
        self._limit_events = limit_events
        self._events: deque[tuple[int, Event, Frames, int]] = deque()
        """Each with its weight in bytes."""
        self._size_bytes = 0
        self.replaced = 0
        """The number of events that were replaced; the position does not tell."""
        self.total = 0
        """The number of events since the start."""

    def append(self, sequence: int, event: Event, frames: Frames, weight_bytes: int | None = None) -> None:
        """Add the newest event with the frames that were sent, and drop the oldest beyond the limits.

        ``weight_bytes`` is the event's, if known.
        """
        if weight_bytes is None:
            weight_bytes = event.weight_bytes
        self._events.append((sequence, event, frames, weight_bytes))
        self._size_bytes += weight_bytes
        self.total += 1
        while self._size_bytes > self._limit_bytes or len(self._events) > self._limit_events:
            self.begins_after, _, _, weight_bytes = self._events.popleft()
            self._size_bytes -= weight_bytes

    def replace(self, sequence: int, event: Event, frames: Frames) -> None:
        """Put another event in the place of one, if it is here."""
        for place, (found, _, _, weight_bytes) in enumerate(self._events):
            if found == sequence:
                self._events[place] = (sequence, event, frames, event.weight_bytes)
                self._size_bytes += event.weight_bytes - weight_bytes
                self.replaced += 1
                return

    def find(self, sequence: int) -> Event | None:
        """Return the event with a sequence, None if it is not here."""
        return next((event for found, event, _, _ in self._events if found == sequence), None)

    def clear(self) -> None:
        """Forget all events, since one of them is missing: replays read the store."""
        self._events.clear()
        self._size_bytes = 0
        self.begins_after = self.position

    def after(self, sequence: int) -> Iterator[tuple[int, Event, Frames, int]]:
        """Iterate over the events beyond a sequence, oldest first: each with its frames and its weight.

        The sequence must be at least ``begins_after``.
        """
        newest_first = reversed(self._events)
        count = 0
        for found, _, _, _ in newest_first:
            if found <= sequence:
                break
            count += 1
        return islice(self._events, len(self._events) - count, None)
