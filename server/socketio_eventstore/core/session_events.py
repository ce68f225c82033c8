"""The events of a session, derived from memberships and the log: received, sent, or missed.

The answer needs no stored data of its own. The work for a page is bounded, as for the pages of the log (see
``event_pages``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from socketio_eventlog.events import LoggedEvent
from socketio_eventlog.history import HistoryEntry, HistoryKind
from socketio_eventlog.log import Log
from socketio_eventlog.search import Search
from socketio_eventlog.snapshot import Membership
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.event_pages import MAX_EVENTS, PageLimits
from socketio_eventstore.core.receipts import confirmed
from socketio_eventstore.core.sessions import Session, State

_BEGINS_CONNECTED: Final = (HistoryKind.OPENED, HistoryKind.RECOVERED)
_IS_AWAY: Final = (HistoryKind.AWAY, HistoryKind.REFUSED)


class EventState(StrEnum):
    """The state of an event for the client of a session."""

    RECEIVED = "received"
    """The client is known to have the event."""
    SENT = "sent"
    """The event was written to the client's connection, and no heartbeat has confirmed it."""
    MISSED = "missed"
    """The client was away, or is in a replay before the event."""


@dataclass(frozen=True, slots=True)
class SessionReach:
    """The events for a session, and the position of the client."""

    namespace: str
    sid: str
    memberships: Sequence[Membership]
    after: int
    """The session began behind this sequence."""
    through: int
    """The last sequence of the session, or of the log."""
    confirmed: int
    """The confirmed position: the client has all events up to this sequence."""
    sent: int
    """The events up to this sequence were written to the client's connection."""

    def state_of(self, sequence: int) -> EventState:
        """Return how far an event of the session has come."""
        if sequence <= self.confirmed:
            return EventState.RECEIVED
        return EventState.SENT if sequence <= self.sent else EventState.MISSED


@dataclass(frozen=True, slots=True)
class SessionEvents:
    """A page of the events of a session."""

    events: list[LoggedEvent]
    """Ascending: the newest event is last."""
    reached: int
    """The first sequence of the search; the previous page ends before the sequence."""
    is_end: bool
    """Whether no older event of the session is in the log."""


def reach_of(session: Session, entries: Sequence[HistoryEntry], context: Context) -> SessionReach:
    """Return the reach of a session before its end."""
    start, position = session.start.sequence, context.position
    past = [one for one in memberships_of(entries, start) if one.through is not None]
    if session.state is State.REPLAYING:
        sent = session.current.sent
    elif session.state in (State.LIVE, State.ELSEWHERE):
        sent = position
    else:
        sent = left_at(entries) or 0
    memberships = [*session.memberships(), *past]
    through = confirmed(session, context.nodes)
    return SessionReach(session.namespace, session.sid, memberships, start, position, through, sent)


def memberships_of(entries: Iterable[HistoryEntry], start: int) -> list[Membership]:
    """Return the memberships from the entries of a history; the first memberships may be missing.

    A room without a join among the entries is left out: the beginning of the membership is unknown.
    """
    joined: dict[str | int, int] = {}
    found: list[Membership] = []
    for entry in entries:
        room = entry.detail
        if room is None:
            continue
        if entry.kind is HistoryKind.JOINED:
            joined.setdefault(room, entry.sequence)
        elif entry.kind is HistoryKind.LEFT:
            after = joined.pop(room, None)
            if after is not None and after < entry.sequence:
                found.append(Membership(room, max(after, start), entry.sequence))
    return found + [Membership(room, max(after, start), None) for room, after in joined.items()]


def left_at(entries: Iterable[HistoryEntry]) -> int | None:
    """Return the sequence at which the client went away; None without such an entry."""
    left: int | None = None
    for entry in entries:
        if entry.kind in _BEGINS_CONNECTED:
            left = None
        elif entry.kind in _IS_AWAY and left is None:
            left = entry.sequence
    return left


async def page_before(
    log: Log, reach: SessionReach, before: int | None, limit: int, limits: PageLimits | None = None
) -> SessionEvents:
    """Return the last events of a session below a sequence, None for the last of all. Raises StoreError."""
    limits = limits or PageLimits()
    last = reach.through if before is None else min(before - 1, reach.through)
    first = max(reach.after, log.pruned_through) + 1
    found: list[LoggedEvent] = []
    wanted, size_bytes, searches, windows = min(limit, MAX_EVENTS), limits.size_bytes, limits.searches, 0
    while first <= last and len(found) < wanted and size_bytes > 0 and searches and windows < limits.windows:
        windows += 1
        start = max(first, last - limits.window + 1)
        missed = await log.missed(reach.namespace, reach.memberships, start - 1, last)
        if not missed.sequences:
            last = start - 1
            continue
        searches -= 1
        part = await log.search(
            Search(
                start,
                last,
                newest_first=True,
                max_events=wanted - len(found),
                max_bytes=size_bytes,
                max_rows=limits.rows_per_search,
                namespace=reach.namespace,
                among=missed.sequences,
            )
        )
        size_bytes -= sum(logged.event.size_bytes for logged in part.events)
        found = [*(one for one in part.events if reach.sid not in one.event.skip), *found]
        last = part.reached - 1
    return SessionEvents(found, last + 1, is_end=last < first)
