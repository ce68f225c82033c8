"""Disconnect handlers on one node before the connect handler on another.

When another node claims a session, the former node appends ``Departed`` after the end of its handlers. The
other node waits for ``Departed``, except from a node that may be dead: silent for long, or without a
connection to the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from socketio_eventlog.errors import StoreError
from socketio_eventlog.log import HEARTBEAT_SECONDS
from socketio_eventstore.adapter.handlers import HandlerCalls
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.sessions import Session

DEPARTURE_TIMEOUT_SECONDS: Final = 1.0
"""How long a connect handler waits for the handlers of another node."""
LOOK_AFTER_SECONDS: Final = 0.1
"""The time until the store is asked about the awaited nodes: living nodes answer sooner."""
LOOK_AGAIN_SECONDS: Final = 0.4
"""The time between two such questions. A node with cut connections has a new connection before then."""
SILENT_SECONDS: Final = 2 * HEARTBEAT_SECONDS
"""The age of a node's last heartbeat, on the uptime clock, beyond which no handler waits for the node."""


class DepartureBarrier:
    """The connect handlers that wait for other nodes."""

    def __init__(self, context: Context, calls: HandlerCalls) -> None:
        self._context = context
        self._calls = calls
        self._waiting: dict[Session, asyncio.Event] = {}
        self._ended: dict[str, float] = {}
        """The ended nodes that are not declared dead yet, each with the uptime of its heartbeat in seconds.

        No handler has to wait for such a node, until a further heartbeat: for the store, a node without a
        connection has ended."""
        self._looking: asyncio.Task[None] | None = None

    async def wait(self, session: Session, is_needed: Callable[[], bool]) -> None:
        """Wait until no node has handlers of earlier claims, for ``DEPARTURE_TIMEOUT_SECONDS`` at most.

        ``is_needed``: whether the connect handler is to be called at all; asked again after ``look_again``.
        """
        if not self._departing(session):
            return
        changed = self._waiting.setdefault(session, asyncio.Event())
        look = asyncio.get_running_loop().call_later(LOOK_AFTER_SECONDS, self._look_for_ended_nodes)
        try:
            async with asyncio.timeout(DEPARTURE_TIMEOUT_SECONDS):
                while is_needed() and self._departing(session):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            text = f"The handlers of {session.sid} may still run on another node; not waiting any longer"
            self._calls.failures.failed("departure barrier", text, level=logging.WARNING)
        finally:
            look.cancel()
            if self._waiting.get(session) is changed:
                del self._waiting[session]

    def _look_for_ended_nodes(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = self._calls.start(self._note_ended_nodes())

    async def _note_ended_nodes(self) -> None:
        """Ask the store about the awaited nodes; a node has ended after two such answers."""
        suspected = set[str]()
        while waited_for := {node for session in self._waiting for node in self._departing(session)}:
            try:
                silent = {node for node in waited_for if not await self._context.log.may_live(node)}
            except StoreError:
                return
            if ended := silent & suspected:
                self._has_ended(ended)
                for changed in self._waiting.values():
                    changed.set()
            suspected = silent
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def _has_ended(self, ended: set[str]) -> None:
        """Take note of ended nodes, and forget the nodes that are declared dead."""
        nodes = self._context.nodes
        alive = {node: record.alive for node in ended if (record := nodes.get(node)) is not None}
        self._ended = {node: at for node, at in self._ended.items() if nodes.get(node) is not None} | alive

    def look_again(self, session: Session) -> None:
        """Check the wait for a session again, after a change of the session."""
        if (changed := self._waiting.get(session)) is not None:
            changed.set()

    def _departing(self, session: Session) -> set[str]:
        """Return the nodes that may still have handlers of earlier claims."""
        nodes, found = self._context.nodes, set[str]()
        for node, _ in session.departing:
            record = nodes.get(node)
            if record is None or self._ended.get(node) == record.alive:
                continue
            if nodes.uptime - record.alive <= SILENT_SECONDS:
                found.add(node)
        return found
