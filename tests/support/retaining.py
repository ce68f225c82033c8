"""The retention of a core, with an uptime that a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from socketio_eventlog.session_changes import SessionEnd
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventlog.uptime import LONGEST_STEP_SECONDS
from socketio_eventstore.core.heartbeats import Heartbeats
from socketio_eventstore.core.operations import Emit
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits
from socketio_eventstore.core.retention import IDEMPOTENCY_KEYS_KEPT_SECONDS, Retention
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import Session
from support.core import Core, Listener, running
from support.embedded import Seen
from support.storing import Clock, event

LIMIT_SECONDS = 60.0


class Expiries(Listener):
    """Records the expiries, and ends each session, or does what a test has set."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()
        self.expire: Callable[[Session], Awaitable[object]] | None = None

    async def expired(self, session: Session) -> None:
        self.seen(session.sid)
        assert self.expire is not None
        await self.expire(session)


class Kept:
    """A core, the retention, and the clock of the log."""

    def __init__(self, core: Core, clock: Clock, expiries: Expiries) -> None:
        self.core = core
        self.recovery = Recovery(core.log, core.registry, RecoveryLimits(LIMIT_SECONDS, 100, 10_000))
        self.seen = expiries.seen
        self.expiries = expiries
        expiries.expire = self.end
        self.heartbeats = Heartbeats(core.queue)
        self._clock = clock
        self.retention = Retention(
            core.queue,
            self.recovery,
            self.heartbeats,
            interval_seconds=0.0,
            keys_retention_seconds=LIMIT_SECONDS + IDEMPOTENCY_KEYS_KEPT_SECONDS,
        )

    @property
    def uptime(self) -> float:
        return self.core.context.uptime

    async def end(self, session: Session) -> None:
        """End an expired session, as the application does after the handler."""
        await self.core.queue.submit(EndSession(session, SessionEnd.EXPIRED))

    async def pass_time(self, seconds: float) -> None:
        """Let the server work for some time: heartbeats move the uptime clock."""
        await self.heartbeats.write()
        while seconds > 0.0:
            step = min(seconds, LONGEST_STEP_SECONDS)
            self._clock.now += step
            seconds -= step
            await self.heartbeats.write()

    def stand_still(self, seconds: float) -> None:
        """Let time pass without a heartbeat, as for a frozen process."""
        self._clock.now += seconds

    async def sweep(self) -> int:
        """Run a sweep, and the expiries of the sweep."""
        pruned = await self.retention.sweep()
        await asyncio.gather(*self.retention.expiry.running.values())
        return pruned

    async def all_events_are_old(self) -> None:
        await self.pass_time(LIMIT_SECONDS)


@asynccontextmanager
async def keeping(
    path: Path, *, epoch: str = "boot", retention_seconds: float = LIMIT_SECONDS
) -> AsyncIterator[Kept]:
    """A core with a retention, with a time moved by the test."""
    clock, expiries = Clock(), Expiries()
    async with running(
        path, epoch=epoch, monotonic=clock, listener=expiries, retention_seconds=retention_seconds
    ) as core:
        yield Kept(core, clock, expiries)


async def sequences(log: EventLog) -> list[int]:
    """The sequences of the stored events."""
    return [logged.sequence for logged in await log.read(range(1, log.head + 1))]


async def emit(core: Core, count: int) -> None:
    await core.queue.submit(*(Emit(event()) for _ in range(count)))
