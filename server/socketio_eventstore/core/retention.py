"""Retention: expired sessions are ended, and events that no unexpired session needs are deleted."""

from __future__ import annotations

import asyncio
import logging

from socketio_eventlog.errors import StoreClosed, StoreError
from socketio_eventlog.log import HEARTBEAT_SECONDS
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.expiry import Expiry
from socketio_eventstore.core.heartbeats import Heartbeats
from socketio_eventstore.core.operations import DeclareDead, Prune
from socketio_eventstore.core.recovery import Recovery
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.core.sessions import Session, State

logger = logging.getLogger(__name__)

PRUNE_EVENTS = 1000
"""Sequences whose events one transaction deletes: few enough that emits are not delayed."""
IDEMPOTENCY_KEYS_KEPT_SECONDS = 3600.0
"""How much longer than a session an idempotency key is kept: clients repeat events in the next session."""

LEASE_SECONDS = 5 * HEARTBEAT_SECONDS
"""A node without a heartbeat for so long, on the uptime clock, is gone."""


class Retention:
    """The pruning task."""

    def __init__(
        self,
        queue: CommitQueue,
        recovery: Recovery,
        heartbeats: Heartbeats,
        *,
        interval_seconds: float,
        keys_retention_seconds: float,
    ) -> None:
        self._queue = queue
        self._context = queue.context
        self._recovery = recovery
        self._heartbeats = heartbeats
        self.expiry = Expiry(queue, recovery, interval_seconds)
        self._failures = RepeatedFailures(logger)
        self._interval_seconds = interval_seconds
        self._keys_retention_seconds = keys_retention_seconds

    async def run(self) -> None:
        """Sweep at every interval, until cancelled. A store that is unavailable is tried again."""
        try:
            while True:
                await asyncio.sleep(self._interval_seconds)
                try:
                    await self.sweep()
                except StoreClosed:  # the server is ending
                    return
                except StoreError as error:
                    text = f"Pruning did not work. {error}"
                    self._failures.failed("prune", text, ends_when_quiet=False)
                except Exception as error:  # noqa: BLE001 -- a fault of the server; the next sweep may work
                    text = f"Pruning did not work: {error!r}"
                    self._failures.failed("prune", text, error=error, ends_when_quiet=False)
                else:
                    self._failures.succeeded("prune")
        finally:
            self.expiry.cancel()

    async def sweep(self) -> int:
        """End the expired sessions, then delete old events in small steps.

        Return how far the deletion came, in sequences. Only the first of the nodes does this; but every node
        declares others dead, since the first one may be dead itself.
        """
        self._queue.retry_pending_changes()
        await self._heartbeats.write()
        # Expiry and pruning go by the uptime of a batch that has taken effect. The session of a client that
        # another node lets in later is then found overdue there, too.
        context = self._context
        now, position = context.uptime, context.position
        if self._recovery.position_history.is_due(now, position):
            self._recovery.position_history.note(now, position)
        await self._declare_dead(now)
        if not context.nodes.is_first:
            return 0
        self.expiry.start()
        await self._prune_idempotency_keys(now)
        return await self._prune(min(self.floor(now), context.position_history.passed(now)))

    async def _declare_dead(self, now: float) -> None:
        """Declare nodes dead whose last heartbeat is too old."""
        for record in self._context.nodes.others:
            if now - record.alive > LEASE_SECONDS:
                await self._queue.submit(DeclareDead(record.node))

    async def _prune_idempotency_keys(self, now: float) -> None:
        handled_before = now - self._keys_retention_seconds
        while await self._context.log.prune_idempotency_keys(handled_before, PRUNE_EVENTS) == PRUNE_EVENTS:
            pass

    async def _prune(self, through: int) -> int:
        log = self._context.log
        first = log.pruned_through
        while log.pruned_through < through:
            await self._queue.submit(Prune(min(through, log.pruned_through + PRUNE_EVENTS)))
        return log.pruned_through - first

    def floor(self, now: float) -> int:
        """Return the sequence up to which every unexpired session has confirmed its events.

        Pruning by age alone would be wrong: after a downtime, a half-open connection or an interrupted
        replay, a client lacks events although they are old.
        """
        recovery, context = self._recovery, self._context
        confirmed = [
            session.confirmed
            for session in context.registry
            if session.state is not State.ENDED
            and not recovery.is_expired(session, now)
            and not self._is_covered_by_node(session)
        ]
        return min([context.position, *confirmed, *(record.floor for record in context.nodes.others)])

    def _is_covered_by_node(self, session: Session) -> bool:
        """Whether the floor of another node speaks for a session.

        The floor that a node wrote before it had applied its claim says nothing about the session.
        """
        if session.state is not State.ELSEWHERE:
            return False
        record = self._context.nodes.get(session.node)
        return record is not None and record.applied >= session.claimed_in
