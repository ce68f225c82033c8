"""Replays with reads of the log that a test can pause and fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from socketio_eventlog.events import LoggedEvent, Missed
from socketio_eventlog.log import Log
from socketio_eventlog.snapshot import Membership
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.core import replay
from socketio_eventstore.core.sessions import Session
from support.core import Core, running, said

CONNECT = '40{"sid":"s1","pid":"s1"}'


class PausableReads:
    """A real log with reads that a test can pause and fail; a look-up returns as few sequences as allowed."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.reads: list[list[int]] = []
        self.failure: Exception | None = None
        self.missed_failure: Exception | None = None
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def missed(
        self, namespace: str, memberships: Sequence[Membership], after: int, through: int, **options: Any
    ) -> Missed:
        if self.missed_failure is not None:
            raise self.missed_failure
        found = await self._log.missed(namespace, memberships, after, through, **options)
        return replace(found, sequences=found.sequences[: options["at_most"] + 1])

    async def read(self, sequences: Sequence[int], limit_bytes: int) -> list[LoggedEvent]:
        self.reads.append(list(sequences))
        self.reached.set()
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return await self._log.read(sequences, limit_bytes)


def pausable_reads(core: Core) -> PausableReads:
    """Let the test pause and fail the reads of the replays."""
    history = PausableReads(core.log)
    core.replayer._log = cast("Log", history)
    return history


async def away(core: Core, *rooms: str) -> Session:
    session, _ = await core.live("s1", *rooms)
    await core.away(session)
    return session


async def emit_numbers(core: Core, count: int) -> list[str | bytes]:
    """Emits events to the namespace; returns the packets."""
    sequences = [core.queue.position + sequence for sequence in range(1, count + 1)]
    await asyncio.gather(*(core.emit(f"number {sequence}") for sequence in sequences))
    return [said(f"number {sequence}", sequence) for sequence in sequences]


@asynccontextmanager
async def running_in_small_pages(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Core]:
    """A core that reads every event from the disk, in small pages."""
    monkeypatch.setattr(replay, "PAGE_EVENTS", 3)
    monkeypatch.setattr(replay, "LOOK_UP_EVENTS", 7)
    monkeypatch.setattr(replay, "READ_EVENTS", 5)
    async with running(path, tail_bytes=0) as core:
        yield core
