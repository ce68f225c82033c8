"""What one client that comes back can cause is bounded before it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from socketio_eventlog.events import Missed
from socketio_eventlog.snapshot import Membership
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.core.old_events import OldEvents
from socketio_eventstore.core.packets import TextEncoder
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits, RecoveryResult
from socketio_eventstore.core.replay import LOOK_UP_EVENTS
from support.core import Core, Recorder, running

EVENTS = 6000


class ListingLog:
    """A real log that records how many events each search lists."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.listed: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def missed(
        self, namespace: str, memberships: Sequence[Membership], after: int, through: int, **options: Any
    ) -> Missed:
        missed = await self._log.missed(namespace, memberships, after, through, **options)
        self.listed.append(len(missed.sequences))
        return missed

    def missed_in_memory(
        self, namespace: str, memberships: Sequence[Membership], after: int, through: int, **options: Any
    ) -> Missed | None:
        missed = self._log.missed_in_memory(namespace, memberships, after, through, **options)
        self.listed.append(0 if missed is None else len(missed.sequences))
        return missed


async def emit_many(core: Core) -> None:
    await asyncio.gather(*(core.emit("hello", "room") for _ in range(EVENTS)))


async def test_a_decision_lists_no_events(core: Core) -> None:
    """A decision about a client with many missed events makes no list of them."""
    session, _ = await core.live("s1", "room")
    await core.away(session)
    await emit_many(core)
    log: Any = ListingLog(core.log)
    for count, expected in [(EVENTS, 0), (EVENTS - 1, RecoveryResult.TOO_MANY_MISSED)]:
        limits = RecoveryLimits(60.0, count, 10**8)
        recovery = Recovery(log, core.registry, limits, OldEvents(log, TextEncoder()))
        assert await recovery.decide(session, None, core.log.head, lambda: 0.0) == expected
    assert log.listed == []


async def test_a_replay_looks_up_few_events(path: Path) -> None:
    """A replay looks up the events of a few pages, however many the client has missed."""
    async with running(path, tail_bytes=1) as core:
        session, _ = await core.live("s1", "room")
        await core.away(session)
        await emit_many(core)
        log: Any = ListingLog(core.log)
        core.replayer._log = log
        connection = Recorder()
        assert await core.recover(session, connection, 0)
        await connection.sent(EVENTS)
        assert log.listed and max(log.listed) <= LOOK_UP_EVENTS + 1
