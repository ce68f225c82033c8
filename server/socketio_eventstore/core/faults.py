"""Faults of the server between a commit and its effect: no client stays connected without the change.

The change is in the log; only the effect on this node failed. A client that stayed connected would never get
the event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from socketio_eventlog.changes import Committed
from socketio_eventlog.events import Event
from socketio_eventlog.session_changes import RoomClosed, SessionEnded
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.core.sessions import ClientConnection, Session


class Faults:
    """Ends the connections or sessions that a change did not reach, and logs the fault.

    After an event, the connections end: the clients come back for the event. After another change, the
    sessions end: their state on this node is wrong, and the clients get new sessions.
    """

    def __init__(
        self, context: Context, failures: RepeatedFailures, end_session: Callable[[Session], None]
    ) -> None:
        """``end_session`` appends the end of a session to the log."""
        self._context = context
        self._failures = failures
        self._end_session = end_session

    def after(self, committed: Sequence[Committed], error: Exception) -> str | None:
        """Act on an exception in the effects of changes.

        Return the result for the submitter: the offset when one of the changes is an event.
        """
        text = f"A change is stored and could not take effect; its clients reconnect. {_named(committed)}"
        self._failures.failed((type(committed[0].change), type(error)), text, error=error)
        context, offset = self._context, None
        for one in committed:
            if type(one.change) is Event:
                context.recent_events.position = one.position
                offset = context.offset
                for connection in context.registry.recipients(
                    one.change.namespace, one.change.rooms, one.change.skip
                ):
                    _abort(connection)
            else:
                self._end_sessions(one.change)
        context.recent_events.clear()  # the recent events lack the event: replays read the store
        return offset

    def _end_sessions(self, change: Any) -> None:
        for session in list(self._concerned(change)):
            if (connection := session.current.connection) is not None:
                _abort(connection)
            if isinstance(change, SessionEnded):  # the end is in the log already
                self._context.registry.remove(session)
            else:
                self._end_session(session)

    def _concerned(self, change: Any) -> Iterable[Session]:
        registry = self._context.registry
        if isinstance(change, RoomClosed):
            return registry.members(change.namespace, (change.room,))
        if (identity := getattr(change, "identity", None)) is not None and not hasattr(change, "sid"):
            return registry.of_identity(identity)
        session = registry.get(getattr(change, "namespace", ""), getattr(change, "sid", None))
        return () if session is None else (session,)


def _abort(connection: ClientConnection) -> None:
    connection.abort("a change could not take effect on this server")


def _named(committed: Sequence[Committed]) -> str:
    """The kinds and positions of changes, without the payloads of events."""
    return ", ".join(f"{type(one.change).__name__} at {one.position}" for one in committed[:10])
