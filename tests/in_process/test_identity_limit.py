"""The limit for the sessions of one identity, where sessions are bound at the same time."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore.adapter import identity_limit
from socketio_eventstore.core.sessions import State
from support.embedded import Socket, answering_pings, away, serving, until
from support.processes import DEADLINE
from support.tokens import authentication, token_of


async def answer_of(socket: Socket, namespace: str, auth: Any = None) -> str:
    """The answer to CONNECT: "connected", or the code of a CONNECT_ERROR."""
    prefix = "" if namespace == "/" else f"{namespace},"
    await socket.send(f"40{prefix}{'' if auth is None else json.dumps(auth)}")
    packet = await socket.packet()
    assert isinstance(packet, str), packet
    if packet.startswith("40"):
        return "connected"
    code: str = json.loads(packet[packet.index("{") :])["data"]["code"]
    return code


def binding(sio: Any) -> None:
    """Connect handlers that bind each session to the user of the auth."""

    async def connect(sid: str, environ: Any, auth: Any) -> None:
        await sio.bind(sid, auth["user"])

    async def connect_to_a(sid: str, environ: Any, auth: Any) -> None:
        await sio.bind(sid, auth["user"], namespace="/a")

    sio.on("connect", connect)
    sio.on("connect", connect_to_a, namespace="/a")


async def test_users_within_the_limit_are_not_refused(path: Path) -> None:
    """Sessions of a user that connect at any moment are counted once each, whoever binds them."""
    async with serving(path, recovery={"sessions_per_identity": 2}, register=binding) as server:
        for number in range(40):
            socket = await server.socket()
            auth = json.dumps({"user": f"user {number}"})
            await socket.send(f"40{auth}")
            for _ in range(number):  # another moment for each user
                await asyncio.sleep(0)
            await socket.send(f"40/a,{auth}")
            answers = [await socket.packet() for _ in range(2)]
            assert all(str(answer).startswith("40") for answer in answers), (number, answers)
        assert not server.sio.clients.refused
        assert not server.sio.clients.identity_limit._opening


async def test_the_last_place_goes_to_the_first(path: Path) -> None:
    """Of several clients that come at once, as many as there are places for are connected."""

    def register(sio: Any) -> None:
        sio.authentication = authentication()

    async with serving(path, recovery={"sessions_per_identity": 2}, register=register) as server:
        sockets = [await server.socket() for _ in range(5)]
        auth = {"token": token_of()}
        answers = await asyncio.gather(*(answer_of(socket, "/", auth) for socket in sockets))
        assert sorted(answers) == ["connected"] * 2 + ["sessions_per_identity"] * 3


async def test_deferred_bindings_keep_their_places(path: Path) -> None:
    """Recovered sessions that are bound now, and handlers that run exactly once, do not exceed the limit."""
    go_on = asyncio.Event()

    def register(sio: Any) -> None:
        async def connect(sid: str, environ: Any, auth: Any) -> None:
            if sio.recovered(sid):
                await sio.bind(sid, "ann")
                await go_on.wait()

        async def log_in(sid: str, key: str) -> str:
            await sio.bind(sid, "bob")
            await go_on.wait()
            return "done"

        sio.on("connect", connect)
        sio.exactly_once("log in")(log_in)

    async with serving(path, recovery={"sessions_per_identity": 1}, register=register) as server:
        pids = []
        for _ in range(3):
            client = await server.socket()
            pids.append((await client.connect())["pid"])
            await away(server, client)
        sockets = [await server.socket() for _ in range(3)]
        answers = [
            asyncio.create_task(answer_of(socket, "/", {"pid": pid}))
            for socket, pid in zip(sockets, pids, strict=True)
        ]
        await until(lambda: server.sio.clients.refused["sessions_per_identity"] == 2)
        clients = [await server.client() for _ in range(2)]
        for number, client in enumerate(clients):
            await client.send(f'421["log in","{number}"]')
        await until(lambda: server.sio.clients.refused["sessions_per_identity"] == 3)
        go_on.set()
        assert sorted(await asyncio.gather(*answers)) == ["connected"] + ["sessions_per_identity"] * 2
        registry = (await server.manager.start()).registry
        await until(lambda: registry.of_identity("bob"))
        assert [len(registry.of_identity(user)) for user in ("ann", "bob")] == [1, 1]
        assert not server.sio.clients.identity_limit._opening


@pytest.mark.parametrize("binds", [False, True], ids=["token", "bind"])
async def test_a_half_open_tab_locks_nobody_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, binds: bool
) -> None:
    """While a client of the user does not answer, the next one tries again, and then takes its place."""
    monkeypatch.setattr(identity_limit, "ANSWER_SECONDS", 0.5)

    def register(sio: Any) -> None:
        if binds:
            binding(sio)
        else:
            sio.authentication = authentication()

    auth = {"user": "ann"} if binds else {"token": token_of()}
    recovery = {"sessions_per_identity": 1}
    async with serving(path, recovery=recovery, register=register, ping_timeout=3) as server:
        silent = await server.client(auth)
        for _ in range(2):
            early = await server.socket()
            await early.send(f"40{json.dumps(auth)}")
            assert await early.rest() == []
        assert not server.sio.clients.refused
        registry = (await server.manager.start()).registry
        session = registry.get("/", silent.sid)
        assert session is not None
        await until(lambda: session.state is not State.LIVE)
        second = await server.client(auth)
        assert [one.sid for one in registry if one.sid == second.sid or one.identity] == [second.sid]
        monkeypatch.setattr(identity_limit, "ANSWER_SECONDS", DEADLINE)
        async with answering_pings(second):
            assert await answer_of(await server.socket(), "/", auth) == "sessions_per_identity"
