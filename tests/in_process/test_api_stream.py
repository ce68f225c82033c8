"""The bounds of server-sent events: slow readers, too many readers, deleted events."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.core.operations import Prune
from socketio_eventstore.program.api.app import api_application
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
    endpoint = stream_endpoint(Administration(server.sio), LIMITS)
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
