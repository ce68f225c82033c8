"""Disconnect handlers on one node before the connect handler on another.

A node that reads the claim of another node for a session of its own appends ``Departed`` when its handlers
have ended. The other node waits for it, but not for a node that may be dead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from socketio_eventlog.log import HEARTBEAT_SECONDS
from socketio_eventstore.core.nodes import Nodes
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.core.sessions import Session

DEPARTURE_TIMEOUT_SECONDS: Final = 1.0
"""How long a connect handler waits for the handlers of another node."""
SILENT_SECONDS: Final = 2 * HEARTBEAT_SECONDS
"""A node whose last heartbeat is so old, on the uptime clock, is not waited for."""


class DepartureBarrier:
    """The connect handlers that wait for other nodes."""

    def __init__(self, nodes: Nodes, failures: RepeatedFailures) -> None:
        self._nodes = nodes
        self._failures = failures
        self._waiting: dict[Session, asyncio.Event] = {}

    async def wait(self, session: Session, is_needed: Callable[[], bool]) -> None:
        """Wait until no node has handlers of earlier claims, for ``DEPARTURE_TIMEOUT_SECONDS`` at most.

        ``is_needed``: whether the connect handler is to be called at all; asked again after ``look_again``.
        """
        if not self._has_departing(session):
            return
        changed = self._waiting.setdefault(session, asyncio.Event())
        try:
            async with asyncio.timeout(DEPARTURE_TIMEOUT_SECONDS):
                while is_needed() and self._has_departing(session):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            text = f"The handlers of {session.sid} may still run on another node; not waiting any longer"
            self._failures.failed("departure barrier", text, level=logging.WARNING)
        finally:
            if self._waiting.get(session) is changed:
                del self._waiting[session]

    def look_again(self, session: Session) -> None:
        """Take note that something has happened to a session that may be waited for."""
        if (changed := self._waiting.get(session)) is not None:
            changed.set()

    def _has_departing(self, session: Session) -> bool:
        nodes = self._nodes
        for node, _ in session.departing:
            record = nodes.get(node)
            if record is not None and nodes.uptime - record.alive <= SILENT_SECONDS:
                return True
        return False
