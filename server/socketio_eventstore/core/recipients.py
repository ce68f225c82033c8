"""The recipients of an event, with a receipt each: confirmed, sent or missed.

Nothing records single deliveries. The answer is derived: from the memberships of the sessions, as a recovery
derives the missed events, and from the confirmed position of each session. Ended sessions are not among the
recipients, nor sessions that have left the room and confirmed the event: their memberships are deleted.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final

from socketio_eventlog.events import LoggedEvent, Room
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.nodes import Nodes
from socketio_eventstore.core.receipts import confirmed
from socketio_eventstore.core.sessions import Session, State

SLICE: Final = 500
"""Sessions to check before the event loop serves others."""


class Receipt(StrEnum):
    """The state of an event for a recipient."""

    CONFIRMED = "confirmed"
    """The client has answered a heartbeat behind the event, or has named a later offset."""
    SENT = "sent"
    """The event was written to the connected client; the next heartbeat confirms the event.

    A client of another node counts as sent when not away, although a replay may not have reached the event.
    """
    MISSED = "missed"
    """The client is away, or in a replay before the event."""


@dataclass(frozen=True, slots=True)
class Recipients:
    """A page of the recipients of an event, and the number of all recipients."""

    counts: Counter[Receipt]
    page: list[tuple[Session, Receipt]]
    """In the order of the sids."""
    next: str | None
    """The sid behind which the next page begins; None on the last page."""


def receipt(session: Session, logged: LoggedEvent, nodes: Nodes) -> Receipt | None:
    """Return the receipt of an event by a session; None unless the event is for the session."""
    sequence = logged.sequence
    if session.state is State.ENDED or not session.receives(logged.event, sequence):
        return None
    if confirmed(session, nodes) >= sequence:
        return Receipt.CONFIRMED
    if session.state in (State.LIVE, State.ELSEWHERE):
        return Receipt.SENT
    is_replayed = session.state is State.REPLAYING and session.current.sent >= sequence
    return Receipt.SENT if is_replayed else Receipt.MISSED


async def recipients(
    context: Context, logged: LoggedEvent, wanted: Receipt | None, after: str | None, limit: int
) -> Recipients:
    """Return the recipients behind a sid, with a given receipt or any, and the counts of all receipts."""
    counts: Counter[Receipt] = Counter()
    page: list[tuple[str, Session, Receipt]] = []
    sessions = iter(list(context.registry.members(logged.event.namespace, None)))
    while part := list(islice(sessions, SLICE)):
        for session in _candidates(part, logged.event.rooms):
            known = receipt(session, logged, context.nodes)
            if known is None:
                continue
            counts[known] += 1
            if wanted in (None, known) and (after is None or session.sid > after):
                page.append((session.sid, session, known))
        page = heapq.nsmallest(limit, page, key=lambda entry: entry[0])
        await asyncio.sleep(0)
    following = page[-1][0] if len(page) == limit else None
    return Recipients(counts, [(session, known) for _, session, known in page], following)


def _candidates(sessions: Iterable[Session], rooms: Sequence[Room] | None) -> Iterable[Session]:
    """Return the possible recipients, in a fifth of the time of a check of each session."""
    if rooms is None:
        return sessions
    wanted = set(rooms)
    return [
        session
        for session in sessions
        if session.left or session.sid in wanted or not wanted.isdisjoint(session.joined)
    ]
