"""What a new token changes in a recovered session: its rooms, and where the memberships of lost rooms end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from socketio_eventlog.log import Log
from socketio_eventlog.records import Membership, Room
from socketio_eventstore.adapter.authentication import Token
from socketio_eventstore.core.operations import AcceptToken, JoinRoom, LeaveRoom, SessionOperation
from socketio_eventstore.core.sessions import Session

NEARBY_EVENTS: Final = 256
"""Events before the end of a token whose times are read one by one."""


async def renewal(
    session: Session, token: Token, log: Log, position: int, now: Callable[[], float] = time.time
) -> list[SessionOperation]:
    """Return the changes of a session that the client of a token has claimed and recovers.

    The session leaves the rooms of the former token that the new one lacks. Nothing that was emitted there
    after the end of the former token is for the client, nor anything after ``position``, the log's position
    now. ``now`` returns the wall-clock time in seconds. Raises StoreError.
    """
    kept, changes = set(token.rooms), list[SessionOperation]()
    for room in session.token_rooms or ():
        if room not in kept and room in session.joined:
            through = await _end_of_membership(session, room, log, position, now)
            changes.append(LeaveRoom(session, room, through))
    changes += [JoinRoom(session, room) for room in token.rooms if room not in session.joined]
    if (session.token_expires_at, session.token_rooms) != (token.expires_at, token.rooms):
        changes.append(AcceptToken(session, token.expires_at, token.rooms))
    return changes


async def _end_of_membership(
    session: Session, room: Room, log: Log, position: int, now: Callable[[], float]
) -> int:
    """Return the sequence of the last event in a room from before the end of the former token."""
    joined_after, expires_at = session.joined[room], session.token_expires_at
    if expires_at is None or expires_at >= now():
        return position
    # What lies before the cursor is not sent again, and the decision has bounded the number of the others.
    begin = max(joined_after, session.current.sent)
    missed = await log.missed(session.namespace, [Membership(room, joined_after, None)], begin, position)
    first = await _first_later(log, missed.sequences, expires_at)
    return position if first is None else max(joined_after, first - 1)


async def _first_later(log: Log, sequences: Sequence[int], moment: float) -> int | None:
    """Return the sequence of the first event that was emitted after a moment; None if none was.

    The times of events rise with their sequences, so the search halves the events and reads few of them.
    Publishers that worked at the same time may have their events out of order by a little.
    """
    low, high = 0, len(sequences)
    while low < high:
        middle = (low + high) // 2
        logged = await log.read([sequences[middle]])
        if logged and logged[0].event.emitted_at <= moment:
            low = middle + 1
        else:
            high = middle
    nearby = await log.read(sequences[max(0, low - NEARBY_EVENTS) : low + 1])
    return next((entry.sequence for entry in nearby if entry.event.emitted_at > moment), None)
