"""Without ``[connection_state_recovery]`` the server is plain Socket.IO: no storage, no pid, no offset."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from support.clients import NodeClients
from support.polling import RawPolling
from support.processes import ServerProcess

DISABLED = {"connection_state_recovery": None}


async def test_neither_pid_nor_offset_is_on_the_wire(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with ServerProcess(tmp_path, DISABLED) as server:
        control = RawPolling(http, server.url)
        await control.connect("/control")
        client = RawPolling(http, server.url)
        session = await client.connect()
        assert list(session) == ["sid"]
        assert await control.call("publish", {"name": "hello"}) is None
        assert await client.packet() == '42["hello"]'
        await control.call("publish", {"name": "to me", "args": [1, {"a": "b"}], "to": session["sid"]})
        assert await client.packet() == '42["to me",1,{"a":"b"}]'
        await control.call("publish", {"name": "volatile", "data": "x", "volatile": True})
        assert await client.packet() == '42["volatile","x"]'

        await client.close()
        again = RawPolling(http, server.url)
        fresh = await again.connect(auth={"pid": "anything", "offset": "anything"})
        assert list(fresh) == ["sid"] and fresh["sid"] != session["sid"]
        assert (await again.call("whoami", namespace="/"))["recovered"] is False


async def test_nothing_is_stored(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with ServerProcess(tmp_path, DISABLED) as server:
        client = RawPolling(http, server.url)
        await client.connect()
        await client.call("join", "room", namespace="/")
        await client.call("save", {"a": 1}, namespace="/")
        await client.call("say", "hello", namespace="/")  # its acknowledgement comes after the event
        server.terminate()
    assert not server.database.exists() and not server.database.parent.exists()


async def test_official_clients_receive_plain_events(tmp_path: Path, node: NodeClients) -> None:
    """Official clients receive the emitted events without pid and offset."""
    with ServerProcess(tmp_path, DISABLED) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, transports=("polling", "websocket"), auth={"rooms": ["room"]})
        first = await client.connected()
        assert first.pid is None and not first.recovered
        binary = {"bytes": b"\x00\xff", "text": "text"}
        await control.call("publish", {"name": "binary", "args": [binary, b"more"], "room": "room"})
        await control.call("publish", {"name": "not me", "skip_sid": client.sid})
        assert await control.call("ask", {"name": "question", "to": client.sid}) == "answer to question"
        await client.call("say", "hello")
        await client.received("said")
        assert [(event.name, event.args) for event in client.events] == [
            ("binary", [binary, b"more"]),
            ("question", []),
            ("said", ["hello"]),
        ]

        await asyncio.to_thread(server.restart)
        again = await client.reconnected()
        assert again.pid is None and not again.recovered and again.sid != first.sid
        await client.call("say", "again")
        assert (await client.received("said", 2))[1].args == ["again"]
