"""What is no longer needed goes: expired sessions, and events that no unexpired session can lack."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from socketio_eventlog.errors import StoreError
from socketio_eventstore.core.commit_queue import Dispatcher
from socketio_eventstore.core.recovery import Recovery
from socketio_eventstore.core.sessions import Session, State

logger = logging.getLogger(__name__)

PRUNE_EVENTS = 1000
"""Events that one transaction deletes: little enough that no emit notices."""


IDEMPOTENCY_KEYS_KEPT_SECONDS = 3600.0
"""How much longer than a session the answers to its events are kept: a client repeats an event in its
next session, too."""

Expired: TypeAlias = Callable[[Session], Awaitable[None]]
"""Ends a session that has expired. When it raises, the session is tried again at the next sweep."""


class UptimeClock:
    """Seconds that the server has been up, over all its starts.

    The maximum disconnection duration is measured by it: clients cannot come back while the server is
    down, and nobody can set it, unlike the wall clock.
    """

    def __init__(self, seconds_before: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._zero = monotonic() - seconds_before

    def __call__(self) -> float:
        """The present service time in seconds."""
        return self._monotonic() - self._zero


class PrunableLog(Protocol):
    """What retention needs of the log."""

    async def heartbeat(self, uptime: float) -> None:
        """Write down that the server is alive and how long it has been up, in seconds."""
        ...

    async def prune_idempotency_keys(self, handled_before: float, limit: int) -> int:
        """Forget some of the oldest answers to clients' events; return how many."""
        ...

    async def prune(self, *, through: int, emitted_before: float, limit: int) -> int:
        """Delete some of the oldest events; return how many."""
        ...


class Retention:
    """The pruning task."""

    def __init__(
        self,
        log: PrunableLog,
        dispatcher: Dispatcher,
        recovery: Recovery,
        clock: UptimeClock,
        *,
        expired: Expired,
        interval_seconds: float,
        retention_seconds: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._dispatcher = dispatcher
        self._recovery = recovery
        self._clock = clock
        self._expired = expired
        self._expiring: dict[Session, asyncio.Task[None]] = {}
        self._interval_seconds = interval_seconds
        self._retention_seconds = retention_seconds
        self._wall_clock = wall_clock

    async def run(self) -> None:
        """Sweep at every interval, until cancelled. A store that is unavailable is tried again."""
        try:
            while True:
                await asyncio.sleep(self._interval_seconds)
                try:
                    await self.sweep()
                except StoreError as error:
                    logger.error("Pruning did not work. %s", error)
        finally:
            for task in self._expiring.values():
                task.cancel()

    async def sweep(self) -> int:
        """End the expired sessions, then delete old events in small steps; return how many events."""
        self._dispatcher.retry_pending_changes()
        # Expiry and pruning go by the time that is on disk: after a crash the clock runs on from there, and
        # who was expired when events were pruned must not be found waiting for them.
        now = self._clock()
        await self._log.heartbeat(now)
        self._recovery.position_history.note(now, self._dispatcher.position)
        for session in list(self._dispatcher.registry):
            if self._recovery.is_expired(session, now) and session not in self._expiring:
                self._expiring[session] = asyncio.create_task(self._expire(session))
        forgotten_before = self._clock() - self._retention_seconds - IDEMPOTENCY_KEYS_KEPT_SECONDS
        while await self._log.prune_idempotency_keys(forgotten_before, PRUNE_EVENTS) == PRUNE_EVENTS:
            pass
        pruned, floor = 0, self.floor(now)
        while True:
            deleted = await self._log.prune(
                through=floor,
                emitted_before=self._wall_clock() - self._retention_seconds,
                limit=PRUNE_EVENTS,
            )
            pruned += deleted
            if deleted < PRUNE_EVENTS:
                return pruned

    def floor(self, now: float) -> int:
        """The number through which every session that has not expired is known to have its events.

        Age alone would be wrong: a downtime, a half-open connection or a replay that was cut leaves a
        client behind although its events are old.
        """
        registry = self._dispatcher.registry
        confirmed = (
            session.confirmed
            for session in registry
            if session.state is not State.ENDED and not self._recovery.is_expired(session, now)
        )
        return min(confirmed, default=self._dispatcher.position)

    async def _expire(self, session: Session) -> None:
        try:
            await self._expired(session)
        except Exception:  # of the application's handler or of the store: the next sweep tries again
            logger.exception("The session %s has expired but could not be ended", session.sid)
        finally:
            del self._expiring[session]
