"""The close of a connection: unsent packets, callbacks and running handlers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operations import SendPacket
from socketio_eventstore.transport.connection import EngineConnection
from support.embedded import Seen, Server, serving, until


def post(server: Server, connection: EngineConnection, *packets: str) -> None:
    """Post packets like the acks of handlers that end together: the last packets share a later write."""
    runtime = server.manager.runtime
    assert runtime is not None
    for packet in packets:
        runtime.queue.post(SendPacket(connection, "/", Frames(packet)))


async def test_close_flushes_dispatched_packets(server: Server) -> None:
    """close_after_flush sends the dispatched packets before the transport closes."""
    client = await server.client()
    (connection,) = server.engine.sockets.values()
    post(server, connection, "431[]", "432[]", "433[]")
    connection.close_after_flush("server disconnect")
    assert await client.rest() == ["431[]", "432[]", "433[]"]


async def test_overflow_during_close(path: Path) -> None:
    """A connection that exceeds max_client_buffer during its close is closed once."""
    async with serving(path, recovery={"max_client_buffer": 10_000}) as server:
        polling = await server.polling()
        await polling.connect()
        ends, closed = list[str](), server.engine.connection_closed

        def counting(connection: EngineConnection, reason: str) -> None:
            ends.append(reason)
            closed(connection, reason)

        server.engine.connection_closed = counting
        (connection,) = server.engine.sockets.values()
        post(server, connection, "431[]", "43" + "x" * 20_000)
        connection.close_after_flush("server disconnect")
        assert ends == ["transport error"]


async def test_unsolicited_pongs(path: Path) -> None:
    """A pong without a ping does not delay the next ping."""
    async with serving(path, ping_interval=0.2) as server:
        client = await server.client()

        async def pester() -> None:
            while True:
                await client.send("3")
                await asyncio.sleep(0.02)

        pestering = asyncio.create_task(pester())
        try:
            assert await client.raw_packet() == "2"
        finally:
            pestering.cancel()


async def test_handler_outlives_its_connection(server: Server) -> None:
    """A running handler continues after its connection has closed."""
    seen = Seen()

    async def wait(_sid: str) -> None:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        seen("waits")  # only the server has a reference to the handler's task
        await future

    server.sio.on("wait", wait)
    client = await server.client()
    await client.send('42["wait"]')
    await seen.until(1)
    await client.leave()
    await until(lambda: not server.engine.sockets)
    (handler,) = server.sio._clients._orphaned_handlers
    handler.cancel()
    await until(lambda: not server.sio._clients._orphaned_handlers)
