"""``revoke_identity`` logs an identity out everywhere, in one operation."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from socketio_eventlog.errors import StoreError
from support.embedded import Seen, Server, Socket, away, packets_until_marker, serving, until


def binds(seen: Seen | None = None) -> Callable[[Any], None]:
    """Connect handlers that bind the identity of ``auth``; disconnect handlers that read the session."""

    def register(sio: Any) -> None:
        for namespace in ("/", "/other"):

            async def connect(sid: str, _: Any, auth: Any, namespace: str = namespace) -> None:
                if auth and "bind" in auth:
                    await sio.bind(sid, auth["bind"], namespace)

            async def disconnect(sid: str, reason: str, namespace: str = namespace) -> None:
                if seen is not None:
                    seen(sid, reason, sio.rooms(sid, namespace), await sio.get_session(sid, namespace))

            sio.on("connect", connect, namespace=namespace)
            sio.on("disconnect", disconnect, namespace=namespace)

    return register


async def connected(server: Server, identity: str) -> tuple[Socket, str]:
    client = await server.socket()
    return client, (await client.connect(auth={"bind": identity}))["pid"]


async def test_identity_is_logged_out_everywhere(path: Path) -> None:
    """All sessions of an identity end, connected or away, in every namespace; no other one does."""
    seen = Seen()
    async with serving(path, register=binds(seen)) as server:
        sio = server.sio
        here, here_pid = await connected(server, "ann")
        gone, gone_pid = await connected(server, "ann")
        other, _ = await connected(server, "bob")
        elsewhere = await server.socket()
        elsewhere_sid = (await elsewhere.connect("/other", {"bind": "ann"}))["sid"]
        await sio.enter_room(here.sid, "room")
        await sio.enter_room(gone.sid, "room")
        await sio.save_session(here.sid, {"name": "Ann"})
        await away(server, gone)
        await seen.until(1)
        await sio.revoke_identity("ann")
        records = (await seen.until(3))[1:]
        assert sorted(records) == sorted(
            [
                (here.sid, "server disconnect", [here.sid, "room"], {"name": "Ann"}),
                (elsewhere_sid, "server disconnect", [elsewhere_sid], {}),
            ]
        )
        assert await here.rest() == [] and await elsewhere.rest() == []
        registry = server.manager.runtime.registry if server.manager.runtime else None
        assert registry is not None
        assert [session.sid for session in registry] == [other.sid]
        assert list(registry.rooms) == []
        await sio.emit("secret", room=["room", here.sid, gone.sid])
        for pid in (here_pid, gone_pid):
            again = await server.socket()
            answer = await again.connect(auth={"pid": pid, "bind": "ann"})
            assert answer["pid"] != pid
            assert await packets_until_marker(server, again) == [[]]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM sessions WHERE sid = ?", (gone.sid,)).fetchone() == (0,)
        assert database.execute("SELECT * FROM rooms").fetchall() == []


async def test_revocation_follows_the_binding_before(server: Server) -> None:
    """A session that is bound just before the call is logged out, and one bound just after is not."""
    first, second = await server.client(), await server.client()
    sio = server.sio
    await asyncio.gather(sio.bind(first.sid, "ann"), sio.revoke_identity("ann"), sio.bind(second.sid, "ann"))
    assert await first.rest() == []
    assert await packets_until_marker(server, second) == [[]]


async def test_revocation_during_the_connect_handler(path: Path) -> None:
    """A client whose connect handler is running is not connected by the revoked session."""
    bound, opened = Seen(), asyncio.Event()

    def register(sio: Any) -> None:
        async def connect(sid: str, *_: Any) -> None:
            await sio.bind(sid, "ann")
            bound(sid)
            await opened.wait()

        sio.on("connect", connect)

    async with serving(path, register=register) as server:
        client = await server.socket()
        await client.send("40")
        (sid,) = await bound.until(1)
        await server.sio.revoke_identity("ann")
        opened.set()
        assert await client.rest() == []
        registry = (await server.manager.start()).registry
        await until(lambda: registry.get("/", sid) is None)


async def test_revocation_survives_a_restart(path: Path) -> None:
    """Sessions that the server loaded from the database are logged out, too, and stay so."""
    async with serving(path, register=binds()) as server:
        _, pid = await connected(server, "ann")
    async with serving(path, register=binds()) as server:
        await server.sio.revoke_identity("ann")  # the first call opens the store
    async with serving(path, register=binds()) as server:
        again = await server.socket()
        assert (await again.connect(auth={"pid": pid, "bind": "ann"}))["pid"] != pid


@pytest.mark.parametrize("identity", ["", None, 7, b"ann"], ids=repr)
async def test_revocation_needs_an_identity(server: Server, identity: Any) -> None:
    """Anything but a text that is not empty raises TypeError: most sessions have no identity."""
    with pytest.raises(TypeError, match="an identity must be a str"):
        await server.sio.revoke_identity(identity)


async def test_failed_revocation_changes_nothing(path: Path) -> None:
    """When the store refuses, the call raises and every session goes on."""
    async with serving(path, register=binds()) as server:
        client, _ = await connected(server, "ann")
        with closing(sqlite3.connect(path)) as database:
            database.execute(
                "CREATE TRIGGER refuse BEFORE DELETE ON sessions BEGIN SELECT raise(ABORT, 'no'); END"
            )
            with pytest.raises(StoreError):
                await server.sio.revoke_identity("ann")
            database.execute("DROP TRIGGER refuse")
        assert await packets_until_marker(server, client) == [[]]
        await server.sio.revoke_identity("ann")
        assert await client.rest() == []
