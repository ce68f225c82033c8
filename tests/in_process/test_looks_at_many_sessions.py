"""Looks at very many sessions: the event loop serves others meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from socketio_eventlog.events import Offset
from socketio_eventstore.adapter import history
from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.core.recovery import hash_pid
from socketio_eventstore.core.sessions import Session
from socketio_eventstore.core.slices import SLICE_LENGTH
from support.embedded import Server

SESSIONS = 4 * SLICE_LENGTH


@pytest.fixture
async def crowded(server: Server) -> AsyncIterator[Server]:
    """A server with many sessions that have no clients."""
    registry = (await server.manager.start()).registry
    sessions = [Session("/", f"s{n}", hash_pid(f"p{n}"), Offset("boot", 0)) for n in range(SESSIONS)]
    for session in sessions:
        registry.add(session)
    yield server
    for session in sessions:
        registry.remove(session)


async def rounds_of(work: Awaitable[Any]) -> tuple[Any, int]:
    """Wait for the work; returns its result, and how often the event loop served others meanwhile."""
    rounds, is_over, loop = 0, False, asyncio.get_running_loop()

    def again() -> None:
        nonlocal rounds
        rounds += 1
        if not is_over:
            loop.call_soon(again)

    loop.call_soon(again)
    try:
        return await work, rounds
    finally:
        is_over = True


async def test_sessions_are_fetched_in_slices(crowded: Server) -> None:
    """A handler that fetches all sessions does not keep others waiting."""
    found, rounds = await rounds_of(crowded.sio.fetch_sessions())
    assert [one.sid for one in found] == [f"s{number}" for number in range(SESSIONS)]
    assert rounds >= SESSIONS / history.FETCHED_AT_ONCE - 1


async def test_sessions_are_counted_in_slices(crowded: Server) -> None:
    """The numbers of a server are counted while it serves others."""
    stats, rounds = await rounds_of(Administration(crowded.sio).stats())
    assert stats.sessions == {"connected": 0, "connecting": SESSIONS, "away": 0}
    assert rounds >= SESSIONS / SLICE_LENGTH - 1
