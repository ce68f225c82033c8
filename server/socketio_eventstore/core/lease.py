"""The lease of a node: others declare a node dead that is silent, and a node without contact gives up first.

A node that the others may take for dead must not keep its clients: they would be connected and get nothing.
So it closes their transports a little earlier, and joins the log anew, as another node. A node whose effects
hang does the same.
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
"""A node gives up after so long without contact, also when it knows of no other nodes: one may have begun
meanwhile, and have taken this one for dead. A log that only this node writes is always in contact."""
LOOK_SECONDS: Final = 0.5
"""The time between two looks at the contact."""


class Lease:
    """Writes the heartbeats, declares silent nodes dead, and notices when this node has to give up."""

    def __init__(
        self,
        queue: CommitQueue,
        heartbeats: Heartbeats,
        lost: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``lost`` is called once, with the reason, when the life of this node is over."""
        self._queue = queue
        self._context = queue.context
        self._heartbeats = heartbeats
        self._lost = lost
        self._monotonic = monotonic
        self._declared_at = -HEARTBEAT_SECONDS
        self._is_over = False

    async def run(self) -> None:
        """Look at the contact until this node has to give up, or is cancelled."""
        while not self._is_over:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    async def beat(self) -> None:
        """Write a heartbeat, then declare the oldest silent node dead. Raises StoreError.

        A node whose own appends are slow declares nobody dead: when the database is slow or was away, the
        heartbeats of all others are late, too. One death in each interval leaves the others time.
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
        """Call ``lost`` when the life of this node is over, or may be for the others."""
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
        # A node that writes and lets nothing take effect would keep its clients, and they would get nothing.
        if busy_since is not None and (seconds := now - busy_since) > CONTACT_SECONDS:
            return f"the effects of a batch have not gone on for {seconds:.0f} s"
        return None
