"""What replays read, in the hands of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from socketio_eventlog.records import LoggedEvent, Membership, Missed
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.core import replay
from socketio_eventstore.core.sessions import Session
from support.core import Core, running, said

CONNECT = '40{"sid":"s1","pid":"s1"}'


class HeldHistory:
    """A real log whose reads can be held back, or fail; its answers are as short as they may be."""

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

    async def read(self, numbers: Sequence[int], limit_bytes: int) -> list[LoggedEvent]:
        self.reads.append(list(numbers))
        self.reached.set()
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return await self._log.read(numbers, limit_bytes)


def holding(core: Core) -> HeldHistory:
    """What the replays read is in the hands of the test."""
    core.replayer._history = history = HeldHistory(core.log)
    return history


async def away(core: Core, *rooms: str) -> Session:
    session, _ = await core.live("s1", *rooms)
    await core.away(session)
    return session


async def emit_numbers(core: Core, count: int) -> list[str | bytes]:
    """Emits events to all; returns the packets that make them."""
    numbers = [core.dispatcher.position + number for number in range(1, count + 1)]
    await asyncio.gather(*(core.emit(f"number {number}") for number in numbers))
    return [said(f"number {number}", number) for number in numbers]


@asynccontextmanager
async def running_in_small_pages(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Core]:
    """Every event is read from the disk, in small pages."""
    monkeypatch.setattr(replay, "PAGE_EVENTS", 3)
    monkeypatch.setattr(replay, "LOOK_UP_EVENTS", 7)
    monkeypatch.setattr(replay, "READ_EVENTS", 5)
    async with running(path, tail_bytes=0) as core:
        yield core
