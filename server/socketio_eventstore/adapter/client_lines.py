"""The log lines about connections and disconnections of clients; bounded, for many clients in a second.

A line has the ids of the session and of the request that opened the connection. A line has no data from a
client: no private id, no auth, no cookie.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from socketio_eventstore.core.bounded_lines import BoundedLines
from socketio_eventstore.core.sessions import Session

logger = logging.getLogger(__name__)


class ClientLines:
    """Logs each connect, refusal and disconnection."""

    def __init__(self, request_id: Callable[[str], str | None]) -> None:
        """``request_id``: returns the id of the request behind a connection, by the connection's id."""
        self._request_id = request_id
        self._connected = BoundedLines(logger, "connected clients")
        self._refused = BoundedLines(logger, "refused clients")
        self._disconnected = BoundedLines(logger, "disconnected clients")

    def connected(self, session: Session) -> None:
        """Log a new session."""
        current = session.current
        if not self._connected.admit():
            return
        connection_id = None if current.connection is None else current.connection.id
        extra = self._fields(session, connection_id) | {"former_session": current.refusal}
        logger.info("connected: %s to %s", session.sid, session.namespace, extra=extra)

    def refused(self, session: Session, connection_id: str) -> None:
        """Log a client refused by the connect handler; the handler's reason may be secret."""
        if self._refused.admit():
            extra = self._fields(session, connection_id)
            text = "refused by the connect handler: %s to %s"
            logger.info(text, session.sid, session.namespace, extra=extra)

    def disconnected(self, session: Session, connection_id: str | None, reason: str) -> None:
        """Log the disconnection of an accepted client, with python-engineio's reason."""
        if self._disconnected.admit():
            extra = self._fields(session, connection_id) | {"reason": reason}
            logger.info("disconnected: %s from %s: %s", session.sid, session.namespace, reason, extra=extra)

    def _fields(self, session: Session, connection_id: str | None) -> dict[str, object]:
        request_id = None if connection_id is None else self._request_id(connection_id)
        return {"sid": session.sid, "namespace": session.namespace, "request_id": request_id}
