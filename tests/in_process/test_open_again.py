"""A server is started again: after its shutdown, and on a second event loop, as every test suite does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio
from aiohttp import web

from socketio_eventlog.errors import StoreClosed
from socketio_eventstore import AsyncServer, RecoveryManager
from support.embedded import Polling, Server, packets_until_marker, serving
from support.processes import HOST


async def test_handshake_opens_the_store_again(server: Server) -> None:
    """After a shutdown a late emit is refused, and a handshake opens the store; clients recover."""
    client = await server.socket()
    secret = {"pid": (await client.connect())["pid"]}
    await server.sio.enter_room(client.sid, "room")
    for _ in range(2):
        await server.sio.shutdown()
        with pytest.raises(StoreClosed):
            await server.sio.emit("too late", room="room")
        again = await server.socket()
        assert (await again.connect(auth=secret))["sid"] == client.sid
        secret["offset"] = offset = await server.sio.emit("in time", room="room")
        assert await again.event() == ["in time", offset]


async def test_start_opens_the_store_again(server: Server) -> None:
    """After a shutdown ``start`` opens the store, and every call works."""
    await server.sio.shutdown()
    for call in (server.sio.close_room("room"), server.sio.revoke_identity("ann"), server.sio.send("x")):
        with pytest.raises(StoreClosed):
            await call
    await server.sio.start()
    client = await server.client()
    assert await packets_until_marker(server, client) == [[]]


async def test_handshake_during_the_shutdown(server: Server) -> None:
    """A handshake while the store is being closed waits for the end of that, and opens it."""
    await server.sio.emit("x")
    closing = asyncio.create_task(server.sio.shutdown())
    clients = await asyncio.gather(*(server.client() for _ in range(5)))
    await closing
    assert len(clients) == 5
    client = await server.client()
    assert await packets_until_marker(server, client) == [[]]


async def test_program_that_ends_does_not_open_again(server: Server) -> None:
    """When the program ends, a handshake gets 503 with Retry-After."""
    server.manager.reopens = False
    await server.sio.shutdown()
    async with server.http.get(server.url, params={"EIO": "4", "transport": "polling"}) as response:
        assert response.status == 503 and int(response.headers["Retry-After"]) > 0
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await server.socket()
    assert refused.value.status == 503
    with pytest.raises(StoreClosed):
        await server.sio.start()
    assert server.engine.sockets == {}


async def test_unusable_store_answers_503(tmp_path: Path) -> None:
    """While the store cannot be opened a handshake gets 503; afterwards the next one is accepted."""
    path = tmp_path / "events.db"
    path.mkdir()
    async with serving(path) as server:
        async with server.http.get(server.url, params={"EIO": "4", "transport": "polling"}) as response:
            assert response.status == 503 and "Retry-After" in response.headers
        path.rmdir()
        assert (await Polling(server).get())[0] == 200


Use = Callable[[Server], Awaitable[Any]]


async def served(sio: Any, use: Use, *, shutdown: bool) -> Any:
    """Serves an application that exists on this event loop; returns the result of ``use``."""
    app = web.Application()
    sio.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0).start()
        async with aiohttp.ClientSession() as http:
            url = f"http://{HOST}:{runner.addresses[0][1]}/socket.io/"
            return await use(Server(sio, sio.manager, http, url))
    finally:
        if shutdown:
            await sio.shutdown()
        await runner.cleanup()


@pytest.mark.parametrize("shutdown", [True, False], ids=["shut down", "abandoned"])
@pytest.mark.parametrize("enabled", [True, False], ids=["", "disabled"])
def test_server_lives_on_several_loops(path: Path, enabled: bool, shutdown: bool) -> None:
    """One application runs on one event loop after the other, with or without a shutdown between."""
    manager = RecoveryManager(path if enabled else None)
    sio = socketio.AsyncServer(async_mode="aiohttp", client_manager=manager)
    connects: list[str] = []
    sio.on("connect", lambda sid, *_: connects.append(sid))
    sio.on("ask", lambda *_: "answer")
    secrets: list[dict[str, Any]] = []

    async def use(server: Server) -> None:
        client = await server.socket()
        answer = await client.connect(auth=secrets[-1] if secrets else None)
        assert not secrets or answer["pid"] == secrets[-1]["pid"]
        await sio.enter_room(client.sid, "room")
        await sio.emit("hello", room="room")
        event = await client.event()
        assert event[0] == "hello"
        if enabled:
            secrets.append({"pid": answer["pid"], "offset": event[-1]})
        await sio.save_session(client.sid, {"a": 1})
        assert await client.call("ask") == ["answer"]
        await server.client()  # left open

    for _ in range(3):
        asyncio.run(served(sio, use, shutdown=shutdown))
    assert len(connects) == 6


@pytest.mark.parametrize("limit", ["connections", "pending_handshakes"])
def test_limits_forget_ended_loops(path: Path, limit: str) -> None:
    """The connections of an event loop that has ended do not count any more."""
    arguments: Any = {limit: 1}
    sio = AsyncServer(path, async_mode="asgi", **arguments)
    app = socketio.ASGIApp(sio)
    for _ in range(3):
        assert asyncio.run(get(app, "/socket.io/?EIO=4&transport=polling"))[0] == 200
        assert sio.eio.pending == len(sio.eio.sockets) == 1
    asyncio.run(sio.emit("x"))
    assert sio.eio.pending == len(sio.eio.sockets) == 0
    asyncio.run(sio.shutdown())


def test_emits_on_several_loops(path: Path) -> None:
    """The first call on another event loop opens the store, also when it is an emit; offsets increase."""
    sio = AsyncServer(path, async_mode="asgi")
    offsets = [asyncio.run(sio.emit("x")) for _ in range(3)]
    assert [str(offset).partition(".")[2] for offset in offsets] == ["1", "2", "3"]

    async def emit_and_shut_down() -> None:
        await sio.emit("x")
        await sio.shutdown()

    for _ in range(2):
        asyncio.run(emit_and_shut_down())
    asyncio.run(sio.disconnect("unknown"))
    with pytest.raises(KeyError):
        asyncio.run(sio.save_session("unknown", {}))
    asyncio.run(sio.shutdown())


async def get(app: Any, path: str) -> tuple[int, bytes]:
    """One GET of an ASGI application, as a test client sends it; returns status and body."""
    url, _, query = path.partition("?")
    headers = [(b"host", b"test")]
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": url,
        "raw_path": url.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def test_asgi_requests_on_several_loops(path: Path) -> None:
    """Each test of a FastAPI suite has a loop of its own; the module's application serves all of them."""
    sio = AsyncServer(path, async_mode="asgi")

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        offset = await sio.emit("hello")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(offset).encode()})

    whole = socketio.ASGIApp(sio, app)
    numbers = []
    for _ in range(3):
        for request in ("/emit", "/socket.io/?EIO=4&transport=polling", "/emit"):
            status, body = asyncio.run(get(whole, request))
            assert status == 200
            numbers.append(body.partition(b".")[2] if request == "/emit" else body[:1])
    assert numbers == [b"1", b"0", b"2", b"3", b"0", b"4", b"5", b"0", b"6"]
    asyncio.run(sio.shutdown())
