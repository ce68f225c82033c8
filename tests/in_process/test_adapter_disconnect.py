from __future__ import annotations

import asyncio
import json
import sqlite3
import weakref
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore.adapter.departures import SESSIONS_PER_STEP
from socketio_eventstore.core.recovery import RecoveryResult
from socketio_eventstore.core.sessions import State
from support.embedded import Seen, away, results, serving, until


@pytest.mark.parametrize("how", ["transport", "client", "client for good", "server"])
async def test_disconnect_handler_reads_rooms_and_data(path: Path, how: str) -> None:
    """The disconnect handler can read the rooms and data of its session."""
    seen = Seen()

    async def disconnect(sid: str, reason: str) -> None:
        data = await server.sio.get_session(sid)
        seen(reason, server.sio.rooms(sid), data, server.sio.recovered(sid))

    recovery = {"recover_client_disconnect": how != "client for good"}
    async with serving(
        path, recovery=recovery, register=lambda sio: sio.on("disconnect", disconnect)
    ) as server:
        client = await server.client()
        await server.sio.enter_room(client.sid, "room")
        await server.sio.save_session(client.sid, {"name": "Ada"})
        match how:
            case "transport":
                await client.leave()
            case "server":
                await server.sio.disconnect(client.sid)
            case _:
                await client.send("41")
        reason = {"transport": "transport close", "server": "server disconnect"}.get(how, "client disconnect")
        assert await seen.until(1) == [(reason, [client.sid, "room"], {"name": "Ada"}, False)]
        if how in ("client for good", "server"):
            registry = (await server.manager.start()).registry
            await until(lambda: registry.get("/", client.sid) is None)


async def test_hundreds_of_sessions_leave_in_steps(path: Path) -> None:
    """The end of a connection with hundreds of namespaces lets the event loop serve others in between."""
    count, rounds = 250, 0
    left: Counter[int] = Counter()
    tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
    most_tasks = 0

    def disconnect(_namespace: str, _sid: str, _reason: str) -> None:
        nonlocal most_tasks
        left[rounds] += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        most_tasks = max(most_tasks, len(tasks))

    def next_round() -> None:
        nonlocal rounds
        rounds += 1
        if left.total() < count:
            asyncio.get_running_loop().call_soon(next_round)

    async with serving(
        path, register=lambda sio: sio.on("disconnect", disconnect, "*"), namespaces="*"
    ) as server:
        socket = await server.socket()
        await asyncio.gather(*(socket.send(f"40/{number},") for number in range(count)))
        sids = [json.loads(str(await socket.packet()).partition(",")[2])["sid"] for _ in range(count)]
        asyncio.get_running_loop().call_soon(next_round)
        await socket.leave()
        await until(lambda: left.total() == count)
        assert max(left.values()) <= SESSIONS_PER_STEP
        assert most_tasks <= 3 * SESSIONS_PER_STEP  # those of earlier steps are not kept for the end
        registry = (await server.manager.start()).registry
        sessions = [registry.get(f"/{number}", sid) for number, sid in zip(range(count), sids, strict=True)]
        assert all(session is not None and session.state is State.AWAY for session in sessions)


async def test_disconnect_handler_without_reason(path: Path) -> None:
    """A disconnect handler with one parameter is called without the reason."""
    seen = Seen()

    def disconnect(sid: str) -> None:
        seen(sid)

    async with serving(path, register=lambda sio: sio.on("disconnect", disconnect)) as server:
        client = await server.client()
        await client.leave()
        assert await seen.until(1) == [client.sid]


async def test_leave_in_the_disconnect_handler_is_ignored(path: Path) -> None:
    """Leaving rooms inside the disconnect handler does not change the session."""
    seen = Seen()

    async def disconnect(sid: str, _reason: str) -> None:
        for room in list(server.sio.rooms(sid)):
            await server.sio.leave_room(sid, room)
        seen("left")

    async with serving(path, register=lambda sio: sio.on("disconnect", disconnect)) as server:
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await server.sio.enter_room(client.sid, "room")
        await client.leave()
        await seen.until(1)
        offset = await server.sio.emit("missed", room="room")
        again = await server.socket()
        await again.connect(auth={"pid": pid})
        assert await again.event() == ["missed", offset]
        assert server.sio.rooms(client.sid) == [client.sid, "room"]
        # Outside of that handler a leave takes effect.
        await server.sio.leave_room(client.sid, "room")
        assert server.sio.rooms(client.sid) == [client.sid]


