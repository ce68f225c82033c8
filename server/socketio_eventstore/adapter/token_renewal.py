"""The changes of a new token in a recovered session: rooms, and the ends of memberships in lost rooms."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from socketio_eventlog.events import Room
from socketio_eventlog.log import Log
from socketio_eventlog.snapshot import Membership
from socketio_eventstore.adapter.authentication import Token
from socketio_eventstore.core.operations import AcceptToken, JoinRoom, LeaveRoom, SessionOperation
from socketio_eventstore.core.sessions import Session


async def renewal(
    session: Session, token: Token, log: Log, position: int, now: Callable[[], float] = time.time
) -> list[SessionOperation]:
    """Return the changes of a claimed session for the client's new token.

    The session leaves the rooms that only the former token names. Events emitted there after the end of the
    former token are not for the client, nor are events after ``position``, the log's position now. ``now``
    returns the wall-clock time in seconds. Raises StoreError.
    """
    kept, joined = set(token.rooms), session.joined
    lost = [room for room in session.token_rooms or () if room not in kept and room in joined]
    ends = await _ends_of_memberships(session, lost, log, position, now) if lost else {}
    changes: list[SessionOperation] = [LeaveRoom(session, room, through) for room, through in ends.items()]
    changes += [JoinRoom(session, room) for room in token.rooms if room not in joined]
    if (session.token_expires_at, session.token_rooms) != (token.expires_at, token.rooms):
        changes.append(AcceptToken(session, token.expires_at, token.rooms))
    return changes


async def _ends_of_memberships(
    session: Session, rooms: Sequence[Room], log: Log, position: int, now: Callable[[], float]
) -> dict[Room, int]:
    """Return the sequence of the last event in each room from before the end of the former token.

    Simultaneous publishers may have events slightly out of order. The first later event counts, so no event
    from after the end is sent.
    """
    expires_at, joined = session.token_expires_at, dict(session.joined)
    if expires_at is None or expires_at >= now():
        return dict.fromkeys(rooms, position)
    missed: dict[Room, Sequence[int]] = {}
    for room in rooms:
        # Events before the cursor are not sent again, and the decision has bounded the number of other
        # events.
        begin, membership = max(joined[room], session.current.sent), Membership(room, joined[room], None)
        missed[room] = (await log.missed(session.namespace, [membership], begin, position)).sequences
    times = dict(await log.emission_times(sorted(set().union(*missed.values()))))
    ends: dict[Room, int] = {}
    for room, sequences in missed.items():
        first = next((one for one in sequences if times.get(one, expires_at) > expires_at), None)
        ends[room] = position if first is None else max(joined[room], first - 1)
    return ends
