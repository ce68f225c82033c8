"""Stored events that official clients cannot read: rows older than the rules of ``emit``.

An earlier version, or an earlier configuration of the server, may have stored such events. The check covers
only the missed events of returning clients, once for each segment.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

from socketio_eventlog.log import Log
from socketio_eventstore.core.packets import PacketEncoder

logger = logging.getLogger(__name__)

SEGMENT_EVENTS: Final = 4096
"""Events in a check: the first client with such a missed event waits for the whole check."""


class OldEvents:
    """Checks the events of earlier nodes; ``emit`` has checked the events of this node."""

    def __init__(self, log: Log, encoder: PacketEncoder) -> None:
        """``log``: just opened, so the head is the last event of earlier nodes."""
        self._log = log
        self._encoder = encoder
        self.through = log.head
        """The sequence of the last of these events."""
        self._checked: set[int] = set()
        self._unreadable: list[int] = []
        self._checking = asyncio.Lock()

    async def unreadable(self, ranges: Sequence[tuple[int, int]]) -> list[int]:
        """Return the sequences of unreadable events in the ranges (ascending)."""
        if not ranges or ranges[0][0] > self.through:
            return []
        old = [(first, min(last, self.through)) for first, last in ranges if first <= self.through]
        segments = {
            segment
            for first, last in old
            for segment in range(first // SEGMENT_EVENTS, last // SEGMENT_EVENTS + 1)
        }
        if not segments <= self._checked:
            async with self._checking:
                for segment in sorted(segments - self._checked):
                    await self._check(segment)
        unreadable = self._unreadable
        return [
            sequence
            for first, last in (old if unreadable else ())
            for sequence in unreadable[bisect_left(unreadable, first) : bisect_right(unreadable, last)]
        ]

    async def replaced(self, sequence: int) -> None:
        """Take note of an event's replacement by a readable event.

        A running check may have read the former event, so the call waits for the end of the check.
        """
        async with self._checking:
            self._unreadable = [one for one in self._unreadable if one != sequence]

    async def _check(self, segment: int) -> None:
        first = segment * SEGMENT_EVENTS
        last = min(first + SEGMENT_EVENTS - 1, self.through)
        found = await self._log.unreadable(first, last, self._encoder.is_readable)
        self._checked.add(segment)
        if found:
            self._unreadable = sorted([*self._unreadable, *found])
            logger.warning(
                "%s stored events cannot be read by official clients and are not sent; the first has offset "
                "%s. A client that missed one gets a new session.",
                len(found),
                self._log.offset_of(found[0]),
            )