async def test_failing_disconnect_handler_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failing disconnect handler is logged, and its session can be recovered."""

    async def disconnect(*_: object) -> None:
        raise ZeroDivisionError

    async with serving(path, register=lambda sio: sio.on("disconnect", disconnect)) as server:
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await away(server, client)
        assert (await (await server.socket()).connect(auth={"pid": pid}))["sid"] == client.sid
    assert "The disconnect handler of / failed" in caplog.text


async def test_takeover_calls_disconnect_before_connect(
    path: Path,
) -> None:
    """A takeover calls disconnect before connect and silences the old transport."""
    seen = Seen()

    def register(sio: Any) -> None:
        sio.on("connect", lambda sid, *_: seen("connect", sid))
        sio.on("disconnect", lambda sid, reason: seen("disconnect", sid, reason))

    async with serving(path, register=register) as server:
        old = await server.socket()
        pid = (await old.connect())["pid"]
        new = await server.socket()
        sid = (await new.connect(auth={"pid": pid}))["sid"]
        assert seen.all == [("connect", sid), ("disconnect", sid, "transport close"), ("connect", sid)]
        assert await old.packet() == "41"
        assert await new.event_of(server.sio.emit("hello")) == ["hello"]
        await old.send("1")
        assert await old.rest() == []
        assert server.sio.manager.is_connected(sid, "/")
        assert len(seen.all) == 3


async def test_refused_takeover_keeps_the_owners_session(path: Path) -> None:
    """A refused takeover leaves the session to its owner."""

    async def connect(_sid: str, _environ: Any, auth: Any) -> bool:
        return auth is None

    async with serving(path, register=lambda sio: sio.on("connect", connect)) as server:
        owner = await server.socket()
        pid = (await owner.connect())["pid"]
        thief = await server.socket()
        await thief.send(json.dumps({"pid": pid, "token": "wrong"}).join(["40", ""]))
        offset = await server.sio.emit("secret")
        assert "message" in await thief.content("44")
        packets = await owner.rest()  # closed without a DISCONNECT, so that the client reconnects
        assert "41" not in packets
        back = await server.socket()
        assert (await back.connect(auth={"pid": pid}))["sid"] == owner.sid
        assert await back.event() == ["secret", offset]
        await thief.send("1")
        assert await thief.rest() == []
        assert await results(server) == {RecoveryResult.REFUSED: 1, RecoveryResult.RECOVERED: 1}


@pytest.mark.parametrize("work", ["before", "after"])
@pytest.mark.parametrize("how", ["transport", "polling", "disconnect", "revoke", "revoke_identity"])
async def test_client_leaves_during_its_connect_handler(path: Path, how: str, work: str) -> None:
    """The disconnect handler finds what the connect handler saved and joined, and the environ."""
    waiting, opened, seen = Seen(), asyncio.Event(), Seen()

    def register(sio: Any) -> None:
        async def wait(sid: str) -> None:
            waiting(sid)
            await opened.wait()

        async def connect(sid: str, *_: object) -> None:
            await sio.bind(sid, "ada")
            if work == "after":
                await wait(sid)
            await sio.save_session(sid, {"name": "Ada"})
            await sio.enter_room(sid, "room")
            if work == "before":
                await wait(sid)

        async def disconnect(sid: str, _reason: str) -> None:
            environ = sio.get_environ(sid)
            seen(sid, await sio.get_session(sid), sio.rooms(sid), environ and environ["REQUEST_METHOD"])

        sio.on("connect", connect)
        sio.on("disconnect", disconnect)

    async with serving(path, register=register) as server:
        client = await (server.polling() if how == "polling" else server.socket())
        await client.send("40")
        (sid,) = await waiting.until(1)
        if how in ("transport", "polling"):
            await client.send("1")
        else:
            await getattr(server.sio, how)("ada" if how == "revoke_identity" else sid)
        registry = (await server.manager.start()).registry
        session = registry.get("/", sid)
        assert session is not None
        await until(lambda: session.state is State.ENDED)
        opened.set()
        assert await seen.until(1) == [(sid, {"name": "Ada"}, [sid, "room"], "GET")]
        await until(lambda: registry.get("/", sid) is None)
        assert not registry.rooms
        if how in ("transport", "polling"):
            await until(lambda: not server.sio.environ)
        assert len(seen.all) == 1
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT * FROM rooms").fetchall() == []
        assert database.execute("SELECT * FROM sessions").fetchall() == []
