"""The bounds of server-sent events: slow readers, too many readers, deleted events."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from socketio_eventlog.events import LoggedEvent
from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.adapter.feeds import Feed
from socketio_eventstore.adapter.history import StoredEvent
from socketio_eventstore.core import tail
from socketio_eventstore.core.event_pages import EventFilter
from socketio_eventstore.core.operations import Prune
from socketio_eventstore.program.api import event_texts
from socketio_eventstore.program.api.app import api_application
from socketio_eventstore.program.api.event_texts import EventTexts
from socketio_eventstore.program.api.events import EventResult, event_result
from socketio_eventstore.program.api.stream import StreamLimits, stream_endpoint
from socketio_eventstore.program.keys import ApiKeys, hash_of
from support.api import KEY
from support.embedded import Server
from support.processes import DEADLINE

Reading = Callable[..., AbstractAsyncContextManager[aiohttp.ClientResponse]]
LIMITS = StreamLimits(streams=2, keep_alive_seconds=0.2, look_seconds=0.05, write_seconds=0.5)


@pytest.fixture
async def reading(server: Server) -> AsyncIterator[Reading]:
    """Open a stream of the server, with small limits."""
    async with reading_with(server, LIMITS) as read:
        yield read


@asynccontextmanager
async def reading_with(server: Server, limits: StreamLimits) -> AsyncIterator[Reading]:
    endpoint = stream_endpoint(Administration(server.sio), limits)
    app = api_application(ApiKeys({"tests": [hash_of(KEY)]}), [endpoint])
    async with TestServer(app) as serving, aiohttp.ClientSession() as session:

        @asynccontextmanager
        async def read(last_id: str | None = None, **query: str) -> AsyncIterator[aiohttp.ClientResponse]:
            headers = {"Authorization": f"Bearer {KEY}", **({"Last-Event-ID": last_id} if last_id else {})}
            url = serving.make_url("/events/stream")
            async with asyncio.timeout(DEADLINE), session.get(url, headers=headers, params=query) as response:
                yield response

        yield read


async def test_slow_reader(server: Server, reading: Reading) -> None:
    """A reader that takes nothing is cut off, and has the rest by its last id."""
    async with reading() as holder:
        with socket.create_connection((holder.url.host, holder.url.port), DEADLINE) as slow:
            request = f"GET /events/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n"
            slow.sendall(request.encode())
            assert b"200 OK" in await asyncio.to_thread(slow.recv, 1000)
            await until_streams(reading, status=503)
            emitting = [asyncio.ensure_future(server.sio.emit("big", "x" * 1_000_000)) for _ in range(20)]
            offsets = [str(offset) for offset in await asyncio.gather(*emitting)]
            holder.close()
            await until_streams(reading, status=200, at_once=2)
            content = await asyncio.to_thread(received, slow)
    got = [line[4:] for line in content.splitlines() if line.startswith("id: ") and line[4:] in offsets]
    assert got == offsets[: len(got)] and 0 < len(got) < 20
    async with reading(offsets[len(got) - 2]) as again:  # the last one may be incomplete
        assert (await again.content.readuntil(b"data: ")).endswith(f"id: {got[-1]}\ndata: ".encode())


async def until_streams(reading: Reading, status: int, at_once: int = 1) -> None:
    """Wait until so many more streams get the status."""
    statuses = [0]
    while statuses != [status] * at_once:
        async with AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(reading()) for _ in range(at_once)]
            statuses = [response.status for response in opened]


def received(connection: socket.socket) -> str:
    """Everything that has arrived until the connection was closed."""
    parts: list[bytes] = []
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts).decode(errors="replace")


async def test_too_many_readers(reading: Reading) -> None:
    """Beyond the limit of readers there is a 503; one that has gone makes room."""
    async with reading() as first:
        async with reading() as second, reading() as third:
            assert (first.status, second.status, third.status) == (200, 200, 503)
            assert third.headers["Retry-After"] == "10"
        while True:
            async with reading() as again:
                if again.status == 200:
                    break


async def test_silence(server: Server, reading: Reading, path: Path) -> None:
    """In a silence the stream tells how far it came, so a return does not begin too early."""
    async with reading(room="red") as response:
        offset = await server.sio.emit("said", room="blue")
        while (await response.content.readline()).decode().strip() != f"id: {offset}":
            pass


async def test_text_is_made_once(server: Server, reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of an event is made once for all streams."""
    made: list[StoredEvent] = []

    def counted(event: StoredEvent) -> EventResult:
        made.append(event)
        return event_result(event)

    monkeypatch.setattr(event_texts, "event_result", counted)
    offsets = [str(await server.sio.emit("said", number)) for number in range(3)]
    for _ in range(2):
        async with reading(offsets[0]) as response:
            for offset in offsets[1:]:
                assert f"id: {offset}\n" in (await response.content.readuntil(b"data: ")).decode()
    assert [event.offset for event in made] == offsets[1:]


