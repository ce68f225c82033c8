"""WebSockets on aiohttp, on the wire: frames, close codes, compression and the takeover from aiohttp."""

from __future__ import annotations

import asyncio
import gc
import struct
import weakref
from collections.abc import AsyncIterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import socketio
from aiohttp import web
from aiohttp.typedefs import Handler

from socketio_eventstore import RecoveryManager
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.transport import aiohttp_websocket
from socketio_eventstore.transport.aiohttp_websocket import AiohttpWebSocket
from support.clients import NodeClients
from support.embedded import Seen, Server, serving, until
from support.processes import DEADLINE, HOST, ServerProcess
from support.raw_websocket import Wire, certified, wire_to
from support.recovering import recovers_what_it_missed

COMPRESSED = 0x40


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path / "events.db", recovery={"websocket_compression": 300}) as server:
        yield server


@pytest.mark.parametrize(
    "offer", ["permessage-deflate; client_max_window_bits", "x-other, permessage-deflate"]
)
async def test_compression_is_accepted(server: Server, offer: str) -> None:
    """Messages from websocket_compression bytes on are compressed if the client offers compression."""
    async with wire_to(server) as wire:
        await wire.shake_hands(offer)
        assert "permessage-deflate; server_no_context_takeover; client_no_context_takeover" in wire.response
        await wire.connect()
        await server.sio.emit("long", "x" * 1000)
        await server.sio.emit("short")
        head, payload = await wire.frame()
        assert head & COMPRESSED and len(payload) < 100
        head, payload = await wire.frame()
        assert not head & COMPRESSED and payload.startswith(b'42["short"')


@pytest.mark.parametrize(
    "offer", ["", "permessage-deflate; server_max_window_bits=10", "permessage-deflate; unknown", "x-other"]
)
async def test_compression_is_not_accepted(server: Server, offer: str) -> None:
    """No message is compressed without a fitting offer of the client."""
    async with wire_to(server) as wire:
        await wire.shake_hands(offer)
        assert "permessage-deflate" not in wire.response
        await wire.connect()
        await server.sio.emit("long", "x" * 1000)
        head, payload = await wire.frame()
        assert not head & COMPRESSED and payload.startswith(b'42["long","xxx')


async def test_recovery_over_compressed_websockets(tmp_path: Path, node: NodeClients) -> None:
    """Official clients recover over compressed WebSockets."""
    config = {"server": {"websocket_compression": 1}}
    with ServerProcess(tmp_path, config) as server:
        await recovers_what_it_missed(server, node, transports=("websocket",))


async def test_websocket_ping(server: Server) -> None:
    """A WebSocket ping gets a pong and is not passed on as a packet."""
    async with wire_to(server) as wire:
        await wire.shake_hands()
        await wire.connect()
        wire.send(0x89, b"are you there?")
        assert await wire.frame() == (0x8A, b"are you there?")


@pytest.mark.parametrize(
    ("head", "payload", "code"),
    [
        pytest.param(0x88, b"", 1000, id="close"),
        pytest.param(0x88, b"\x0f\xa0bye", 4000, id="close with a code of its own"),
        pytest.param(0x83, b"", 1002, id="unknown opcode"),
        pytest.param(0x81, b"\xff", 1007, id="no UTF-8"),
    ],
)
async def test_close_status_codes(server: Server, head: int, payload: bytes, code: int) -> None:
    """The server's close frame has the status code for the client's frame."""
    async with wire_to(server) as wire:
        await wire.shake_hands()
        await wire.connect()
        wire.send(head, payload)
        assert await wire.frame() == (0x88, struct.pack("!H", code))
        assert await wire.is_over()
    assert server.engine.sockets == {}


async def test_message_header_above_max_payload(tmp_path: Path) -> None:
    """The header of a message above max_payload closes the WebSocket before the payload arrives."""
    async with serving(tmp_path / "events.db", max_http_buffer_size=1000) as server, wire_to(server) as wire:
        await wire.shake_hands()
        await wire.connect()
        wire._writer.write(b"\x82\xfe" + struct.pack("!H", 1001))
        wire._writer.write(b"\0\0\0\0")
        assert await wire.frame() == (0x88, struct.pack("!H", 1009))
        assert await wire.is_over()


