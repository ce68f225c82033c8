"""Several processes of one application: one of them has the database, the others refuse clients for now."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from support.clients import NodeClients
from support.processes import DEADLINE, HOST, EmbeddedServer

SCRIPT = """
import os
import sys

import socketio
import uvicorn

import handlers_for_tests
from socketio_eventstore import RecoveryManager

manager = RecoveryManager(os.environ.get("DATABASE") or sys.argv[2])
sio = socketio.AsyncServer(async_mode="asgi", client_manager=manager)
handlers_for_tests.register(sio)
app = socketio.ASGIApp(sio)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]))
"""
IN_USE = "is in use by another server. One process serves a database"
WORKERS = 2


class Workers(EmbeddedServer):
    """uvicorn with two workers."""

    def command(self) -> Sequence[str]:
        uvicorn = (sys.executable, "-m", "uvicorn", "--workers", str(WORKERS), "application:app")
        return ("env", f"DATABASE={self.database}", *uvicorn, "--host", HOST, "--port", str(self.port))


def beside(server: EmbeddedServer, folder: Path) -> EmbeddedServer:
    """Another process of the same application, with the same database."""
    folder.mkdir()
    other = EmbeddedServer(folder, SCRIPT)
    other.database = server.database
    return other


async def handshake(url: str) -> tuple[int, str | None]:
    """Open a TCP connection and an Engine.IO connection; return the status and ``Retry-After``."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{url}/socket.io/", params={"EIO": "4", "transport": "polling"}) as response,
    ):
        return response.status, response.headers.get("Retry-After")


async def test_uvicorn_with_two_workers(tmp_path: Path) -> None:
    """The worker without the database refuses at once, and its log says once what to do."""
    with Workers(tmp_path, SCRIPT) as server:
        answers: list[tuple[int, str | None]] = []
        async with asyncio.timeout(DEADLINE):
            while answers.count((503, "5")) < 3 or (200, None) not in answers:
                answers.append(await handshake(server.url))
        assert set(answers) == {(200, None), (503, "5")}
        assert sum(IN_USE in line for line in server.lines) == 1
        assert "waiting up to" not in server.log
        server.terminate()


async def test_a_second_process_takes_over(tmp_path: Path, node: NodeClients) -> None:
    """A client that the second process refuses connects by itself when the first process has ended."""
    with EmbeddedServer(tmp_path, SCRIPT) as first:
        assert (await handshake(first.url))[0] == 200
        with beside(first, tmp_path / "second") as second:
            client = await node.client(second.url)
            await client.refused()
            first.kill()
            await client.connected()
            assert await client.call("say", "hello")


async def test_a_websocket_is_refused_with_503(tmp_path: Path) -> None:
    """uvicorn answers a refused WebSocket with the status and the headers of the refusal."""
    with EmbeddedServer(tmp_path, SCRIPT) as first:
        assert (await handshake(first.url))[0] == 200
        with beside(first, tmp_path / "second") as second:
            url = f"{second.url}/socket.io/?EIO=4&transport=websocket"
            async with aiohttp.ClientSession() as http:
                with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                    await http.ws_connect(url)
            assert refusal.value.headers is not None
            assert (refusal.value.status, refusal.value.headers["Retry-After"]) == (503, "5")
