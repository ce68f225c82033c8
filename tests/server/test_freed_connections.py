"""Closed connections are free at once, and do not wait for the cyclic garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio

from socketio_eventstore import AsyncServer
from support.asgi import uvicorn_server
from support.clients import NodeClients
from support.embedded import serving, until
from support.processes import HOST

TRANSPORTS = {
    "websocket": ("websocket",),
    "polling": ("polling",),
    "upgraded": ("polling", "websocket"),
}
ENDS = ["client leaves", "client disconnects", "cut", "abort", "server disconnects", "shutdown"]


@asynccontextmanager
async def running(kind: str, path: Path) -> AsyncIterator[tuple[Any, str]]:
    """A server on aiohttp or uvicorn, and its address."""
    if kind == "aiohttp":
        async with serving(path) as server:
            yield server.sio, server.url.removesuffix("/socket.io/")
        return
    sio = AsyncServer(path, async_mode="asgi")
    async with uvicorn_server(socketio.ASGIApp(sio)) as port:
        await sio.start()
        try:
            yield sio, f"http://{HOST}:{port}"
        finally:
            await sio.shutdown()


@pytest.fixture
def collected_by_hand() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def browser() -> aiohttp.ClientSession:
    """A client without keep-alive: aiohttp keeps the last request of an open TCP connection."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))


class Watched:
    """Weak references to the parts of the only open connection."""

    def __init__(self, sio: Any) -> None:
        (connection,) = sio.eio.sockets.values()
        environ, self.idle_timer = sio.environ[connection.id], connection.idle_timer
        parts = {"connection": connection, "body": environ["wsgi.input"]}
        if connection._websocket is not None:
            parts["websocket"] = connection._websocket
        if "aiohttp.request" in environ:
            parts["request"] = environ["aiohttp.request"]
        self._parts = {
            name: weakref.ref(part) for name, part in parts.items() if hasattr(part, "__weakref__")
        }

    @property
    def left(self) -> set[str]:
        return {name for name, reference in self._parts.items() if reference() is not None}

    async def until_free(self) -> None:
        assert "connection" in self._parts
        try:
            await until(lambda: not self.left)
        except TimeoutError:
            raise AssertionError(f"still in memory: {self.left}") from None


@pytest.mark.usefixtures("collected_by_hand")
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("transports", TRANSPORTS)
@pytest.mark.parametrize("kind", ["aiohttp", "uvicorn"])
async def test_a_closed_connection_is_free(
    tmp_path: Path, node: NodeClients, kind: str, transports: str, how: str
) -> None:
    """No part of a closed connection stays in memory, whoever closed it."""
    async with running(kind, tmp_path / "events.db") as (sio, url):
        client = await node.client(url, transports=TRANSPORTS[transports], reconnection=False)
        await client.connected()
        if transports == "upgraded":
            await client.upgraded()
            await until(lambda: next(iter(sio.eio.sockets.values())).upgraded)
        watched = Watched(sio)
        match how:
            case "client leaves":
                await client.close()
            case "client disconnects":
                await client.disconnect()
            case "cut":
                await client.cut()
                if transports == "polling":  # the server cannot notice before the next ping
                    next(iter(sio.eio.sockets.values())).ping_timed_out()
            case "abort":
                next(iter(sio.eio.sockets.values())).abort("by the test")
            case "server disconnects":
                await sio.disconnect(client.sid)
            case "shutdown":
                await sio.shutdown()
        await watched.until_free()


@pytest.mark.usefixtures("collected_by_hand")
@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize("kind", ["aiohttp", "uvicorn"])
async def test_a_connection_without_namespace_is_free(tmp_path: Path, kind: str, transport: str) -> None:
    """A connection whose client never asked for a namespace is free after its end."""
    async with running(kind, tmp_path / "events.db") as (sio, url), browser() as http:
        address = f"{url}/socket.io/?EIO=4&transport={transport}"
        if transport == "websocket":
            async with http.ws_connect(address) as websocket:
                await websocket.receive()
                watched = Watched(sio)
        else:
            async with http.get(address) as response:
                await response.text()
            watched = Watched(sio)
            next(iter(sio.eio.sockets.values())).ping_timed_out()
        await watched.until_free()
        assert watched.idle_timer.cancelled()


@pytest.mark.parametrize("kind", ["aiohttp", "uvicorn"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_handshake_with_a_body(tmp_path: Path, kind: str, chunked: bool) -> None:
    """A handshake with a body is refused: the body would stay in memory with the environ."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"x" * 1000

    async with running(kind, tmp_path / "events.db") as (sio, url), browser() as http:
        address = f"{url}/socket.io/?EIO=4&transport=polling"
        async with http.get(address, data=parts() if chunked else b"x" * 1000) as response:
            assert (response.status, await response.json()) == (400, {"code": 3, "message": "Bad request"})
        assert not sio.eio.sockets and not sio.environ


@pytest.mark.usefixtures("collected_by_hand")
@pytest.mark.parametrize("kind", ["aiohttp", "uvicorn"])
async def test_a_cancelled_upgrade_is_free(tmp_path: Path, kind: str) -> None:
    """A WebSocket that began an upgrade and ended before is free, and so is its connection."""
    async with running(kind, tmp_path / "events.db") as (sio, url), browser() as http:
        async with http.get(f"{url}/socket.io/?EIO=4&transport=polling") as response:
            await response.text()
        watched = Watched(sio)
        (sid,) = sio.eio.sockets
        address = f"{url}/socket.io/?EIO=4&transport=websocket&sid={sid}"
        async with http.ws_connect(address) as websocket:
            await websocket.send_str("2probe")
            assert (await websocket.receive()).data == "3probe"
            await websocket.send_str("nonsense")
            assert (await websocket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        next(iter(sio.eio.sockets.values())).ping_timed_out()
        await watched.until_free()
