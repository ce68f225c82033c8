"""Clients that never read: the connection, its task and its memory go after a time limit."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio
import trustme
from aiohttp import web

from socketio_eventstore import AsyncServer
from socketio_eventstore.program.event_loop import EventLoopWithoutSendfile
from socketio_eventstore.program.slow_requests import closes_slow_requests
from socketio_eventstore.transport import asgi_websocket
from socketio_eventstore.transport.asgi_transport import find_transport
from socketio_eventstore.transport.unread_responses import UnreadResponses
from support.asgi import uvicorn_server
from support.embedded import until
from support.polling import without_heartbeats
from support.processes import DEADLINE, HOST
from support.raw_websocket import closed_by_the_server, handshake_request, silent_socket

BODY = 3_000_000


def plain(sio: Any) -> Any:
    return socketio.ASGIApp(sio)


def wrapped(sio: Any) -> Any:
    """An application with middlewares that wrap ``send``, as those of Starlette do."""
    app = socketio.ASGIApp(sio)

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def sender(message: Any) -> None:
            await send(message)

        await app(scope, receive, sender)

    return middleware


@asynccontextmanager
async def aiohttp_server(sio: Any) -> AsyncIterator[int]:
    app = web.Application()
    sio.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def request(port: int, query: str, body: str | None = None) -> str:
    url = f"http://{HOST}:{port}/socket.io/?EIO=4&transport=polling{query}"
    method = "GET" if body is None else "POST"
    async with aiohttp.ClientSession() as http, http.request(method, url, data=body) as response:
        return await response.text()


async def is_dropped(silent: socket.socket, tasks: int) -> None:
    """Wait, without reading, until the tasks are gone; then the rest of the bytes does not come."""
    await closed_by_the_server(silent)
    async with asyncio.timeout(DEADLINE):
        while len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.05)
    loop, received = asyncio.get_running_loop(), 0
    with suppress(ConnectionResetError):
        async with asyncio.timeout(DEADLINE):
            while data := await loop.sock_recv(silent, 65536):
                received += len(data)
    assert received < BODY


SERVERS = ["aiohttp", "h11", "wrapped"]


@asynccontextmanager
async def running(kind: str, path: Path) -> AsyncIterator[tuple[Any, int]]:
    sio = AsyncServer(
        path, async_mode="aiohttp" if kind == "aiohttp" else "asgi", ping_interval=1.0, ping_timeout=1.0
    )
    if kind == "aiohttp":
        context = aiohttp_server(sio)
    elif kind == "h11":
        context = uvicorn_server(plain(sio), http="h11")
    elif kind in ("websockets", "wsproto"):
        context = uvicorn_server(plain(sio), ws=kind, ws_ping_interval=None)
    else:
        context = uvicorn_server(wrapped(sio))
    async with context as port:
        await sio.start()
        try:
            yield sio, port
        finally:
            await sio.shutdown()


@pytest.mark.parametrize("kind", SERVERS)
async def test_polling_client_that_never_reads(tmp_path: Path, kind: str) -> None:
    """The response, the task and the TCP connection of a poll that is not read are gone after the timeout."""
    async with running(kind, tmp_path / "events.db") as (sio, port):
        opened = json.loads((await request(port, ""))[1:])
        query = f"&sid={opened['sid']}"
        await request(port, query, "40")
        packets: list[str] = []
        while not packets:
            packets = without_heartbeats(await request(port, query))
        sid = json.loads(packets[0].removeprefix("40"))["sid"]
        tasks = len(asyncio.all_tasks())
        await sio.emit("large", "x" * (BODY // 2), to=sid)
        await sio.emit("large", "x" * (BODY // 2), to=sid)
        silent = silent_socket()
        loop = asyncio.get_running_loop()
        await loop.sock_connect(silent, (HOST, port))
        head = f"GET /socket.io/?EIO=4&transport=polling{query} HTTP/1.1\r\nHost: a\r\n\r\n"
        await loop.sock_sendall(silent, head.encode())
        await is_dropped(silent, tasks)
        silent.close()


async def assert_closed(
    respond: Callable[[web.Request], Awaitable[web.StreamResponse]], request: bytes
) -> None:
    """A client that sends the request and reads nothing loses its connection."""
    loop = asyncio.get_running_loop()
    app = web.Application(middlewares=[closes_slow_requests(0.8)])
    app.router.add_get("/", respond)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    with silent_socket() as silent:
        await loop.sock_connect(silent, (HOST, runner.addresses[0][1]))
        await loop.sock_sendall(silent, request)
        try:
            await closed_by_the_server(silent)
        finally:
            await runner.cleanup()


GET = b"GET / HTTP/1.1\r\nHost: a\r\n"


async def test_response_that_begins_late() -> None:
    """A response that begins after the first check of its connection is not left to a silent client."""
    loop = asyncio.get_running_loop()

    class Late(web.Response):
        async def prepare(self, request: web.BaseRequest) -> Any:
            begun = loop.time()
            await until(lambda: loop.time() > begun + 0.3)
            return await super().prepare(request)

    async def respond(_: web.Request) -> web.StreamResponse:
        return Late(body=bytes(3 * BODY))

    await assert_closed(respond, GET + b"\r\n")


@pytest.mark.parametrize("is_raised", [False, True])
async def test_request_with_a_body(is_raised: bool) -> None:
    """A byte of body does not keep the connection, nor does a response that is raised."""

    async def respond(_: web.Request) -> web.StreamResponse:
        if is_raised:
            raise web.HTTPNotFound(text="x" * 3 * BODY)
        return web.Response(body=bytes(3 * BODY))

    await assert_closed(respond, GET + b"Content-Length: 1\r\n\r\nx")


def test_file_without_uvloop(tmp_path: Path) -> None:
    """On an event loop of asyncio, a file that is not read does not keep the connection."""
    file = tmp_path / "file"
    file.write_bytes(bytes(10 * BODY))

    async def respond(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(file)

    with asyncio.Runner(loop_factory=EventLoopWithoutSendfile) as runner:
        runner.run(assert_closed(respond, GET + b"\r\n"))


@pytest.mark.parametrize("kind", ["websockets", "wsproto", "wrapped"])
@pytest.mark.filterwarnings("ignore")  # deprecations of uvicorn's back ends
@pytest.mark.parametrize("is_closed", [False, True])
async def test_websocket_that_never_reads(
    tmp_path: Path, kind: str, is_closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tasks and the TCP connection of a WebSocket that is not read are gone after the timeout."""
    if kind == "wsproto":
        pytest.importorskip("wsproto")
    monkeypatch.setattr(asgi_websocket, "CLOSE_TIMEOUT_SECONDS", 0.5)
    async with running(kind, tmp_path / "events.db") as (sio, port):
        tasks = len(asyncio.all_tasks())
        silent = silent_socket()
        loop = asyncio.get_running_loop()
        await loop.sock_connect(silent, (HOST, port))
        await loop.sock_sendall(silent, handshake_request())
        assert b" 101 " in await loop.sock_recv(silent, 4096)
        connect = bytes([0x81, 0x82, 0, 0, 0, 0]) + b"40"
        await loop.sock_sendall(silent, connect)
        async with asyncio.timeout(DEADLINE):
            while not any(session.is_connected for session in sio.manager.runtime.registry):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await sio.emit("large", "x" * (BODY // 2))
        await sio.emit("large", "x" * (BODY // 2))
        if is_closed:
            for connection in list(sio.eio.sockets.values()):
                connection.close_after_flush("server disconnect")
        await is_dropped(silent, tasks)
        silent.close()


def test_transport_that_is_not_found() -> None:
    """A send without a transport is left alone."""
    assert find_transport(print) is None


async def test_closed_tls_connection() -> None:
    """A TLS connection that was closed twice is not watched any more."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert(HOST).configure_cert(context)
    unread = UnreadResponses()

    def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.close()
        transport.close()
        unread.watch(transport, 0.08)

    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    server = await asyncio.start_server(accepted, HOST, 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(HOST, port, ssl=unchecked)
        await reader.read()
        writer.close()
        await until(lambda: not unread._watched)