async def test_aiohttp_releases_the_request(
    server: Server,
) -> None:
    """aiohttp's task of the request ends, and handlers can still read the client's address."""
    seen = Seen()

    def where(sid: str) -> None:
        request: web.Request = server.sio.get_environ(sid)["aiohttp.request"]
        assert request.transport is not None
        seen(request.remote, request.transport.get_extra_info("sockname")[1])

    server.sio.on("where", where)
    await server.sio.start()
    tasks_before = len(asyncio.all_tasks())
    async with wire_to(server) as wire:
        await wire.shake_hands()
        await wire.connect()
        await until(lambda: len(asyncio.all_tasks()) <= tasks_before)
        wire.send(0x81, b'42["where"]')
        assert await seen.until(1) == [("127.0.0.1", urlsplit(server.url).port)]


async def test_connection_is_garbage_collected(server: Server) -> None:
    """A closed connection is garbage-collected."""
    async with wire_to(server) as wire:
        await wire.shake_hands()
        await wire.connect()
        (connection,) = server.engine.sockets.values()
        gone = Seen()
        weakref.finalize(connection, gone, True)
        del connection
        wire.send(0x88, b"")
        assert await wire.frame()
        assert await wire.is_over()
    gc.collect()
    assert await gone.until(1) == [True]


async def test_pongs_stop_for_a_client_without_reading(server: Server) -> None:
    """The server sends no further pongs to a client that does not read."""
    seen = Seen()
    server.sio.on("end", lambda _: seen("end"))
    async with wire_to(server) as wire:
        await wire.shake_hands()
        await wire.connect()
        wire.stop_reading()
        for _ in range(40_000):
            wire.send(0x89, b"?" * 125)
        wire.send(0x81, b'42["end"]')
        await seen.until(1)
        (connection,) = server.engine.sockets.values()
        assert 0 < connection.unsent_bytes < 100_000


@pytest.mark.parametrize("tls", [False, True], ids=["", "tls"])
async def test_close_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    """A client that does not read cannot keep open a connection closed by the server."""
    monkeypatch.setattr(aiohttp_websocket, "CLOSE_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr("asyncio.constants.SSL_SHUTDOWN_TIMEOUT", 10 * DEADLINE)
    context = certified() if tls else None
    async with serving(tmp_path / "events.db", tls=context) as server, wire_to(server) as wire:
        await wire.shake_hands()
        await wire.connect()
        wire.stop_reading()
        (connection,) = server.engine.sockets.values()
        websocket = connection._websocket
        assert isinstance(websocket, AiohttpWebSocket)
        transport: Any = websocket._transport
        tcp: asyncio.Transport = transport._ssl_protocol._transport if tls else transport
        while tcp.get_write_buffer_size() == 0:
            connection.write([Frames("4" + "x" * 10_000)])
        connection.close_after_flush("server disconnect")
        await until(lambda: tcp.get_extra_info("socket").fileno() == -1)


request_id: ContextVar[str] = ContextVar("request_id", default="none")


@web.middleware
async def identifying(request: web.Request, handler: Handler) -> web.StreamResponse:
    request_id.set("of the request")
    return await handler(request)


@pytest.mark.parametrize("cancellation", [False, True], ids=["", "handler_cancellation"])
async def test_context_variables_of_middlewares(tmp_path: Path, cancellation: bool) -> None:
    """Handlers see the context variables set by middlewares for the handshake."""
    sio = socketio.AsyncServer(async_mode="aiohttp", client_manager=RecoveryManager(tmp_path / "events.db"))
    sio.on("id", lambda _: request_id.get())
    app = web.Application(middlewares=[identifying])
    sio.attach(app)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=cancellation)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
        wire = Wire(reader, writer)
        await wire.shake_hands()
        await wire.connect()
        wire.send(0x81, b'421["id"]')
        assert await wire.frame() == (0x81, b'431["of the request"]')
        writer.close()
    finally:
        await sio.shutdown()
        await runner.cleanup()
