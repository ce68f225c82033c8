"""Pages of the log, for people and programs: some events of a filter, forwards or backwards.

A page has bounds for events, bytes and work. A page may therefore have few events, or none, although there
are more: the end of the page says where to continue. The rooms come from the index, so the cost of a page of
a quiet room depends on the events of the room, not on the length of the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from socketio_eventlog.events import LoggedEvent, Room
from socketio_eventlog.log import Log
from socketio_eventlog.search import Found, Search
from socketio_eventlog.snapshot import Membership
from socketio_eventstore.core.context import Context

MAX_EVENTS: Final = 1000
"""The most events of a page."""


@dataclass(frozen=True, slots=True)
class PageLimits:
    """The bounds of a page, beside the number of events."""

    size_bytes: int = 1_000_000
    """The bytes of a page, unless the only event is larger."""
    rows_per_search: int = 1000
    """The most rows for a job of the reader: replays wait for the job."""
    searches: int = 20
    """Jobs of the reader for one page."""
    window: int = 16_384
    """Sequences in a search of the index."""
    windows: int = 100
    """Searches of the index for one page."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """The events to show; None shows all."""

    namespace: str | None = None
    rooms: tuple[Room, ...] | None = None
    """Events for any of the rooms, in the namespace."""
    name: str | None = None
    emitted_from: float | None = None
    """Events emitted at this time or later, in seconds since 1970."""
    emitted_before: float | None = None
    """Events emitted before this time, in seconds since 1970."""
    text: str | None = None
    """Events with the text in the payload, in the form of JSON."""

    def __post_init__(self) -> None:
        if self.rooms is not None and self.namespace is None:
            raise ValueError("a room belongs to a namespace")


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some events."""

    events: list[LoggedEvent]
    """Ascending: the newest is the last."""
    reached: int
    """The last sequence of the search; the next page continues beyond the sequence."""
    is_end: bool
    """Whether the page has reached the end or the beginning of the log."""


class EventPages:
    """Reads pages of a log, up to the position in effect."""

    def __init__(self, context: Context, limits: PageLimits | None = None) -> None:
        self._context = context
        self._limits = limits or PageLimits()
        self._log: Log = context.log

    async def before(
        self, before: int | None, wanted: EventFilter, limit: int, after: int = 0, *, thorough: bool = False
    ) -> EventPage:
        """Return the last events below a sequence, None for the last of all, and above ``after``.

        With ``thorough`` the work is not bounded: fewer than ``limit`` events are all events, unless the page
        is full. Raises StoreError.
        """
        position = self._context.position
        last = position if before is None else min(before - 1, position)
        first = max(after, self._log.pruned_through) + 1
        found: list[LoggedEvent] = []
        bounds = _Bounds(limit, self._limits, thorough=thorough)
        while first <= last and bounds.are_open:
            start = first if wanted.rooms is None else max(first, last - self._limits.window + 1)
            part = await self._search(start, last, wanted, bounds, newest_first=True)
            found = [*part.events, *found]
            last = part.reached - 1
        return EventPage(found, last + 1, is_end=last < first)

    async def after(
        self,
        after: int,
        wanted: EventFilter,
        limit: int,
        before: int | None = None,
        *,
        thorough: bool = False,
    ) -> EventPage:
        """Return the first events above a sequence, and below ``before``. Raises StoreError."""
        position = self._context.position
        last = position if before is None else min(before - 1, position)
        first = max(after, self._log.pruned_through) + 1
        found: list[LoggedEvent] = []
        bounds = _Bounds(limit, self._limits, thorough=thorough)
        while first <= last and bounds.are_open:
            stop = last if wanted.rooms is None else min(last, first + self._limits.window - 1)
            part = await self._search(first, stop, wanted, bounds, newest_first=False)
            found += part.events
            first = part.reached + 1
        return EventPage(found, max(first - 1, after), is_end=first > last)

    async def _search(
        self, first: int, last: int, wanted: EventFilter, bounds: _Bounds, *, newest_first: bool
    ) -> Found:
        among: Sequence[int] | None = None
        if wanted.rooms is not None and wanted.namespace is not None:
            memberships = [Membership(room, first - 1, last) for room in wanted.rooms]
            among = (await self._log.missed(wanted.namespace, memberships, first - 1, last)).sequences
            bounds.windows -= 1
            if not among:
                return Found([], first if newest_first else last)
        bounds.searches -= 1
        question = Search(
            first,
            last,
            newest_first=newest_first,
            max_events=bounds.events,
            max_bytes=bounds.size_bytes,
            max_rows=self._limits.rows_per_search,
            namespace=wanted.namespace,
            name=wanted.name,
            among=among,
            emitted_from=wanted.emitted_from,
            emitted_before=wanted.emitted_before,
            text=wanted.text,
        )
        found = await self._log.search(question)
        bounds.take(found)
        return found


class _Bounds:
    """The rest of the bounds of a page."""

    def __init__(self, limit: int, limits: PageLimits, *, thorough: bool) -> None:
        self.events = min(limit, MAX_EVENTS)
        self.size_bytes = limits.size_bytes
        self.searches = limits.searches
        self.windows = limits.windows
        self._is_thorough = thorough

    @property
    def are_open(self) -> bool:
        """Whether the page may go on."""
        has_work_left = self._is_thorough or (self.searches > 0 and self.windows > 0)
        return self.events > 0 and self.size_bytes > 0 and has_work_left

    def take(self, found: Found) -> None:
        """Take note of found events."""
        self.events -= len(found.events)
        self.size_bytes -= sum(logged.event.size_bytes for logged in found.events)
