"""The last moments of a connection: what was on its way, who is told, what goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from socketio_eventstore.core.operations import SendPacket
from socketio_eventstore.core.packets import Frames
from socketio_eventstore.transport.connection import EngineConnection
from support.embedded import Seen, Server, serving, until


def post(server: Server, connection: EngineConnection, *packets: str) -> None:
    """Answers as those of handlers that end together: the last ones share a write that is still to come."""
    runtime = server.manager.runtime
    assert runtime is not None
    for packet in packets:
        runtime.dispatcher.post(SendPacket(connection, "/", Frames(packet)))


async def test_an_answer_on_its_way_leaves_before_the_connection_is_closed(server: Server) -> None:
    client = await server.client()
    (connection,) = server.engine.sockets.values()
    post(server, connection, "431[]", "432[]", "433[]")
    connection.leave("server disconnect")
    assert await client.rest() == ["431[]", "432[]", "433[]"]


async def test_a_connection_that_overflows_while_it_is_closed_ends_once(path: Path) -> None:
    async with serving(path, recovery={"max_client_buffer": 10_000}) as server:
        polling = await server.polling()
        await polling.connect()
        ends, closed = list[str](), server.engine.closed

        def counting(connection: EngineConnection, reason: str) -> None:
            ends.append(reason)
            closed(connection, reason)

        server.engine.closed = counting
        (connection,) = server.engine.sockets.values()
        post(server, connection, "431[]", "43" + "x" * 20_000)
        connection.leave("server disconnect")
        assert ends == ["transport error"]


async def test_answers_to_heartbeats_that_nobody_asked_for_do_not_put_them_off(path: Path) -> None:
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


async def test_a_handler_goes_on_when_its_connection_has_ended(server: Server) -> None:
    seen = Seen()

    async def wait(_sid: str) -> None:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        seen("waits")  # for a future that only it has: nothing but the server holds on to it
        await future

    server.sio.on("wait", wait)
    client = await server.client()
    await client.send('42["wait"]')
    await seen.until(1)
    await client.leave()
    await until(lambda: not server.engine.sockets)
    (handler,) = server.sio.orphans
    handler.cancel()
    await until(lambda: not server.sio.orphans)
