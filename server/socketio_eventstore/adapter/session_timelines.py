"""The timeline of a session for operators: history and events, also after the session's end."""

from __future__ import annotations

from dataclasses import dataclass

from socketio_eventlog.events import Room
from socketio_eventlog.history import EndedState, HistoryEntry, HistoryKind, SessionHistory
from socketio_eventlog.snapshot import Membership
from socketio_eventstore.adapter.feeds import cursor
from socketio_eventstore.adapter.session_views import MISSED_COUNTED, SessionDetails
from socketio_eventstore.adapter.session_words import sentence
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.session_events import (
    EventState,
    SessionReach,
    left_at,
    memberships_of,
    page_before,
)


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """An entry of a timeline. Fields of other kinds are None."""

    kind: HistoryKind
    at: float
    """Wall-clock time in seconds since 1970."""
    offset: str | None
    """The offset of the last event before the entry."""
    text: str
    """A sentence for people."""
    reason: str | None
    room: Room | None = None
    node: str | None = None
    """The node to which the client connected."""
    identity: str | None = None
    sid: str | None = None
    """The other session: the new session of ``replaced``, the former session of ``opened``."""
    missed: int | None = None
    """An upper bound of the missed events at the recovery."""


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """An event of the session, derived from memberships and the log."""

    offset: str
    event: str
    emitted_at: float
    """Wall-clock time in seconds since 1970."""
    rooms: tuple[Room, ...] | None
    """The addressed rooms; None is the whole namespace."""
    state: EventState


@dataclass(frozen=True, slots=True)
class Timeline:
    """A page of a session's history, and a page of the session's events."""

    entries: list[TimelineEntry]
    """The newest entry is last."""
    following: int | None
    """The number behind which the next page of entries begins; None on the last page."""
    is_complete: bool
    """Whether the history goes back to the opening of the session."""
    events: list[SessionEvent]
    """The newest entry is last."""
    events_older: str | None
    """The end of the previous page of events; None without a previous page."""


async def timeline(
    runtime: Runtime,
    history: SessionHistory | None,
    reach: SessionReach,
    *,
    after: int,
    before: int | None,
    limit: int,
) -> Timeline:
    """Return the entries behind a number, and the last events below a sequence. Raises StoreError."""
    entries = () if history is None else history.entries
    later = [entry for entry in entries if entry.number > after]
    page = later[:limit]
    found = await page_before(runtime.log, reach, before, limit)
    return Timeline(
        entries=[_shown(runtime, entry) for entry in page],
        following=page[-1].number if len(later) > len(page) else None,
        is_complete=history is not None and history.is_complete,
        events=[
            SessionEvent(
                str(runtime.log.offset_of(one.sequence)),
                one.event.name,
                one.event.emitted_at,
                one.event.rooms,
                reach.state_of(one.sequence),
            )
            for one in found.events
        ],
        events_older=None if found.is_end else cursor(runtime, found.reached),
    )


def reach_of_ended(namespace: str, sid: str, history: SessionHistory, ended: EndedState) -> SessionReach:
    """Return the reach of an ended session."""
    ends = [entry.sequence for entry in history.entries if entry.kind is HistoryKind.ENDED]
    through = ends[-1] if ends else ended.start
    own = [Membership(None, ended.start, None), Membership(sid, ended.start, None)]
    past = [one for one in memberships_of(history.entries, ended.start) if one.through is not None]
    memberships = [*own, *ended.memberships, *past]
    left = left_at(history.entries)
    sent = through if left is None else left
    return SessionReach(namespace, sid, memberships, ended.start, through, ended.confirmed, sent)


async def ended_details(
    runtime: Runtime, history: SessionHistory, ended: EndedState, reach: SessionReach
) -> SessionDetails:
    """Return an ended session, with the client's missed events. Raises StoreError."""
    missed = await runtime.log.missed(
        reach.namespace,
        reach.memberships,
        max(reach.confirmed, reach.after),
        reach.through,
        at_most=MISSED_COUNTED,
    )
    count = len(missed.sequences)
    connections = [entry.kind for entry in history.entries if entry.kind in ("opened", "recovered")]
    joined = tuple(one.room for one in ended.memberships if one.through is None and one.room is not None)
    return SessionDetails(
        namespace=reach.namespace,
        sid=reach.sid,
        state="ended",
        identity=ended.identity,
        rooms=len(joined),
        connected_at=None,
        away_seconds=None,
        remaining_seconds=None,
        joined=joined,
        is_recovered=connections[-1:] == [HistoryKind.RECOVERED],
        confirmed_offset=cursor(runtime, reach.confirmed),
        missed=min(count, MISSED_COUNTED),
        is_missed_complete=count <= MISSED_COUNTED,
    )


def _shown(runtime: Runtime, entry: HistoryEntry) -> TimelineEntry:
    name = str(entry.detail) if entry.detail is not None else None
    kind = entry.kind
    return TimelineEntry(
        kind,
        entry.at,
        cursor(runtime, entry.sequence),
        sentence(entry),
        entry.reason,
        room=entry.detail if kind in (HistoryKind.JOINED, HistoryKind.LEFT) else None,
        node=entry.node,
        identity=name if kind is HistoryKind.BOUND else None,
        sid=name if kind in (HistoryKind.OPENED, HistoryKind.REPLACED) else None,
        missed=entry.detail if kind is HistoryKind.RECOVERED and isinstance(entry.detail, int) else None,
    )
