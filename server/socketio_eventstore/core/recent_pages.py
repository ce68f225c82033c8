"""The missed recent events of sessions, shared by all sessions with the same missed events."""

from __future__ import annotations

from socketio_eventlog.events import Room
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.recent_events import RecentEvents
from socketio_eventstore.core.sessions import Session

MAX_KEPT_BYTES = 4_000_000
"""Bytes of kept pages; beyond the limit all pages are dropped."""

Page = tuple[int, Frames, int]
"""The sequence of the first event, the joined frames of all events, and the number of events."""
ADDRESS_BYTES = 64
"""The memory of an addressed room, beside the name."""


class RecentPages:
    """Finds the missed recent events of a session.

    The clients of a returning crowd have missed the same events of the same rooms. Between two events,
    sessions with the same cursor and the same addressed rooms share a page.
    """

    def __init__(self, recent_events: RecentEvents) -> None:
        self._recent_events = recent_events
        self._state = (-1, 0)
        """The position to which everything below belongs, and the number of replaced events."""
        self._addressed: dict[tuple[str, int], set[Room]] = {}
        """The rooms and sids addressed by the events of a namespace after a cursor."""
        self._pages: dict[tuple[str, int, frozenset[Room]], Page | None] = {}
        self._kept_bytes = 0

    def page(self, session: Session, after: int) -> Page | None:
        """Return the events after a sequence that a session receives; None for none.

        The sequence must be at least ``RecentEvents.begins_after``. Raises as ``RecentEvents.frames_of``.
        """
        recent = self._recent_events
        if self._state != (recent.position, recent.replaced) or self._kept_bytes > MAX_KEPT_BYTES:
            self._forget()
        key = (session.namespace, after)
        addressed = self._addressed.get(key)
        if addressed is None:
            addressed = self._addressed[key] = self._find_addressed(*key)
        joined = session.joined
        rooms = frozenset(joined.keys() & addressed)
        begin = max([session.start.sequence, *map(joined.__getitem__, rooms)])
        if begin > after or session.left or session.sid in addressed:
            return self._make(session, after)
        shared = (*key, rooms)
        if shared not in self._pages:
            page = self._pages[shared] = self._make(session, after)
            self._kept_bytes += page[1].size_bytes if page is not None else 0
        return self._pages[shared]

    def _forget(self) -> None:
        self._state = (self._recent_events.position, self._recent_events.replaced)
        self._addressed.clear()
        self._pages.clear()
        self._kept_bytes = 0

    def _find_addressed(self, namespace: str, after: int) -> set[Room]:
        found: set[Room] = set()
        for _, event, *_ in self._recent_events.after(after):
            if event.namespace == namespace:
                found.update(event.rooms or (), event.skip)
        self._kept_bytes += ADDRESS_BYTES * len(found)
        return found

    def _make(self, session: Session, after: int) -> Page | None:
        recent = self._recent_events
        received = [one for one in recent.after(after) if session.receives(one[1], one[0])]
        if not received:
            return None
        return received[0][0], Frames.join(list(map(recent.frames_of, received))), len(received)
