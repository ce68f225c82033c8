"""The effects of changes of rooms, data and identities.

After the end of a session, the disconnect handlers may still change the session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from socketio_eventlog.changes import Batch, Change, Committed
from socketio_eventlog.session_changes import (
    DataSaved,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionBound,
    TokenAccepted,
)
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.sessions import Session

Effect = Callable[[Context, Batch, Committed], object]


def _known(context: Context, change: Any) -> Session | None:
    """The session of a change by handlers; after its end, until the disconnect handlers have ended."""
    return context.registry.get(change.namespace, change.sid)


def joined(context: Context, batch: Batch, committed: Committed) -> None:
    """Put the session into a room for the events after the change."""
    change = committed.change
    assert isinstance(change, RoomJoined)
    if (session := _known(context, change)) is not None:
        context.registry.enter(session, change.room, committed.position)


def left(context: Context, batch: Batch, committed: Committed) -> None:
    """Take the session out of a room; the events before the change are still for the session."""
    change = committed.change
    assert isinstance(change, RoomLeft)
    if (session := _known(context, change)) is not None:
        through = committed.position if change.through is None else change.through
        context.registry.leave(session, change.room, through)


def closed(context: Context, batch: Batch, committed: Committed) -> None:
    """Take all sessions out of a room."""
    change = committed.change
    assert isinstance(change, RoomClosed)
    for session in list(context.registry.rooms.get((change.namespace, change.room), {})):
        context.registry.leave(session, change.room, committed.position)


def saved(context: Context, batch: Batch, committed: Committed) -> None:
    """Replace the data of the session."""
    change = committed.change
    assert isinstance(change, DataSaved)
    if (session := _known(context, change)) is not None:
        session.data = change.data


def bound(context: Context, batch: Batch, committed: Committed) -> None:
    """Bind the session to an identity."""
    change = committed.change
    assert isinstance(change, SessionBound)
    if (session := _known(context, change)) is not None:
        context.registry.bind(session, change.identity)


def token_accepted(context: Context, batch: Batch, committed: Committed) -> None:
    """Note the end and the rooms of the session's token."""
    change = committed.change
    assert isinstance(change, TokenAccepted)
    if (session := _known(context, change)) is not None:
        session.token_expires_at, session.token_rooms = change.expires_at, change.rooms


MEMBERSHIP_EFFECTS: Final[dict[type[Change], Effect]] = {
    RoomJoined: joined,
    RoomLeft: left,
    RoomClosed: closed,
    DataSaved: saved,
    SessionBound: bound,
    TokenAccepted: token_accepted,
}
