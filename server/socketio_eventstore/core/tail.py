"""The wait for new events, for readers that follow the log.

Emits must not pay for readers, so nothing is called when an event takes effect: while readers wait, one timer
checks the position for all readers.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Final

from socketio_eventlog.events import Event, LoggedEvent
from socketio_eventlog.log import Log
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.event_pages import MAX_EVENTS, EventFilter, EventPage, EventPages

LOOK_SECONDS: Final = 0.05
MAX_RECENT: Final = 100
"""Events in memory for a reader to check before the event loop serves others."""


class EventsDeleted(Exception):
    """The log has deleted events that the reader has not seen."""


class Tail:
    """The end of the log, for all waiting readers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._grown: asyncio.Future[None] | None = None
        self._seen = 0
        self._waiting = 0
        """The number of waiting readers."""
        self._timer: asyncio.TimerHandle | None = None

    async def beyond(self, sequence: int) -> None:
        """Wait until an event beyond the sequence has taken effect."""
        while self._context.position <= sequence:
            if self._grown is None:
                self._grown = asyncio.get_running_loop().create_future()
                self._seen = self._context.position
                self._look_later()
            self._waiting += 1
            try:
                await asyncio.shield(self._grown)
            finally:
                self._waiting -= 1
                if self._waiting == 0:
                    self._stop()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _stop(self) -> None:
        """Look no more: the last reader has gone."""
        self._grown = None
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        grown = self._grown
        if grown is None:
            return
        if self._context.position > self._seen:
            self._grown = None
            grown.set_result(None)
        else:
            self._look_later()


class Follower:
    """A reader that follows the log, with a position and without events in memory."""

    def __init__(self, context: Context, tail: Tail, wanted: EventFilter, after: int) -> None:
        """Raises EventsDeleted."""
        self._context = context
        self._log: Log = context.log
        self._tail = tail
        self._wanted = wanted
        self._pages = EventPages(context)
        self.reached = after
        """The last sequence of the reader."""
        self._check()

    async def grown(self) -> None:
        """Wait until the log has grown. A cancelled call loses nothing."""
        await self._tail.beyond(self.reached)

    async def next(self) -> list[LoggedEvent]:
        """Return the next events of the filter; perhaps none.

        A cancelled call loses nothing, but the search begins anew. Raises EventsDeleted for a reader slower
        than the retention, StoreError.
        """
        await asyncio.sleep(0)  # events in memory need no wait: others come between two calls
        page = self._recent() or await self._pages.after(self.reached, self._wanted, MAX_EVENTS)
        self._check()
        self.reached = page.reached
        return page.events

    def _recent(self) -> EventPage | None:
        """Return the next events from memory; None for older events."""
        recent = self._context.recent_events
        if self.reached < recent.begins_after:
            return None
        found = [
            LoggedEvent(sequence, event)
            for sequence, event, *_ in islice(recent.after(self.reached), MAX_RECENT)
        ]
        is_end = len(found) < MAX_RECENT
        reached = recent.position if is_end else found[-1].sequence
        fitting = [logged for logged in found if _fits(self._wanted, logged.event)]
        return EventPage(fitting, reached, is_end=is_end)

    def _check(self) -> None:
        if self.reached < self._log.pruned_through:
            raise EventsDeleted


def _fits(wanted: EventFilter, event: Event) -> bool:
    if wanted.namespace not in (None, event.namespace) or wanted.name not in (None, event.name):
        return False
    if wanted.rooms is None:
        return True
    return event.rooms is not None and not set(wanted.rooms).isdisjoint(event.rooms)
