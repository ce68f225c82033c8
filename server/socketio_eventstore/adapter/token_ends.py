"""The end of connections at the end of their tokens."""

from __future__ import annotations

import asyncio
import logging
import time
from itertools import islice
from typing import Final

from socketio_eventstore.adapter.application import Application
from socketio_eventstore.core.bounded_lines import BoundedLines
from socketio_eventstore.transport.connection import EngineConnection

logger = logging.getLogger(__name__)

ENDS_PER_STEP: Final = 100
"""Connections to close before the event loop serves others; many tokens may end at once."""
LONGEST_WAIT_SECONDS: Final = 600.0
"""The longest time between two reads of the wall clock, which may be set."""


class TokenEnds:
    """Closes the transport of a client at the end of the token.

    The transport alone, without a DISCONNECT packet: the official client then comes back by itself, calls the
    function ``auth`` for a new token, and recovers. After a DISCONNECT packet the client would stay away.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._timers: dict[EngineConnection, asyncio.TimerHandle] = {}
        self._due: dict[EngineConnection, None] = {}
        """The connections to close in the next steps."""
        self._lines = BoundedLines(logger, "tokens that ended")
        self.ended = 0
        """The number of closed connections."""

    def watch(self, connection: EngineConnection) -> None:
        """End a connection at the end of its sessions' first token; call again for a further session."""
        self.forget(connection)
        ends = [session.current.expires_at for session in connection.sessions.values()]
        known = [end for end in ends if end is not None]
        if connection.closed or not known:
            return
        seconds = min(known) - time.time()
        if seconds <= 0:
            if not self._due:
                asyncio.get_running_loop().call_soon(self._end_some)
            self._due[connection] = None
            return
        wait = min(seconds, LONGEST_WAIT_SECONDS)
        timer = asyncio.get_running_loop().call_later(wait, self.watch, connection)
        self._timers[connection] = timer

    def forget(self, connection: EngineConnection) -> None:
        """Forget an ended connection."""
        self._due.pop(connection, None)
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _end_some(self) -> None:
        for connection in list(islice(self._due, ENDS_PER_STEP)):
            self._end(connection)
            self._due.pop(connection, None)
        if self._due:
            asyncio.get_running_loop().call_soon(self._end_some)

    def _end(self, connection: EngineConnection) -> None:
        self.ended += 1
        if self._lines.admit():
            sids = [session.sid for session in connection.sessions.values()]
            logger.info("the token ended: %s", ", ".join(sids), extra={"sids": sids})
        connection.close_after_flush(self._application.reason.SERVER_DISCONNECT)
