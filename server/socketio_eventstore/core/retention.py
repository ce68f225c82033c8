"""Retention: expired sessions are ended, and events that no unexpired session needs are deleted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from socketio_eventlog.errors import StoreClosed, StoreError, StoreUnavailable
from socketio_eventlog.log import Log
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.recovery import Recovery
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.core.session_operations import RevokeSession
from socketio_eventstore.core.sessions import Session, State

logger = logging.getLogger(__name__)

PRUNE_EVENTS = 1000
"""Events that one transaction deletes: few enough that emits are not delayed."""
IDEMPOTENCY_KEYS_KEPT_SECONDS = 3600.0
"""How much longer than a session an idempotency key is kept: clients repeat events in the next session."""

Expired: TypeAlias = Callable[[Session], Awaitable[None]]
"""Ends a session that has expired. After an exception a later sweep tries again."""


EXPIRY_ATTEMPTS = 8
"""Calls of a ``session_expired`` handler that fails, before the session ends without it."""
LONGEST_EXPIRY_PAUSE_SECONDS = 3600.0
"""The longest pause between two such calls. The pauses double, from two prune intervals on."""


@dataclass(frozen=True, slots=True)
class FailedExpiry:
    """An expired session whose handler failed."""

    attempts: int
    retry_at: float
    """The uptime of the next call."""


class UptimeClock:
    """Seconds that the server has been up, over all starts on one database.

    The maximum disconnection duration is measured on this clock: clients cannot come back while the server
    is down, and the clock cannot be set, unlike the wall clock.
    """

    def __init__(self, seconds_before: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """``seconds_before``: the uptime of the earlier starts."""
        self._monotonic = monotonic
        self._zero = monotonic() - seconds_before

    def __call__(self) -> float:
        """Return the present uptime in seconds."""
        return self._monotonic() - self._zero


class Retention:
    """The pruning task."""

    def __init__(
        self,
        log: Log,
        queue: CommitQueue,
        recovery: Recovery,
        clock: UptimeClock,
        *,
        expired: Expired,
        interval_seconds: float,
        retention_seconds: float,
        keys_retention_seconds: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._queue = queue
        self._registry = queue.context.registry
        self._recovery = recovery
        self._clock = clock
        self._expired = expired
        self._expiring: dict[Session, asyncio.Task[None]] = {}
        self._failed_expiries: dict[Session, FailedExpiry] = {}
        self._failures = RepeatedFailures(logger)
        self._interval_seconds = interval_seconds
        self._retention_seconds = retention_seconds
        self._keys_retention_seconds = keys_retention_seconds
        self._wall_clock = wall_clock

    async def run(self) -> None:
        """Sweep at every interval, until cancelled. A store that is unavailable is tried again."""
        try:
            while True:
                await asyncio.sleep(self._interval_seconds)
                try:
                    await self.sweep()
                except StoreError as error:
                    text = f"Pruning did not work. {error}"
                    self._failures.failed("prune", text, ends_when_quiet=False)
                except Exception as error:  # noqa: BLE001 -- a fault of the server; the next sweep may work
                    text = f"Pruning did not work: {error!r}"
                    self._failures.failed("prune", text, error=error, ends_when_quiet=False)
                else:
                    self._failures.succeeded("prune")
        finally:
            for task in self._expiring.values():
                task.cancel()

    async def sweep(self) -> int:
        """End the expired sessions, then delete old events in small steps; return the number of events."""
        self._queue.retry_pending_changes()
        # Expiry and pruning go by the uptime on disk. After a crash the clock continues from there, and a
        # session that was expired when events were pruned must not be found waiting for those events.
        now = self._clock()
        await self._log.heartbeat(now)
        self._recovery.position_history.note(now, self._queue.position)
        for session in list(self._registry):
            if self._recovery.is_expired(session, now) and self._may_expire(session, now):
                self._expiring[session] = asyncio.create_task(self._expire(session))
        await self._prune_idempotency_keys()
        return await self._prune(self.floor(now))

    async def _prune_idempotency_keys(self) -> None:
        handled_before = self._clock() - self._keys_retention_seconds
        while await self._log.prune_idempotency_keys(handled_before, PRUNE_EVENTS) == PRUNE_EVENTS:
            pass

    async def _prune(self, floor: int) -> int:
        pruned = 0
        while True:
            emitted_before = self._wall_clock() - self._retention_seconds
            deleted = await self._log.prune(through=floor, emitted_before=emitted_before, limit=PRUNE_EVENTS)
            pruned += deleted
            if deleted < PRUNE_EVENTS:
                return pruned

    def floor(self, now: float) -> int:
        """Return the sequence up to which every unexpired session has confirmed its events.

        Pruning by age alone would be wrong: after a downtime, a half-open connection or an interrupted
        replay, a client lacks events although they are old.
        """
        confirmed = (
            session.confirmed
            for session in self._registry
            if session.state is not State.ENDED and not self._recovery.is_expired(session, now)
        )
        return min(confirmed, default=self._queue.position)

    async def _expire(self, session: Session) -> None:
        try:
            await self._expired(session)
        except Exception as error:  # noqa: BLE001 -- of the application's handler or of the store
            await self._expiry_failed(session, error)
        else:
            self._failed_expiries.pop(session, None)
        finally:
            del self._expiring[session]

    def _may_expire(self, session: Session, now: float) -> bool:
        failed = self._failed_expiries.get(session)
        return session not in self._expiring and (failed is None or failed.retry_at <= now)

    async def _expiry_failed(self, session: Session, error: Exception) -> None:
        """Retry the expiry later, with growing pauses, or end the session without its handler."""
        place = f"of {session.namespace} failed for {session.sid}"
        text = (
            f"The session_expired handler {place}; the session has expired but could not be ended: {error!r}"
        )
        self._failures.failed(("expiry", session.namespace, type(error).__name__), text, error=error)
        if isinstance(error, StoreUnavailable | StoreClosed):
            return  # no fault of the handler: the next sweep tries again
        attempts = 1 if session not in self._failed_expiries else self._failed_expiries[session].attempts + 1
        if attempts < EXPIRY_ATTEMPTS:
            pause = min(self._interval_seconds * 2**attempts, LONGEST_EXPIRY_PAUSE_SECONDS)
            self._failed_expiries[session] = FailedExpiry(attempts, self._clock() + pause)
            return
        text = f"The session_expired handler {place} {attempts} times; the session ends without it"
        self._failures.failed(("given up", session.namespace), text)
        try:
            await self._queue.submit(RevokeSession(session))
        except StoreError as failure:  # the next sweep calls the handler once more
            self._failures.failed("expiry", f"The session {session.sid} could not be ended. {failure}")
        else:
            self._failed_expiries.pop(session, None)
