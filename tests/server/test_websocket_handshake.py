"""The handshake of a WebSocket on aiohttp, on the wire."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from socketio_eventstore import AsyncServer
from support.embedded import Server, serving
from support.processes import DEADLINE, HOST
from support.raw_websocket import Wire, handshake_request, text


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path / "events.db") as server:
        yield server


@asynccontextmanager
async def listening(
    folder: Path, prepare: Callable[[web.Request, web.StreamResponse], None]
) -> AsyncIterator[int]:
    """Serve an application with a signal ``on_response_prepare``; yield the port."""

    async def signal(request: web.Request, response: web.StreamResponse) -> None:
        prepare(request, response)

    sio, app = AsyncServer(folder / "events.db", async_mode="aiohttp"), web.Application()
    sio.attach(app)
    app.on_response_prepare.append(signal)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0).start()
        yield runner.addresses[0][1]
    finally:
        await sio.shutdown()
        await runner.cleanup()


async def test_the_example_of_the_standard(server: Server) -> None:
    """The key of RFC 6455 section 1.3 gets the value that the RFC names."""
    reader, writer = await asyncio.open_connection(HOST, urlsplit(server.url).port)
    key = base64.b64encode(b"the sample nonce").decode()
    request = handshake_request().decode().splitlines()
    lines = [f"Sec-WebSocket-Key: {key}" if "Key" in line else line for line in request]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    response = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert response.startswith("HTTP/1.1 101 Switching Protocols\r\n")
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in response
    writer.close()


async def test_open_packet_comes_with_the_response(server: Server) -> None:
    """One write has the response and the first packet."""
    reader, writer = await asyncio.open_connection(HOST, urlsplit(server.url).port)
    writer.write(handshake_request())
    async with asyncio.timeout(DEADLINE):
        assert b'0{"sid":"' in await reader.read(10_000)
    writer.close()


async def test_packet_right_behind_the_handshake(server: Server) -> None:
    """A packet that the client sends with its handshake is not lost."""
    reader, writer = await asyncio.open_connection(HOST, urlsplit(server.url).port)
    writer.write(handshake_request() + text("40"))
    async with asyncio.timeout(DEADLINE):
        await reader.readuntil(b'40{"sid":"')
    writer.close()


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("Connection: Upgrade", "Connection: keep-alive"),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 12"),
        ("Sec-WebSocket-Key:", "Sec-WebSocket-Key: c2hvcnQ="),
        ("Sec-WebSocket-Key:", "Sec-WebSocket-Key: \xe4"),
        ("Sec-WebSocket-Key:", "X: y"),
        ("Upgrade:", "Upgrade: websocket\r\nSec-WebSocket-Protocol: caf\xe9"),
    ],
)
async def test_invalid_handshake(server: Server, line: str, other: str) -> None:
    """An invalid handshake gets status 400, and no connection stays behind."""
    reader, writer = await asyncio.open_connection(HOST, urlsplit(server.url).port)
    lines = handshake_request().decode().splitlines()
    changed = [other if one.startswith(line) else one for one in lines]
    writer.write("\r\n".join([*changed, "", ""]).encode())
    async with asyncio.timeout(DEADLINE):
        assert b" 400 " in await reader.readuntil(b"\r\n\r\n")
    assert not server.engine.sockets and not server.sio.environ
    writer.close()


async def test_headers_of_the_application(tmp_path: Path) -> None:
    """The response to a handshake has the headers that a signal adds, and none that it deletes."""

    def prepare(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Set-Cookie"] = "a=b"
        del response.headers["Server"]

    async with listening(tmp_path, prepare) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        wire = Wire(reader, writer)
        await wire.shake_hands()
        assert "Set-Cookie: a=b\r\n" in wire.response and "Server:" not in wire.response
        await wire.connect()
        writer.close()
