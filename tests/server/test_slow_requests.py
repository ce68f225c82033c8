"""A request that is never completed does not keep its connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from socketio_eventstore import program
from support.polling import RawPolling
from support.processes import DEADLINE, HOST, ServerProcess
from support.raw_websocket import closed_by_the_server

HALF_HEADER = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-"
CONFIG: dict[str, dict[str, object]] = {
    "server": {"connect_timeout": 1.0, "ping_interval": 25.0, "max_payload": 1000}
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, CONFIG) as server:
        yield server


async def answer_to(server: ServerProcess, *parts: bytes) -> bytes:
    """Return all bytes sent by the server before the server closes the connection."""
    reader, writer = await asyncio.open_connection(HOST, server.port)
    try:
        async with asyncio.timeout(DEADLINE):
            for part in parts[:-1]:
                writer.write(part)
                await reader.readuntil(b"\r\n\r\nok\n")
            writer.write(parts[-1])
            try:
                return await reader.read()
            except ConnectionError:
                return b""
    finally:
        writer.close()


async def joined(server: ServerProcess, http: aiohttp.ClientSession) -> str:
    """The path of a long-polling session that has joined a namespace.

    A slow machine may take longer than ``connect_timeout`` between the two requests: the session is gone
    then, and perhaps the connection.
    """
    async with asyncio.timeout(DEADLINE):
        while True:
            sid = (await RawPolling(http, server.url).open())["sid"]
            path = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with http.post(f"{server.url}{path}", data="40") as response:
                    if response.status == 200:
                        return path


@pytest.mark.parametrize("request_begins", [b"", b"G", HALF_HEADER])
async def test_incomplete_header(server: ServerProcess, request_begins: bytes) -> None:
    """A connection without a complete request header is closed."""
    assert await answer_to(server, request_begins) == b""


async def test_incomplete_second_request(server: ServerProcess) -> None:
    """A connection with an incomplete second request is closed."""
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert await answer_to(server, whole, HALF_HEADER) == b""


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_incomplete_body(server: ServerProcess, http: aiohttp.ClientSession, framing: bytes) -> None:
    """A connection with an incomplete request body is closed, and the log has one line."""
    url = await joined(server, http)
    head = f"POST {url} HTTP/1.1\r\nHost: localhost\r\n".encode() + framing
    assert await answer_to(server, head + b"\r\n\r\n5\r\n42") == b""
    assert "was not complete in time" in server.log and "Error" not in server.log


async def test_many_incomplete_bodies_share_a_line(
    server: ServerProcess, http: aiohttp.ClientSession
) -> None:
    """Incomplete bodies of many requests are one line in the log."""
    url = await joined(server, http)
    request = f"POST {url} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n42".encode()
    assert await asyncio.gather(*(answer_to(server, request) for _ in range(20))) == [b""] * 20
    assert sum("was not complete in time" in line for line in server.lines) == 1


async def test_open_poll_and_websocket_are_not_slow(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """An open poll and an open WebSocket are not closed as slow requests."""
    config = {"server": {"connect_timeout": 4.0, "ping_interval": 25.0}}
    with ServerProcess(tmp_path, config) as server:
        client = RawPolling(http, server.url)
        await client.connect()
        poll = asyncio.create_task(client.poll())
        async with http.ws_connect(f"{server.url}/socket.io/?EIO=4&transport=websocket") as websocket:
            assert (await websocket.receive_str()).startswith("0")
            await websocket.send_str("40")
            assert (await websocket.receive_str()).startswith("40")
            assert await answer_to(server, HALF_HEADER) == b""  # connect_timeout has passed
            assert not poll.done()
            await websocket.send_str('420["say","hello"]')
            assert "said" in await websocket.receive_str()
            assert any("said" in packet for packet in await poll)


async def test_unread_file(server: ServerProcess) -> None:
    """A connection whose client does not read a file is closed."""
    loop = asyncio.get_running_loop()
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.setblocking(False)
        await loop.sock_connect(silent, (HOST, server.port))
        file = b"/socket.io/socket.io.msgpack.min.js.map"
        for _ in range(31):
            await loop.sock_sendall(silent, b"GET " + file + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await closed_by_the_server(silent)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(DEADLINE):
                while data := await loop.sock_recv(silent, 65536):
                    received += len(data)
        bundle = Path(program.__file__).parent / "client_bundle"
        assert received < 31 * (bundle / "socket.io.msgpack.min.js.map").stat().st_size
