"""The parts of a running server, put together, started and stopped in the right order."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

from socketio_eventlog.changed_sessions import ChangedSessions
from socketio_eventlog.log import LEASE_SECONDS, Log
from socketio_eventlog.opening import open_log
from socketio_eventlog.snapshot import Snapshot
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.fan_out import FanOut
from socketio_eventstore.core.flush_schedule import FlushSchedule
from socketio_eventstore.core.health import Health
from socketio_eventstore.core.heartbeats import Heartbeats
from socketio_eventstore.core.lease import Lease
from socketio_eventstore.core.listener import SessionListener
from socketio_eventstore.core.nodes import Nodes
from socketio_eventstore.core.old_events import OldEvents
from socketio_eventstore.core.options import Options
from socketio_eventstore.core.outcomes import settle
from socketio_eventstore.core.packets import PacketEncoder
from socketio_eventstore.core.position_history import PositionHistory
from socketio_eventstore.core.recent_events import RecentEvents
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.replay import Replayer, frames_of
from socketio_eventstore.core.retention import (
    HISTORY_KEPT_SECONDS,
    IDEMPOTENCY_KEYS_KEPT_SECONDS,
    Retention,
)
from socketio_eventstore.core.sessions import Session
from socketio_eventstore.core.supervisor import Supervisor

logger = logging.getLogger(__name__)

RECENT_EVENTS_BYTES: Final = 1_000_000
"""Bytes of recent events in memory; a quarter of a client's buffer if smaller."""


SETTLE_SECONDS: Final = 1.0
"""The time for a closed log to tell the outcome of the last batch."""


class Runtime:
    """A log, the sessions and recent events in memory, and the tasks for both."""

    def __init__(
        self,
        options: Options,
        log: Log,
        snapshot: Snapshot,
        encoder: PacketEncoder,
        listener: SessionListener,
    ) -> None:
        """Start the tasks; call this on the event loop. ``start`` opens the log first."""
        self.options = options
        self._settling: asyncio.Task[None] | None = None
        self.is_over = False
        """Whether this life of the node has ended, and another life may begin."""
        self.log = log
        self.encoder = encoder
        self.registry = Registry()
        for stored in snapshot.sessions:
            self.registry.add(Session.restore(stored))
        page_bytes = options.max_client_buffer // 4
        recent_events = RecentEvents(
            snapshot.position, min(RECENT_EVENTS_BYTES, page_bytes), encode=partial(frames_of, log, encoder)
        )
        fan_out = FanOut(self.registry)
        replayer = Replayer(log, self.registry, recent_events, fan_out, encoder, max_unsent_bytes=page_bytes)
        self.replayer = replayer
        self.context = Context(
            log,
            self.registry,
            Nodes(log.node, snapshot),
            fan_out,
            encoder,
            recent_events,
            PositionHistory(options.event_retention, snapshot.positions),
            replayer.begin,
            listener,
        )
        self.flush_schedule = FlushSchedule(fan_out)
        self.queue = CommitQueue(self.context, self.flush_schedule)
        limits = RecoveryLimits(
            options.max_disconnection_duration,
            options.max_missed_packets,
            options.max_missed_bytes,
            options.heartbeat,
        )
        self.recovery = Recovery(log, self.registry, limits, OldEvents(log, encoder))
        self._heartbeats = Heartbeats(self.queue)
        self.lease = Lease(self.queue, self._heartbeats, listener.lost)
        self.health = Health(self.queue.store_health, self.lease.beat, log.free_space, options.path)
        self._supervisor = Supervisor(self.health)
        start = self._supervisor.start
        self._appending = start("commit queue", self.queue.run)
        self._taking_effects = start("effects of the log", self.queue.take_effects)
        self._tasks = [
            start("replay", replayer.run),
            start("health", self.health.run),
            start("lease", self.lease.run),
        ]
        self.retention: Retention | None = None
        if log.is_durable:
            retention = self.retention = Retention(
                self.queue,
                self.recovery,
                self._heartbeats,
                interval_seconds=options.prune_interval,
                keys_retention_seconds=options.max_disconnection_duration + IDEMPOTENCY_KEYS_KEPT_SECONDS,
                history_retention_seconds=options.event_retention + HISTORY_KEPT_SECONDS,
            )
            self._tasks.append(start("retention", retention.run))

    @classmethod
    async def start(
        cls,
        options: Options,
        encoder: PacketEncoder,
        listener: SessionListener,
        *,
        lock_timeout_seconds: float | None = None,
        former: ChangedSessions | None = None,
    ) -> Runtime:
        """Open the store, bring the schema up to date and join the log.

        ``listener`` calls the application's handlers. ``lock_timeout_seconds`` and ``former`` are as
        in ``open_log``. Raises StoreNotUsable.
        """
        log = await open_log(
            options,
            lock_timeout_seconds,
            max_disconnection_seconds=options.max_disconnection_duration,
            former=former,
        )
        try:
            snapshot = await log.join()  # before the pruning of any event for the sessions
        except BaseException:
            await log.close()
            raise
        return cls(options, log, snapshot, encoder, listener)

    @property
    def is_enabled(self) -> bool:
        """Whether connection state recovery is enabled."""
        return self.log.is_durable

    async def close(self) -> None:
        """Append the waiting operations, wait for the effects, stop the tasks, close the store."""
        if self.is_over:
            await self.end()
            return
        self.queue.retry_pending_changes()
        self._heartbeats.write().add_done_callback(_report_failure)
        self._supervisor.stop(*self._tasks)
        self.queue.close()
        # Without the task of the effects the appends would wait for ever, as on a hanging store.
        tasks = [self._appending, self._taking_effects]
        await asyncio.wait(tasks, timeout=LEASE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        await self.end()

    def give_up(self) -> None:
        """Stop all work: the waiting callers get StoreClosed, as does every later call.

        An unanswered batch may be in the log. The batch is never appended again, and the callers wait until
        the outcome is known or the log is closed.
        """
        if self.is_over:
            return
        self.is_over = True
        self.queue.close()
        self._supervisor.stop(self._appending, self._taking_effects, *self._tasks)
        self._settling = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        await asyncio.gather(self._appending, self._taking_effects, return_exceptions=True)
        await settle(self.log, self.queue.effects)

    async def end(self) -> None:
        """Give up, and close the store."""
        self.give_up()
        await asyncio.gather(self._appending, self._taking_effects, *self._tasks, return_exceptions=True)
        await self.log.close()
        if self._settling is not None:
            await asyncio.wait([self._settling], timeout=SETTLE_SECONDS)
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)


def _report_failure(heartbeat: asyncio.Future[object]) -> None:
    if not heartbeat.cancelled() and (error := heartbeat.exception()) is not None:
        logger.error("The last heartbeat could not be stored. %s", error)
