"""A server that is behind another one: an offset of that one is known here, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from socketio_eventlog.changes import Pruned
from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.core.event_pages import EventFilter
from support.embedded import until
from support.in_process_nodes import Nodes, nodes


@pytest.fixture
async def two(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nodes]:
    async with nodes(monkeypatch) as running:
        yield running


async def behind(two: Nodes) -> str:
    """Emit on one server, and hold the event back from the other; return the offset."""
    two.log(1).hold(two.log(1).deliveries)
    offset: str | None = await two.servers[0].sio.emit("news", 1)
    assert offset is not None
    return offset


async def caught_up(two: Nodes, question: Awaitable[Any]) -> Any:
    """Ask the server that is behind, and give out the events when it has appended a catch-up."""
    before, asking = two.count(Pruned), asyncio.ensure_future(question)
    await until(lambda: asking.done() or two.count(Pruned) > before)
    two.log(1).release()
    return await asking


async def test_page_begins_at_offset_of_other(two: Nodes) -> None:
    """A program that has the newest offset from one server asks another one for what follows."""
    operator, offset = Administration(two.servers[1].sio), await behind(two)
    page = await caught_up(two, operator.events(EventFilter(), after=offset, before=None, limit=9))
    assert (page.events, page.newer) == ([], offset)


async def test_feed_begins_at_offset_of_other(two: Nodes) -> None:
    operator, offset = Administration(two.servers[1].sio), await behind(two)
    feed = await caught_up(two, operator.follow(EventFilter(), offset))
    assert feed.cursor == offset


async def test_handler_reads_up_to_offset_of_other(two: Nodes) -> None:
    offset = await behind(two)
    assert await caught_up(two, two.servers[1].sio.events(after=offset)) == []
