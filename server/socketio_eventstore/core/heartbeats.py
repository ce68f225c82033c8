"""The heartbeats of this node, which move the uptime clock and contain the confirmed floor."""

from __future__ import annotations

import asyncio

from socketio_eventlog.changes import Heartbeat
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.operations import WriteHeartbeat


class Heartbeats:
    """Writes the heartbeats of this node through the commit queue."""

    def __init__(self, queue: CommitQueue) -> None:
        self._queue = queue
        self._context = queue.context

    def write(self) -> asyncio.Future[object]:
        """Write a heartbeat; the future ends with the heartbeat's effect, or raises StoreError."""
        return self._queue.submit(WriteHeartbeat(self._next))

    def _next(self) -> Heartbeat:
        context = self._context
        is_due = context.position_history.is_due(context.uptime, context.position)
        return Heartbeat(context.nodes.batch, self.floor(), notes_position=is_due)

    def floor(self) -> int:
        """Return the sequence up to which all sessions of this node have confirmed events."""
        context, own = self._context, self._context.nodes.own
        confirmed = [session.confirmed for session in context.registry if session.node == own]
        return min(confirmed, default=context.position)