async def test_redacted_text(server: Server) -> None:
    """The text of an event that was changed is made anew."""
    texts, feed = EventTexts(), await Administration(server.sio).follow(EventFilter(), None)
    await server.sio.emit("said", "secret")
    (event,) = await feed.next()
    assert b"secret" in texts.of(feed, event)
    redacted = LoggedEvent(event.sequence, event.event._replace(payload='["said","none"]'))
    assert b"none" in texts.of(feed, redacted) and b"secret" not in texts.of(feed, redacted)


async def test_others_between_portions(server: Server) -> None:
    """A reader takes some events at a time, also those in memory, and lets others work between them."""
    feed = await Administration(server.sio).follow(EventFilter(), None)
    await asyncio.gather(*(server.sio.emit("said", number) for number in range(250)))
    reading = asyncio.ensure_future(all_of(feed, 250))
    steps = 0
    while not reading.done():
        await asyncio.sleep(0)
        steps += 1
    assert [len(part) for part in await reading] == [100, 100, 50] and steps >= 3


async def all_of(feed: Feed, count: int) -> list[list[LoggedEvent]]:
    """The portions of so many events."""
    portions: list[list[LoggedEvent]] = []
    while sum(map(len, portions)) < count:
        await feed.grown()
        portions.append(await feed.next())
    return portions


async def test_slow_search(server: Server) -> None:
    """A search that takes longer than a look at the reader's end is not thrown away."""
    offset = str(await server.sio.emit("said", "first"))
    await server.sio.emit("said", "found")
    (await server.manager.start()).context.recent_events.clear()
    async with reading_with(server, replace(LIMITS, look_seconds=0)) as read, read(offset) as response:
        assert b"found" in await response.content.readuntil(b"data: ") + await response.content.readline()


async def test_no_reader(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last reader that waits has gone, no timer runs for it."""
    timers: list[asyncio.TimerHandle] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def recorded(delay: float, call: Callable[..., object], *arguments: Any) -> asyncio.TimerHandle:
        timer = call_later(delay, call, *arguments)
        if getattr(call, "__module__", "") == tail.__name__:
            timers.append(timer)
        return timer

    monkeypatch.setattr(loop, "call_later", recorded)
    feed = await Administration(server.sio).follow(EventFilter(), None)
    for _ in range(2):
        waiting = asyncio.ensure_future(feed.grown())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    await asyncio.wait([asyncio.ensure_future(feed.grown()), asyncio.ensure_future(server.sio.emit("said"))])
    assert len(timers) >= 3 and all(timer.cancelled() for timer in timers[:2])


async def test_deleted_events(server: Server, reading: Reading) -> None:
    """A reader whose events were deleted is told so, and does not go on as if there were none."""
    offsets = [str(await server.sio.emit("said", number)) for number in range(3)]
    await (await server.manager.start()).queue.submit(Prune(2))
    async with reading(offsets[0]) as response:
        assert (response.status, response.content_type) == (410, "application/problem+json")
    async with reading(offsets[1]) as response:
        assert response.status == 200
        assert await response.content.readuntil(b"data: ")
    async with reading("unknown.1") as response:
        assert response.status == 409
        assert (await response.json(content_type=None))["errors"][0]["field"] == "Last-Event-ID"
