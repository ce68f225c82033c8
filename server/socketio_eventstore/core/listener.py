"""The calls of the core to the application about sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from socketio_eventlog.changes import Answered, Asked
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.sessions import ClientConnection, Session

if TYPE_CHECKING:
    import asyncio


class SessionListener(Protocol):
    """The application's handlers for the core; the calls do not wait."""

    def superseded(self, session: Session, connection: ClientConnection) -> None:
        """Call the disconnect handler: an accepted connection to this node lost the session to a claim."""
        ...

    def ended(
        self, session: Session, connection: ClientConnection | None, reason: SessionEnd, *, was_accepted: bool
    ) -> asyncio.Future[None] | None:
        """Take note of the end of a session, on any node.

        ``connection``: the session's connection until now; None without a connection. Return a future for the
        end of the disconnect handler, if a handler is called. The handler counts in
        ``Session.running_disconnect_handlers`` from here on.
        """
        ...

    def claimed_elsewhere(self, session: Session, claim: int) -> None:
        """Append Departed when the handlers of a session have ended on this node.

        Another node has claimed the session, and waits. ``claim``: the last claim of this node.
        """
        ...

    def departed(self, session: Session) -> None:
        """Take note of the end of another node's handlers of a session."""
        ...

    def asked(self, node: str, asked: Asked) -> Callable[[Session], Frames]:
        """Return the function that makes packets for an event of another node.

        An acknowledgement of a packet is appended as Answered.
        """
        ...

    def answered(self, answered: Answered) -> None:
        """Call the callback of this node for an acknowledgement from another node."""
        ...

    def lost(self, reason: str) -> None:
        """Close all transports, and join the log anew: the life of this node is over."""
        ...

    async def expired(self, session: Session) -> None:
        """Call the handler of ``session_expired`` and end the session.

        After an exception a later sweep tries again.
        """
        ...
