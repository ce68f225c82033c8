"""WebSockets that the front door opens without aiohttp, and connections that it passes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from socketio_eventstore import AsyncServer
from socketio_eventstore.core.senders import current_sender
from socketio_eventstore.transport import front_door
from socketio_eventstore.transport.front_door import FrontDoor
from socketio_eventstore.transport.websocket_handshake import IGNORES_WEBSOCKETS
from support.embedded import Server, until
from support.processes import DEADLINE, HOST
from support.raw_websocket import handshake_request, text


class Door:
    """A server behind a front door, and aiohttp's part of it."""

    def __init__(self, server: Server, sio: AsyncServer, app: web.Application, aiohttp_server: Any) -> None:
        self.server = server
        self.sio = sio
        self.app = app
        self._aiohttp = aiohttp_server

    @property
    def requests(self) -> int:
        """The number of requests that aiohttp has got."""
        count: int = self._aiohttp.requests_count
        return count


@asynccontextmanager
async def door(path: Path | None, timeout_seconds: float = DEADLINE, **arguments: Any) -> AsyncIterator[Door]:
    """Serve an application behind a front door."""
    sio, app = AsyncServer(path, async_mode="aiohttp", **arguments), web.Application()
    sio.attach(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    assert runner.server is not None
    front = FrontDoor(sio.eio, app, runner.server, timeout_seconds)
    listening = await asyncio.get_running_loop().create_server(front, HOST, 0)
    url = f"http://{HOST}:{listening.sockets[0].getsockname()[1]}/socket.io/"
    try:
        async with aiohttp.ClientSession() as http:
            server = Server(sio, sio.manager, http, url)  # type: ignore[arg-type]
            try:
                yield Door(server, sio, app, runner.server)
            finally:
                await server.close_sockets()
    finally:
        listening.close()
        front.close()
        await sio.shutdown()
        await runner.cleanup()


async def exchange(door: Door, *parts: bytes, until: bytes) -> bytes:
    """Send parts with a pause of the event loop in between; return what comes up to some bytes."""
    host, _, port = door.server.url.split("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(DEADLINE):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            return await reader.readuntil(until)
    finally:
        writer.close()


async def test_a_websocket_needs_no_request_of_aiohttp(path: Path) -> None:
    """A client connects, sends events and gets answers; aiohttp has seen no request."""
    async with door(path) as front:

        async def say(sid: str, word: str) -> str:
            return word.upper()

        front.sio.on("say", say)
        await front.sio.start()
        client = await front.server.client()
        assert await client.call("say", "hello") == ["HELLO"]
        assert await client.event_of(front.sio.emit("news", 1)) == ["news", 1]
        assert front.requests == 0 and len(front.sio.eio.sockets) == 1


async def test_packet_right_behind_the_handshake(path: Path) -> None:
    """A packet that comes with the handshake is read, and the response and the first packet come before."""
    async with door(path) as front:
        await front.sio.start()
        got = await exchange(front, handshake_request() + text("40"), until=b'40{"sid":"')
        assert got.startswith(b"HTTP/1.1 101 ") and got.index(b'0{"sid":"') < got.index(b'40{"sid":"')
        assert front.requests == 0


async def test_early_packet_leaves_no_sender(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender of a packet behind the handshake is not that of later connections of the same listener."""
    received, senders = FrontDoor.received, list[object]()

    def look_after(front: FrontDoor, transport: asyncio.Transport, data: bytes) -> None:
        received(front, transport, data)
        senders.append(current_sender.get())

    monkeypatch.setattr(FrontDoor, "received", look_after)
    async with door(path) as front:
        await front.sio.start()
        await exchange(front, handshake_request() + text("40"), until=b'40{"sid":"')
        assert front.requests == 0 and senders == [None]


async def test_a_divided_handshake_goes_to_aiohttp(path: Path) -> None:
    """A handshake that comes in two parts opens a WebSocket, too."""
    async with door(path) as front:
        await front.sio.start()
        request = handshake_request()
        got = await exchange(front, request[:30], request[30:], until=b'0{"sid":"')
        assert got.startswith(b"HTTP/1.1 101 ")


async def test_the_first_handshake_opens_the_store(path: Path) -> None:
    """Without ``start`` a handshake waits for the opening of the store, in aiohttp."""
    async with door(path) as front:
        await front.server.client()
        assert front.requests == 1
        await front.server.client()
        assert front.requests == 1


async def test_polling_and_upgrade_go_to_aiohttp(path: Path) -> None:
    """A client that polls connects, and changes to a WebSocket."""
    async with door(path) as front:
        await front.sio.start()
        polling = await front.server.polling()
        await polling.connect()
        upgrade = await polling.websocket()
        await upgrade.send("2probe")
        assert await upgrade.packet() == "3probe"
        assert front.requests >= 3


async def test_refused_origin_is_counted_once(path: Path) -> None:
    """The page of a foreign origin is refused with 403 and counts once."""
    async with door(path, cors_allowed_origins="https://chat.example") as front:
        await front.sio.start()
        query = {"EIO": "4", "transport": "websocket"}
        for origin, is_allowed in (("https://chat.example", True), ("https://evil.example", False)):
            opening = front.server.open_socket(query, {"Origin": origin})
            if is_allowed:
                await (await opening).content("0")
            else:
                with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                    await opening
                assert refusal.value.status == 403
        assert front.sio.eio.access.refused["origin"] == 1


async def test_full_server_refuses_and_counts_once(path: Path) -> None:
    """A handshake beyond ``connections`` gets 503 and counts once; the first connection goes on."""
    async with door(path, connections=1) as front:
        await front.sio.start()
        client = await front.server.client()
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await front.server.websocket()
        assert refusal.value.status == 503
        assert front.sio.eio.refused_handshakes["connections"] == 1
        assert await client.event_of(front.sio.emit("news")) == ["news"]


async def test_full_address_refuses_and_counts_once(path: Path) -> None:
    """A handshake beyond ``handshakes_per_address`` gets 429 and counts once."""
    limits: dict[str, Any] = {"handshakes_per_address": 1, "trusted_proxies": [HOST]}
    async with door(path, **limits) as front:
        await front.sio.start()
        query, headers = {"EIO": "4", "transport": "websocket"}, {"X-Forwarded-For": "203.0.113.7"}
        await (await front.server.open_socket(query, headers)).content("0")
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await front.server.open_socket(query, headers)
        assert refusal.value.status == 429
        assert front.sio.eio.refused_handshakes["handshakes_per_address"] == 1


async def test_ending_life_takes_no_clients(path: Path) -> None:
    """While the handlers of a node's life end, a handshake gets 503; the next life takes clients."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def disconnected(sid: str, reason: str) -> None:
        begun.set()
        await may_end.wait()

    async with door(path) as front:
        front.sio.on("connect", lambda sid, environ: None)
        front.sio.on("disconnect", disconnected)
        await front.sio.start()
        await front.server.client()
        front.sio.lost("a test")
        await begun.wait()
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await front.server.websocket()
        assert refusal.value.status == 503 and not front.sio.eio.sockets
        may_end.set()
        await until(lambda: not front.sio.rejoining.is_running)
        client = await front.server.client()
        assert await client.event_of(front.sio.emit("news")) == ["news"]


@pytest.mark.parametrize("fault", ["Sec-WebSocket-Version: 12", "Content-Length: 4", "Sec-WebSocket-Key: x"])
async def test_invalid_handshake_leaves_nothing(path: Path, fault: str) -> None:
    """An invalid handshake gets 400, and no connection counts."""
    name = fault.partition(":")[0].encode()
    lines = [line for line in handshake_request().split(b"\r\n") if line and not line.startswith(name)]
    async with door(path) as front:
        await front.sio.start()
        request = b"\r\n".join([*lines, fault.encode(), b"", b"body" if "Length" in fault else b""])
        got = await exchange(front, request, until=b"\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 400 ")
        assert not front.sio.eio.sockets and not front.sio.environ and front.sio.eio.pending == 0


async def test_handlers_get_the_request_of_aiohttp(path: Path) -> None:
    """The environ has headers, the peer and a request of aiohttp with its application."""
    environs: list[dict[str, Any]] = []

    async def connect(sid: str, environ: dict[str, Any]) -> None:
        environs.append(environ)

    async with door(path) as front:
        front.sio.on("connect", connect)
        await front.sio.start()
        query = {"EIO": "4", "transport": "websocket", "room": "a"}
        socket = await front.server.open_socket(query, {"Cookie": "name=value", "X-One": "1"})
        await socket.content("0")
        await socket.connect()
        (environ,) = environs
        request = environ["aiohttp.request"]
        assert environ["HTTP_X_ONE"] == "1" and environ["PATH_INFO"] == "/socket.io/"
        assert request.cookies == {"name": "value"} and request.query["room"] == "a"
        assert request.remote == HOST and request.app is front.app
        assert request.transport.get_extra_info("peername")[0] == HOST
        assert front.requests == 0


async def test_silent_connection_is_closed(path: Path) -> None:
    """A connection that sends nothing is closed after the timeout; one that has sent its bytes is not."""
    async with door(path, timeout_seconds=1.0) as front:
        await front.sio.start()
        client = await front.server.client()
        host, _, port = front.server.url.split("/")[2].partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == b""
        writer.close()
        assert await client.event_of(front.sio.emit("news")) == ["news"]


async def test_silent_connections_are_closed_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many connections that were opened together and send nothing do not keep others waiting at their end."""
    monkeypatch.setattr(front_door, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(front_door, "CLOSED_AT_ONCE", 2)
    closed, seen = list[asyncio.Transport](), set[int]()

    class Silent(asyncio.Transport):
        def close(self) -> None:
            closed.append(self)

    server: Any = None
    front = FrontDoor(AsyncServer(None, async_mode="aiohttp").eio, web.Application(), server, 0.0)
    connections = [Silent() for _ in range(5)]
    for connection in connections:
        front.opened(connection)

    def all_closed() -> bool:
        seen.add(len(closed))
        return len(closed) == len(connections)

    await until(all_closed)
    assert closed == connections and {2, 4, 5} <= seen <= {0, 2, 4, 5}


async def test_no_door_where_something_looks_at_requests() -> None:
    """Middlewares and signals that concern WebSockets get every request."""
    sio = AsyncServer(None, async_mode="aiohttp")

    @web.middleware
    async def look(request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        return response

    def is_needed(app: web.Application, *, attach: bool = True) -> bool:
        if attach:
            sio.attach(app)
        app.freeze()
        server: Any = None
        return FrontDoor(sio.eio, app, server, 1.0).is_needed

    assert is_needed(web.Application())
    assert not is_needed(web.Application(), attach=False)
    assert not is_needed(web.Application(middlewares=[look]))
    setattr(look, IGNORES_WEBSOCKETS, True)
    assert is_needed(web.Application(middlewares=[look]))
