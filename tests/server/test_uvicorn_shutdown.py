"""uvicorn ends soon after SIGTERM although a client polls."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.clients import NodeClients
from support.processes import EmbeddedServer

SCRIPT = """
import sys

import socketio
import uvicorn

import handlers_for_tests
from socketio_eventstore import RecoveryManager

sio = socketio.AsyncServer(async_mode="asgi", client_manager=RecoveryManager(sys.argv[2]))
handlers_for_tests.register(sio)
uvicorn.run(socketio.ASGIApp(sio), host="127.0.0.1", port=int(sys.argv[1]), http="HTTP")
"""


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_sigterm_during_a_poll(tmp_path: Path, node: NodeClients, http: str) -> None:
    """An open poll does not keep uvicorn from ending, and the client recovers afterwards."""
    with EmbeddedServer(tmp_path, SCRIPT.replace("HTTP", http)) as server:
        client = await node.client(server.url, transports=("polling",))
        await client.connected()
        assert server.terminate().duration < 20.0  # a poll stays open for 25 s
        await client.gone()
        server.start()
        await client.recovered_again()
        await client.disconnect()
