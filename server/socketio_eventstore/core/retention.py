"""Retention: the end of expired sessions, and the deletion of events that no unexpired session needs."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from contextlib import suppress
from typing import Final

from socketio_eventlog.errors import StoreClosed, StoreError, StoreUnavailable
from socketio_eventlog.log import HEARTBEAT_SECONDS
from socketio_eventstore.core.bounded_lines import BoundedLines
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.expiry import Expiry
from socketio_eventstore.core.heartbeats import Heartbeats
from socketio_eventstore.core.histogram import DURATIONS_SECONDS, Histogram
from socketio_eventstore.core.operations import Prune
from socketio_eventstore.core.position_history import PositionHistory
from socketio_eventstore.core.receipts import covering
from socketio_eventstore.core.recovery import Recovery
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.core.sessions import State
from socketio_eventstore.core.slices import in_slices

logger = logging.getLogger(__name__)

PRUNE_EVENTS = 1000
"""The sequences in a transaction that deletes events: few enough not to delay emits."""
IDEMPOTENCY_KEYS_KEPT_SECONDS = 3600.0
"""How much longer than a session an idempotency key is kept: clients repeat events in the next session."""
NEGLECTED_SWEEPS: Final = 3
"""Sweeps without a possible deletion by the first node, after which another node deletes."""
HISTORY_KEPT_SECONDS = 3600.0
"""The time that histories of sessions are kept longer than events: people look some time afterwards."""


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
        history_retention_seconds: float = math.inf,
    ) -> None:
        """``history_retention_seconds``: how long the entries of the sessions' histories are kept."""
        self._queue = queue
        self._context = queue.context
        self._recovery = recovery
        self._heartbeats = heartbeats
        self.expiry = Expiry(queue, recovery, interval_seconds)
        self._failures = RepeatedFailures(logger)
        self._positions = PositionHistory(recovery.max_disconnection_seconds)
        """The positions by which events are older than a client may be away."""
        self._interval_seconds = interval_seconds
        self._keys_retention_seconds = keys_retention_seconds
        self._history_retention_seconds = history_retention_seconds
        self._lines = BoundedLines(logger, "prunings")
        self.durations = Histogram(DURATIONS_SECONDS)
        """The seconds of each deletion of old events."""
        self.pruned_sequences = 0
        """How far all deletions came together, in sequences."""
        self._sweeping = asyncio.Lock()
        self._deletable: deque[int] = deque(maxlen=NEGLECTED_SWEEPS + 1)
        """The possible ends of a deletion at the last sweeps, on a node other than the first."""

    async def run(self) -> None:
        """Sweep at every interval, until cancelled. An unavailable store is tried again."""
        try:
            while True:
                await self._pause()
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

        Return the end of the deletion as a sequence. One sweep runs at a time. Only the first of the nodes
        sweeps; after its death, the next node (see ``lease``). While the first node's deletions fail, the
        others delete, too: a second deletion is harmless, unlike a second call of a ``session_expired``
        handler.
        """
        async with self._sweeping:
            now = await self._advance()
            if self._context.nodes.is_first:
                await self.expiry.start()
            elif not await self._is_neglected(now):
                return 0
            return await self._delete_old(now)

    async def _is_neglected(self, now: float) -> bool:
        """Whether the first node has not deleted the events that were deletable some sweeps ago."""
        due, pruned = self._deletable, self._context.log.pruned_through
        due.append(await self._old_through(now))
        if len(due) <= NEGLECTED_SWEEPS or due[0] <= pruned:
            return False
        text = f"The first node has deleted no events after number {pruned}; this one does it"
        self._failures.failed("neglected", text, level=logging.WARNING)
        return True

    async def prune(self) -> int:
        """Delete old events as ``sweep`` does, and end no session: return how far the deletion came."""
        async with self._sweeping:
            return await self._delete_old(await self._advance())

    async def _advance(self) -> float:
        """Let the uptime go on; return the uptime."""
        self._queue.retry_pending_changes()
        await self._heartbeats.write()
        # Expiry and pruning use the uptime of a batch in effect. If the client returns to another node later,
        # the session is overdue there, too.
        context = self._context
        now, position = context.uptime, context.position
        if self._recovery.position_history.is_due(now, position):
            self._recovery.position_history.note(now, position)
        if self._positions.is_due(now, position):
            self._positions.note(now, position)
        return now

    async def _delete_old(self, now: float) -> int:
        context = self._context
        await self._prune_idempotency_keys(now)
        begun = time.perf_counter()
        pruned = await self._prune(await self._old_through(now))
        pruned += await self._make_room(now)
        if pruned:
            self._pruned(pruned, time.perf_counter() - begun)
        before = now - self._history_retention_seconds
        while await context.log.prune_session_history(before, PRUNE_EVENTS):
            pass
        return pruned

    def _pruned(self, events: int, seconds: float) -> None:
        self.durations.measured(seconds)
        self.pruned_sequences += events
        if self._lines.admit():
            through = self._context.log.pruned_through
            extra = {"events": events, "pruned_through": through, "seconds": round(seconds, 6)}
            logger.info("pruned %s events in %.3f s, up to number %s", events, seconds, through, extra=extra)

    async def _prune_idempotency_keys(self, now: float) -> None:
        handled_before = now - self._keys_retention_seconds
        while await self._context.log.prune_idempotency_keys(handled_before, PRUNE_EVENTS) == PRUNE_EVENTS:
            pass

    async def _pause(self) -> None:
        """Wait for the next sweep; a log without free space is swept more often."""
        space = self._context.log.free_space
        if space.is_scarce:
            await asyncio.sleep(min(self._interval_seconds, HEARTBEAT_SECONDS))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval_seconds):
                await space.until_scarce()

    async def _make_room(self, now: float) -> int:
        """Delete events before the end of the retention, as long as the log has no free space.

        No returning client needs the events: all are confirmed, and older than the longest absence. The
        histories of sessions are deleted first: no client needs histories.
        """
        log = self._context.log
        with suppress(StoreUnavailable):  # a full disk may have no room for so large a deletion
            while log.free_space.is_scarce and await log.prune_session_history(now, PRUNE_EVENTS):
                pass
        first, step = log.pruned_through, PRUNE_EVENTS
        through = min(await self.floor(now), self._positions.passed(now))
        while log.free_space.is_scarce and log.pruned_through < through:
            try:
                await self._queue.submit(Prune(min(through, log.pruned_through + step)))
            except StoreUnavailable:  # a full disk may have room for the deletion of fewer events
                if step == 1:
                    raise
                step //= 2
        if log.free_space.is_scarce:
            log.free_space.is_pruned = True
        return log.pruned_through - first

    async def _prune(self, through: int) -> int:
        log = self._context.log
        first = log.pruned_through
        while log.pruned_through < through:
            await self._queue.submit(Prune(min(through, log.pruned_through + PRUNE_EVENTS)))
        return log.pruned_through - first

    async def _old_through(self, now: float) -> int:
        """Return the sequence up to which events are old, and confirmed."""
        return min(await self.floor(now), self._context.position_history.passed(now))

    async def floor(self, now: float) -> int:
        """Return the sequence up to which every unexpired session has confirmed all events.

        Pruning by age alone would be wrong: after a downtime, a half-open connection or an interrupted
        replay, a client may lack old events.

        The sessions are looked at in slices. What is true at a look stays true: positions and floors only
        grow, and a session that opens meanwhile begins behind the position that was noted first.
        """
        recovery, nodes = self._recovery, self._context.nodes
        floor = min([self._context.position, *(record.floor for record in nodes.others)])
        async for sessions in in_slices(self._context.registry):
            for session in sessions:
                if session.state is State.ENDED or recovery.is_expired(session, now):
                    continue
                record = covering(session, nodes)  # of a node that may be dead at the next slice
                floor = min(floor, session.confirmed if record is None else record.floor)
        return floor
