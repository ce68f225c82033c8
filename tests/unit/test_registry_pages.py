"""Pages of a large registry."""

from __future__ import annotations

import asyncio
import random

from socketio_eventlog.events import Offset
from socketio_eventstore.core import registry_pages
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.registry_pages import SessionFilter, SessionKey
from socketio_eventstore.core.sessions import Session, State

COUNT = 5000


def registry_with_sessions() -> Registry:
    registry, names = Registry(), [f"s{number}" for number in range(COUNT)]
    random.Random(1).shuffle(names)
    for number, sid in enumerate(names):
        session = Session(
            namespace="/a" if number % 3 else "/b",
            sid=sid,
            pid_hash=sid.encode(),
            start=Offset("epoch", 0),
            state=State.LIVE if number % 2 else State.AWAY,
        )
        registry.add(session)
    return registry


async def all_sessions(registry: Registry, wanted: SessionFilter) -> list[SessionKey]:
    found: list[SessionKey] = []
    after: SessionKey | None = None
    while True:
        page, after = await registry_pages.sessions(registry, wanted, after, 700)
        found += [(session.namespace, session.sid) for session in page]
        if after is None:
            return found


async def test_pages_have_each_session_once() -> None:
    """All pages together have each fitting session once, in order."""
    registry = registry_with_sessions()
    everyone = sorted((session.namespace, session.sid) for session in registry)
    assert await all_sessions(registry, SessionFilter()) == everyone
    away = SessionFilter(frozenset({State.AWAY}), "/a")
    expected = [key for key in everyone if key[0] == "/a" and registry.get(*key).state is State.AWAY]  # type: ignore[union-attr]
    assert await all_sessions(registry, away) == expected


async def test_a_page_serves_others_meanwhile() -> None:
    """The event loop turns while a page of a large registry is made."""
    registry = registry_with_sessions()
    page = asyncio.ensure_future(registry_pages.sessions(registry, SessionFilter(), None, 10))
    turns = 0
    while not page.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= COUNT // registry_pages.SLICE


async def test_sessions_that_go_meanwhile() -> None:
    """A page survives sessions that end while it is made, and shows no ended session."""
    registry = registry_with_sessions()
    page = asyncio.ensure_future(registry_pages.sessions(registry, SessionFilter(), None, 10))
    await asyncio.sleep(0)
    for session in list(registry):
        registry.remove(session)
    await page
    assert await registry_pages.sessions(registry, SessionFilter(), None, 10) == ([], None)
