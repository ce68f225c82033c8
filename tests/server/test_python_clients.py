"""Stock Python clients get no offsets; their handlers run unchanged on every transport."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore.core.sessions import State
from support.clients import NodeClients
from support.embedded import Seen, Server, serving, until
from support.processes import DEADLINE, ServerProcess
from support.python_clients import PythonClient, connected, emit_all

TRANSPORTS = [
    pytest.param(["websocket"], id="websocket"),
    pytest.param(["polling"], id="polling"),
    pytest.param(["polling", "websocket"], id="upgraded"),
]


def base(server: Server) -> str:
    return server.url.removesuffix("/socket.io/")


@pytest.mark.parametrize("serializer", ["default", "msgpack"])
@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_handlers_of_python_clients(tmp_path: Path, transports: list[str], serializer: str) -> None:
    """A handler on a stock Python client gets the emitted arguments, and no offset."""
    async with (
        serving(tmp_path / "events.db", serializer=serializer) as server,
        connected(base(server), transports, serializer=serializer) as client,
    ):
        expected = await emit_all(server.sio)
        assert await client.seen.until(len(expected)) == expected
        assert await server.sio.call("ask", "question", to=client.sio.get_sid()) == "answer"


@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_python_clients_of_serve(tmp_path: Path, node: NodeClients, transports: list[str]) -> None:
    """Python and JavaScript clients of one server receive the same events, each in its own form."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        official = await node.client(server.url, transports=tuple(transports))
        await official.connected()
        async with connected(server.url, transports) as client:
            offset = await control.call("publish", {"name": "one", "data": "text"})
            (received,) = await official.received("one")
            assert received.args == ["text", offset]
            assert await client.seen.until(1) == [("one", "text")]


async def test_both_forms_of_one_batch(tmp_path: Path, node: NodeClients) -> None:
    """Concurrent events to a room reach both kinds of clients whole and in order."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        official = await node.client(server.url)
        await official.connected()
        async with connected(server.url, ["websocket"]) as a, connected(server.url, ["polling"]) as b:
            await control.call("publish_at_once", {"name": "two", "count": 200, "size": 10})
            events = await official.received("two", 200)
            for client in (a, b):
                numbers = [first for _, first, _ in await client.seen.until(200)]
                assert numbers == [event.data[0] for event in events] == list(range(200))


@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_offsets_in_the_query(tmp_path: Path, transports: list[str], node: NodeClients) -> None:
    """``offsets=1`` and ``offsets=0`` in the query override the recognition."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        plain = await node.client(server.url, transports=tuple(transports), query={"offsets": "0"})
        assert (await plain.connected()).pid is None
        async with connected(server.url, transports, query="?offsets=1") as client:
            offset = await control.call("publish", {"name": "two", "data": "text"})
            assert await client.seen.until(1) == [("two", "text", offset)]
            assert (await plain.received("two"))[0].args == ["text"]


async def test_python_clients_with_offsets_always(tmp_path: Path) -> None:
    """With ``offsets = "always"`` a Python client gets an offset."""
    async with (
        serving(tmp_path / "events.db", recovery={"offsets": "always"}) as server,
        connected(base(server), ["websocket"]) as client,
    ):
        offset = await server.sio.emit("two", "text")
        assert await client.seen.until(1) == [("two", "text", offset)]


@pytest.mark.parametrize("how", ["disconnect", "cut"])
async def test_session_of_a_python_client(tmp_path: Path, how: str) -> None:
    """The session of a client without offsets ends with its transport."""
    seen = Seen()

    def register(sio: Any) -> None:
        async def disconnect(sid: str, reason: str) -> None:
            seen(sid, await sio.get_session(sid), sio.rooms(sid))

        sio.on("disconnect", disconnect)

    async with serving(tmp_path / "events.db", register=register) as server:
        client = PythonClient()
        await client.sio.connect(base(server), transports=["websocket"], wait_timeout=DEADLINE)
        sid = client.sio.get_sid()
        await server.sio.save_session(sid, {"name": "alice"})
        await server.sio.enter_room(sid, "room")
        if how == "disconnect":
            await client.sio.disconnect()
        else:
            (connection,) = server.engine.sockets.values()
            connection.abort("the test cuts the transport")
        assert await seen.until(1) == [(sid, {"name": "alice"}, [sid, "room"])]
        runtime = await server.manager.start()
        await until(lambda: runtime.registry.get("/", sid) is None)


async def test_pid_of_a_client_without_offsets(tmp_path: Path) -> None:
    """A private id from a client without offsets is ignored, and the owner keeps the session."""
    seen = Seen()

    def register(sio: Any) -> None:
        sio.on("connect", lambda sid, environ, auth: seen(auth))

    async with serving(tmp_path / "events.db", register=register) as server:
        owner = await server.socket()
        pid = (await owner.connect())["pid"]
        plain = await server.open_socket({"EIO": "4", "transport": "websocket", "offsets": "0"})
        await plain.content("0")
        answer = await plain.connect(auth={"pid": pid, "offset": "x", "token": "t"})
        assert set(answer) == {"sid"} and answer["sid"] != owner.sid
        assert not server.sio.recovered(answer["sid"])
        session = (await server.manager.start()).registry.get("/", owner.sid)
        assert session is not None and session.state is State.LIVE


async def test_python_client_after_a_crash(tmp_path: Path, node: NodeClients) -> None:
    """A session without private id expires at once after a crash, and the application is told."""
    config = {"store": {"prune_interval": 0.1}}
    with ServerProcess(tmp_path, config) as server:
        client = PythonClient()
        await client.sio.connect(server.url, transports=["websocket"], wait_timeout=DEADLINE)
        official = await node.client(server.url)
        before = await official.connected()
        sid = client.sio.get_sid()
        server.restart()
        control = await node.control(server.url)
        await official.recovered_again()
        async with asyncio.timeout(DEADLINE):
            seen: list[dict[str, Any]] = []
            while not seen:
                seen = await control.call("seen", {"sid": sid})
                await asyncio.sleep(0.05)
        assert [record["what"] for record in seen] == ["session_expired"]
        assert official.sid == before.sid
        await client.sio.disconnect()


async def test_python_clients_on_a_server_without_recovery() -> None:
    """Without recovery no client gets an offset."""
    async with (
        serving(None) as server,
        connected(base(server), ["websocket"]) as client,
    ):
        expected = await emit_all(server.sio)
        assert await client.seen.until(len(expected)) == expected
