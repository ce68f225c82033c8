"""The lease of a node: other nodes declare a silent node dead, and a node without contact gives up before.

A node that others may declare dead must not keep clients: the clients would be connected and get nothing. So
the node closes all transports a little earlier, and joins the log anew, as another node. A node with hanging
effects does the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from socketio_eventlog.log import HEARTBEAT_SECONDS, LEASE_SECONDS
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.heartbeats import Heartbeats
from socketio_eventstore.core.operations import DeclareDead

CONTACT_SECONDS: Final = 0.9 * LEASE_SECONDS
"""The time without contact after which a node gives up, even without other known nodes: a new node may have
begun meanwhile, and have declared this node dead. A log with a single writer is always in contact."""
LOOK_SECONDS: Final = 0.5
"""The time between two looks at the contact."""


class Lease:
    """Writes the heartbeats, declares silent nodes dead, and decides when this node gives up."""

    def __init__(
        self,
        queue: CommitQueue,
        heartbeats: Heartbeats,
        lost: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``lost`` is called once, with the reason, at the end of this node's life."""
        self._queue = queue
        self._context = queue.context
        self._heartbeats = heartbeats
        self._lost = lost
        self._monotonic = monotonic
        self._declared_at = -HEARTBEAT_SECONDS
        self._is_over = False

    async def run(self) -> None:
        """Check the contact until this node gives up, or is cancelled."""
        while not self._is_over:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    async def beat(self) -> None:
        """Write a heartbeat, then declare the oldest silent node dead. Raises StoreError.

        A node with slow appends declares no node dead: when the database is slow or was away, the heartbeats
        of all nodes are late. One death in each interval leaves the others time.
        """
        await self._heartbeats.write()
        context = self._context
        is_prompt = self._monotonic() - context.log.contact_at <= HEARTBEAT_SECONDS
        if is_prompt and context.uptime - self._declared_at >= HEARTBEAT_SECONDS:
            silent = [one for one in context.nodes.others if context.uptime - one.alive > LEASE_SECONDS]
            if silent:
                self._declared_at = context.uptime
                await self._queue.submit(DeclareDead(min(silent, key=lambda one: one.alive).node))

    def look(self) -> None:
        """Call ``lost`` when the life of this node is over, or may be over for the other nodes."""
        reason = self._reason()
        if reason is not None and not self._is_over:
            self._is_over = True
            self._lost(reason)

    def _reason(self) -> str | None:
        context, nodes = self._context, self._context.nodes
        if (fatal := self._queue.store_health.fatal) is not None:
            return str(fatal)
        if nodes.get(nodes.own) is None:
            return "the other nodes have declared this node dead"
        now, busy_since = self._monotonic(), self._queue.effects.busy_since
        if (seconds := now - context.log.contact_at) > CONTACT_SECONDS:
            return f"no contact to the log for {seconds:.0f} s"
        # A node that writes without effects would keep clients that get nothing.
        if busy_since is not None and (seconds := now - busy_since) > CONTACT_SECONDS:
            return f"the effects of a batch have not gone on for {seconds:.0f} s"
        return None
