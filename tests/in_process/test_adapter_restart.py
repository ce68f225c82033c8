from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from socketio_eventlog.errors import StoreClosed
from support.embedded import Server, serving, until
from support.storing import opened, stored_sessions


async def test_sessions_survive_a_restart(path: Path) -> None:
    """Sessions, rooms and data survive a restart of the server."""
    async with serving(path) as server:
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await server.sio.enter_room(client.sid, "room")
        await server.sio.enter_room(client.sid, 42)
        await server.sio.save_session(client.sid, {"name": "Ada"})
        offset = await server.sio.emit("received", room=42)
        assert (await client.event())[-1] == offset
    assert "41" not in await client.rest()
    async with serving(path) as server:
        missed = await server.sio.emit("missed", room="room")
        again = await server.socket()
        assert (await again.connect(auth={"pid": pid, "offset": offset}))["sid"] == client.sid
        assert await again.event() == ["missed", missed]
        assert set(server.sio.rooms(client.sid)) == {client.sid, "room", 42}
        assert await server.sio.get_session(client.sid) == {"name": "Ada"}


async def test_server_refuses_emits_after_its_shutdown(server: Server) -> None:
    """After its shutdown a server refuses emits; a handshake would open it again."""
    client = await server.client()
    await server.sio.shutdown()
    assert await client.rest() == []
    with pytest.raises(StoreClosed):
        await server.sio.emit("too late")
    await server.sio.shutdown()


async def test_shutdown_awaits_disconnect_handlers(path: Path) -> None:
    """A shutdown completes the disconnect handlers before the store closes."""

    async def disconnect(sid: str, _reason: str) -> None:
        await asyncio.sleep(0)
        await server.sio.save_session(sid, {"said": "goodbye"})
        await server.sio.emit("gone", sid)

    async with serving(path, register=lambda sio: sio.on("disconnect", disconnect)) as server:
        client = await server.client()
    async with opened(path) as log:
        assert [stored.data for stored in await stored_sessions(log)] == ['{"said":"goodbye"}']
        assert [logged.event.payload for logged in await log.read([1])] == [f'["gone","{client.sid}"]']


async def test_without_a_path_recovery_is_disabled() -> None:
    """Without a path recovery is disabled; packets carry no pid and no offset."""
    async with serving(None) as server:
        client = await server.socket()
        answer = await client.connect(auth={"pid": "x", "offset": "y"})
        assert list(answer) == ["sid"]
        assert await server.sio.emit("hello", "you") is None
        assert await client.packet() == '42["hello","you"]'
        await server.sio.save_session(client.sid, {"a": 1})
        assert await server.sio.get_session(client.sid) == {"a": 1}
        registry = (await server.manager.start()).registry
        await client.leave()
        await until(lambda: not list(registry))
