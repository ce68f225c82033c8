"""The parts that make up a running server, put together, started and stopped in the right order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from socketio_eventlog.errors import StoreError
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventlog.volatile import VolatileLog
from socketio_eventstore.core.commit_queue import Dispatcher
from socketio_eventstore.core.packets import PacketEncoder
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits
from socketio_eventstore.core.replay import Replayer
from socketio_eventstore.core.retention import Expired, Retention, UptimeClock
from socketio_eventstore.core.session_operations import MarkAway
from socketio_eventstore.core.sessions import Registry, Session

logger = logging.getLogger(__name__)

TAIL_BYTES = 1_000_000
"""Newest events that are kept in memory; a quarter of a client's buffer if that is less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the store is used and what a recovery may cost; durations in seconds, sizes in bytes."""

    path: Path | None
    """The database; None means that recovery is disabled and nothing is stored."""
    synchronous: Literal["full", "normal"] = "full"
    prune_interval: float = 10.0
    index_memory: int = 64_000_000
    max_disconnection_duration: float = 120.0
    skip_middlewares: bool = False
    recover_client_disconnect: bool = True
    max_missed_packets: int = 100_000
    max_missed_bytes: int = 64_000_000
    max_client_buffer: int = 4_000_000
    websocket_compression: int = 0
    """Frames from so many bytes on are compressed; 0: none."""
    heartbeat: float = 45.0
    """How long a connection may be dead before that is noticed."""

    @property
    def max_event_bytes(self) -> int:
        """A larger event could never be sent, since it alone would overflow a client's buffer."""
        return self.max_client_buffer // 2


class Runtime:
    """A log, what is in memory of it, and the tasks that work on both."""

    def __init__(
        self, options: Options, log: EventLog | VolatileLog, encoder: PacketEncoder, expired: Expired
    ) -> None:
        self.options = options
        self.log = log
        self.registry = Registry()
        page_bytes = options.max_client_buffer // 4
        self.replayer = Replayer(log, page_bytes)
        self.dispatcher = Dispatcher(
            log,
            self.registry,
            encoder,
            tail_bytes=min(TAIL_BYTES, page_bytes),
            offsets=isinstance(log, EventLog),
            catch_up=self.replayer.begin,
        )
        self.replayer.dispatcher = self.dispatcher
        limits = RecoveryLimits(
            options.max_disconnection_duration,
            options.max_missed_packets,
            options.max_missed_bytes,
            options.heartbeat,
        )
        self.recovery = Recovery(log, self.registry, limits)
        self.clock = UptimeClock(log.uptime_at_open if isinstance(log, EventLog) else 0.0)
        self._dispatching = self._work(self.dispatcher.run())
        self._tasks = [self._work(self.replayer.run())]
        if isinstance(log, EventLog):
            retention = Retention(
                log,
                self.dispatcher,
                self.recovery,
                self.clock,
                expired=expired,
                interval_seconds=options.prune_interval,
                retention_seconds=options.max_disconnection_duration,
            )
            self._tasks.append(self._work(retention.run()))

    @classmethod
    async def start(cls, options: Options, encoder: PacketEncoder, expired: Expired) -> Runtime:
        """Open the store, bring its schema up to date and take in its sessions.

        ``expired`` ends a session that has expired, and tells the application. Raises StoreNotUsable.
        """
        if options.path is None:
            return cls(options, VolatileLog(), encoder, expired)
        log = await EventLog.open(
            StoreOptions(
                path=options.path, synchronous=options.synchronous, index_memory=options.index_memory
            )
        )
        try:
            sessions = await log.load_sessions()  # before anything is pruned that they need
        except BaseException:
            await log.close()
            raise
        runtime = cls(options, log, encoder, expired)
        now = runtime.clock()
        for stored in sessions:
            # A session that a crash left open is away from the moment when its client can come back.
            away_since = now if stored.away_since is None else min(stored.away_since, now)
            session = Session.restore(stored, away_since)
            runtime.registry.add(session)
            if stored.away_since is None:  # and from then on, however often the server starts
                runtime.dispatcher.enqueue(MarkAway(session, session.claim, time.time()))
        return runtime

    @property
    def enabled(self) -> bool:
        """Whether connection state recovery is enabled."""
        return isinstance(self.log, EventLog)

    async def close(self) -> None:
        """Commit and dispatch what is in the queue, stop the tasks, close the store."""
        self.dispatcher.retry_pending_changes()
        self.dispatcher.close()
        await asyncio.gather(self._dispatching, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            if isinstance(self.log, EventLog):
                await self.log.heartbeat(self.clock())
        except StoreError as error:
            logger.error("The last heartbeat could not be stored. %s", error)
        finally:
            await self.log.close()

    def _work(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(_report_death)
        return task


def _report_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("A task of the server has died; restart it.", exc_info=error)
