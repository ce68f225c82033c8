"""The parts of a running server, put together, started and stopped in the right order."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Coroutine
from typing import Any, Final

from socketio_eventlog.errors import StoreError
from socketio_eventlog.log import Log
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventlog.volatile import VolatileLog
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.fan_out import FanOut
from socketio_eventstore.core.flush_schedule import FlushSchedule
from socketio_eventstore.core.health import Health
from socketio_eventstore.core.old_events import OldEvents
from socketio_eventstore.core.operation import Context
from socketio_eventstore.core.options import Options
from socketio_eventstore.core.packets import PacketEncoder
from socketio_eventstore.core.recent_events import RecentEvents
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.replay import Replayer
from socketio_eventstore.core.retention import (
    IDEMPOTENCY_KEYS_KEPT_SECONDS,
    Expired,
    Retention,
    UptimeClock,
)
from socketio_eventstore.core.session_operations import MarkAway
from socketio_eventstore.core.sessions import PID_HASH_BYTES, Session

logger = logging.getLogger(__name__)

RECENT_EVENTS_BYTES: Final = 1_000_000
"""Bytes of recent events in memory; a quarter of a client's buffer when that is less."""


class Runtime:
    """A log, the sessions and recent events in memory, and the tasks that work on both."""

    def __init__(self, options: Options, log: Log, encoder: PacketEncoder, expired: Expired) -> None:
        """Start the tasks; call this on the event loop. ``start`` opens the log first."""
        self.options = options
        self.log = log
        self.encoder = encoder
        self.registry = Registry()
        page_bytes = options.max_client_buffer // 4
        recent_events = RecentEvents(log.head, min(RECENT_EVENTS_BYTES, page_bytes))
        fan_out = FanOut(self.registry)
        replayer = Replayer(log, recent_events, fan_out, encoder, max_unsent_bytes=page_bytes)
        context = Context(log, self.registry, fan_out, encoder, recent_events, replayer.begin)
        self.flush_schedule = FlushSchedule(fan_out)
        self.queue = CommitQueue(context, self.flush_schedule)
        limits = RecoveryLimits(
            options.max_disconnection_duration,
            options.max_missed_packets,
            options.max_missed_bytes,
            options.heartbeat,
        )
        self.recovery = Recovery(log, self.registry, limits, OldEvents(log, encoder))
        self.clock = UptimeClock(log.uptime_at_open)
        self.health = Health(log, self.queue.store_health, self.clock, options.path)
        self._committing = self._start_task("commit queue", self.queue.run())
        self._tasks = [
            self._start_task("replay", replayer.run()),
            self._start_task("health", self.health.run()),
        ]
        if log.is_durable:
            retention = Retention(
                log,
                self.queue,
                self.recovery,
                self.clock,
                expired=expired,
                interval_seconds=options.prune_interval,
                retention_seconds=options.event_retention,
                keys_retention_seconds=options.max_disconnection_duration + IDEMPOTENCY_KEYS_KEPT_SECONDS,
            )
            self._tasks.append(self._start_task("retention", retention.run()))

    @classmethod
    async def start(
        cls,
        options: Options,
        encoder: PacketEncoder,
        expired: Expired,
        *,
        lock_timeout_seconds: float | None = None,
    ) -> Runtime:
        """Open the store, bring the schema up to date and load the sessions.

        ``expired`` ends a session that has expired, and tells the application. ``lock_timeout_seconds`` is
        that of ``EventLog.open``. Raises StoreNotUsable.
        """
        log: Log = VolatileLog()
        if options.path is not None:
            log = await EventLog.open(options, lock_timeout_seconds=lock_timeout_seconds)
        try:
            sessions = await log.load_sessions()  # before any event that they need is pruned
        except BaseException:
            await log.close()
            raise
        runtime = cls(options, log, encoder, expired)
        now = runtime.clock()
        for stored in sessions:
            is_recoverable = len(stored.pid_hash) == PID_HASH_BYTES
            # A session that a crash left open is away from the moment at which the client can come back.
            away_since = now if stored.away_since is None else min(stored.away_since, now)
            if not is_recoverable:  # the session has ended with its transport
                away_since = -math.inf
            session = Session.restore(stored, away_since)
            runtime.registry.add(session)
            if stored.away_since is None and is_recoverable:
                # The moment stays, however often the server starts.
                runtime.queue.enqueue(MarkAway(session, session.current, time.time()))
        return runtime

    @property
    def is_enabled(self) -> bool:
        """Whether connection state recovery is enabled."""
        return self.log.is_durable

    def _start_task(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(_report_death)
        self.health.watch(name, task)
        return task

    async def close(self) -> None:
        """Commit the waiting operations and let them take effect, stop the tasks, close the store."""
        self.queue.retry_pending_changes()
        self.queue.close()
        await asyncio.gather(self._committing, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.log.heartbeat(self.clock())
        except StoreError as error:
            logger.error("The last heartbeat could not be stored. %s", error)
        finally:
            await self.log.close()


def _report_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("A task of the server has died; restart it.", exc_info=error)
