"""The limit for the connections of one address, against a client that has one valid private id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore.adapter import new_connections
from support.embedded import Server, Socket, serving, until
from support.processes import HOST

LIMITS: dict[str, Any] = {"connections_per_address": 1, "trusted_proxies": [HOST]}


async def visitor(server: Server) -> Socket:
    """A WebSocket of the address with the limit."""
    query = {"EIO": "4", "transport": "websocket"}
    socket = await server.open_socket(query, {"X-Forwarded-For": "203.0.113.7"})
    await socket.content("0")
    return socket


async def refusal(socket: Socket, packet: str) -> str:
    """The code of the CONNECT_ERROR."""
    await socket.send(packet)
    answer = await socket.packet()
    assert isinstance(answer, str) and answer.startswith("44"), answer
    code: str = json.loads(answer[answer.index("{") :])["data"]["code"]
    return code


@pytest.mark.parametrize("handlers", ["", "connect"])
async def test_a_private_id_opens_no_new_session(path: Path, handlers: str) -> None:
    """Above the limit, a client with a valid private id may recover its session, and open no other one."""

    def register(sio: Any) -> None:
        async def connect(sid: str, environ: Any) -> None:
            return

        if handlers:
            sio.on("connect", connect)

    async with serving(path, recovery=LIMITS, register=register, namespaces="*") as server:
        owner = await visitor(server)
        pid = (await owner.connect())["pid"]
        for _ in range(3):
            code = await refusal(await visitor(server), f'40{{"pid":"{pid}","offset":"x"}}')
            assert code == "connections_per_address"
        again = await visitor(server)
        assert (await again.connect(auth={"pid": pid}))["sid"] == owner.sid
        for auth in ("", f'{{"pid":"{pid}"}}'):
            assert await refusal(again, f"40/b,{auth}") == "connections_per_address"
        assert await again.event_of(server.sio.emit("still there")) == ["still there"]
        registry = (await server.manager.start()).registry
        assert [session.sid for session in registry] == [owner.sid]


async def test_superseded_connections_are_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that claims its session again and again has no more connections than before."""
    monkeypatch.setattr(new_connections, "REFUSED_SECONDS", 2.0)

    def register(sio: Any) -> None:
        sio.connect_timeout = 2.0  # for the first connection, which was within the limit

    async with serving(path, recovery=LIMITS, register=register) as server:
        sockets = [await visitor(server)]
        pid = (await sockets[0].connect())["pid"]
        for _ in range(5):
            sockets.append(await visitor(server))
            await sockets[-1].connect(auth={"pid": pid})
        for socket in sockets[:-1]:
            assert await socket.rest() == ["41"]
        assert len(server.engine.sockets) == 1


async def test_a_client_that_left_is_closed(path: Path) -> None:
    """A connection that has left its last namespace, or was refused late, does not stay for good."""

    def register(sio: Any) -> None:
        async def connect(sid: str, environ: Any) -> bool:
            await until(lambda: len(server.engine.sockets) == 1)  # the other connection was closed
            return False

        sio.on("connect", connect, namespace="/slow")
        sio.connect_timeout = 1.5

    async with serving(path, register=register, namespaces="*") as server:
        refused = await server.socket()
        await refused.send("40/slow,")
        client = await server.client()
        await client.send("41")
        assert await client.rest() == []
        assert [str(packet)[:8] for packet in await refused.rest()] == ["44/slow,"]
