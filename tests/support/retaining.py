"""The retention of a core whose clocks a test sets."""

from __future__ import annotations

import asyncio

from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.core.operations import Emit
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits
from socketio_eventstore.core.retention import (
    IDEMPOTENCY_KEYS_KEPT_SECONDS,
    Expired,
    Retention,
    UptimeClock,
)
from socketio_eventstore.core.session_operations import RevokeSession
from socketio_eventstore.core.sessions import Session
from support.core import Core
from support.embedded import Seen
from support.storing import event

LIMIT_SECONDS = 60.0
NEWEST = 1_000.0
"""When the events of ``storing.event`` were emitted."""


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Kept:
    """The retention of a core, and its clocks."""

    def __init__(self, core: Core, expired: Expired, retention_seconds: float | None = None) -> None:
        self.core = core
        self.monotonic, self.wall = Clock(), Clock(NEWEST)
        self.seen = Seen()
        recovery = Recovery(core.log, core.registry, RecoveryLimits(LIMIT_SECONDS, 100, 10_000))

        async def expire(session: Session) -> None:
            self.seen(session.sid)
            await expired(session)

        self.retention = Retention(
            core.log,
            core.queue,
            recovery,
            UptimeClock(0.0, self.monotonic),
            expired=expire,
            interval_seconds=0.0,
            retention_seconds=LIMIT_SECONDS if retention_seconds is None else retention_seconds,
            keys_retention_seconds=LIMIT_SECONDS + IDEMPOTENCY_KEYS_KEPT_SECONDS,
            wall_clock=self.wall,
        )

    async def sweep(self) -> int:
        """Run one sweep and the expiries that it has begun."""
        pruned = await self.retention.sweep()
        await asyncio.gather(*self.retention._expiring.values())
        return pruned

    def all_events_are_old(self) -> None:
        self.wall.now = NEWEST + LIMIT_SECONDS + 1.0


def ending_expired_sessions(core: Core) -> Kept:
    async def end(session: Session) -> None:
        await core.queue.submit(RevokeSession(session))

    return Kept(core, end)


async def sequences(log: EventLog) -> list[int]:
    """The sequences of the stored events."""
    return [logged.sequence for logged in await log.read(range(1, log.head + 1))]


async def emit(core: Core, count: int) -> None:
    await core.queue.submit(*(Emit(event()) for _ in range(count)))
