"""The end of listening: a connection that was accepted is served."""

from __future__ import annotations

import asyncio
import socket

import pytest

from socketio_eventstore.program.listener import stop_listening
from support.processes import HOST


class Greeting(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


@pytest.mark.parametrize("rounds", range(5))
async def test_accepted_connection_is_served(rounds: int) -> None:
    """The listening ends some rounds of the event loop after a client has connected."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Greeting, HOST, 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        client.setblocking(False)
        for _ in range(rounds):
            await asyncio.sleep(0)
        await stop_listening([server])
        if rounds < 2:  # the loop has not accepted it
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(client, 5)
        else:
            assert await loop.sock_recv(client, 5) == b"hello"
