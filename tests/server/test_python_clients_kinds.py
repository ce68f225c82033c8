"""Stock Python clients with asyncio and with threads, on aiohttp and on uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import socketio

from socketio_eventstore import AsyncServer
from support.asgi import uvicorn_server
from support.embedded import Seen, serving, until
from support.processes import HOST
from support.python_clients import connected, connected_in_threads, emit_all

TRANSPORTS = [
    pytest.param(["websocket"], id="websocket"),
    pytest.param(["polling"], id="polling"),
    pytest.param(["polling", "websocket"], id="upgraded"),
]
KINDS = ["aiohttp", "uvicorn"]


@asynccontextmanager
async def running(kind: str, path: Path, **options: Any) -> AsyncIterator[tuple[Any, str]]:
    """A server on aiohttp or uvicorn, and its address.

    A client with threads may leave without a CLOSE packet, and waits for the next ping then.
    """
    options = {"ping_interval": 1.0, **options}
    if kind == "aiohttp":
        async with serving(path, **options) as server:
            yield server.sio, server.url.removesuffix("/socket.io/")
        return
    sio = AsyncServer(path, async_mode="asgi", **options)
    async with uvicorn_server(socketio.ASGIApp(sio)) as port:
        await sio.start()
        try:
            yield sio, f"http://{HOST}:{port}"
        finally:
            await sio.shutdown()


@pytest.mark.parametrize("serializer", ["default", "msgpack"])
@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_asyncio_clients_on_uvicorn(tmp_path: Path, transports: list[str], serializer: str) -> None:
    """A handler on a stock client gets the emitted arguments in order, and no offset."""
    async with (
        running("uvicorn", tmp_path / "events.db", serializer=serializer) as (sio, url),
        connected(url, transports, serializer=serializer) as client,
    ):
        expected = await emit_all(sio)
        assert await client.seen.until(len(expected)) == expected
        assert await sio.call("ask", "question", to=client.sio.get_sid()) == "answer"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("serializer", ["default", "msgpack"])
@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_clients_with_threads(
    tmp_path: Path, transports: list[str], serializer: str, kind: str
) -> None:
    """Handlers of the synchronous client get the emitted arguments, and no offset."""
    async with (
        running(kind, tmp_path / "events.db", serializer=serializer) as (sio, url),
        connected_in_threads(url, transports, serializer=serializer) as client,
    ):
        is_one_packet = serializer == "msgpack"  # threads may mix up the parts of a binary packet
        expected = await emit_all(sio, binary=is_one_packet)
        seen = await client.seen.until(len(expected))
        assert sorted(map(repr, seen)) == sorted(map(repr, expected))
        assert await sio.call("ask", "question", to=client.sio.get_sid()) == "answer"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_calls_and_departures_of_threads(tmp_path: Path, transports: list[str], kind: str) -> None:
    """The synchronous client emits, calls and leaves; its session ends with its transport."""
    seen = Seen()
    async with running(kind, tmp_path / "events.db") as (sio, url):
        sio.on("echo", lambda _, *arguments: arguments)
        sio.on("disconnect", seen)
        async with connected_in_threads(url, transports) as client:
            sid = client.sio.get_sid()
            assert client.sio.transport() == transports[-1]
            assert await asyncio.to_thread(client.sio.call, "echo", ("a", 1)) == ("a", 1)
            assert await asyncio.to_thread(client.sio.call, "echo", b"\0") == b"\0"
        assert [gone for gone, _ in await seen.until(1)] == [sid]
        runtime = await sio.manager.start()
        await until(lambda: runtime.registry.get("/", sid) is None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_server_disconnects_threads(tmp_path: Path, transports: list[str], kind: str) -> None:
    """A synchronous client that the server disconnects is told so."""
    async with (
        running(kind, tmp_path / "events.db") as (sio, url),
        connected_in_threads(url, transports) as client,
    ):
        reasons = Seen()
        loop = asyncio.get_running_loop()
        client.sio.on("disconnect", lambda reason: loop.call_soon_threadsafe(reasons, reason))
        await sio.disconnect(client.sio.get_sid())
        assert await reasons.until(1) == ["server disconnect"]
