"""A claim that took long is accepted only after an answered ping: the client may have gone meanwhile."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore.adapter import claims
from socketio_eventstore.adapter.authentication import Token
from socketio_eventstore.core.sessions import State
from support.core import PausableLog, pausable_commits
from support.embedded import Server, Socket, away, serving, until
from support.tokens import authentication, token_of

QUIET: dict[str, Any] = {"ping_interval": 1_000.0, "ping_timeout": 1_000.0}
"""Every ping in a test is one that the acceptance needs."""


async def slow_claim(server: Server, commits: PausableLog, pid: str) -> Socket:
    """A client whose claim waits for the store."""
    client = await server.socket()
    commits.pause()
    await client.send("40" + json.dumps({"pid": pid}))
    await commits.reached.wait()
    return client


@pytest.fixture(autouse=True)
def every_claim_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PROMPT_CLAIM_SECONDS", 0.0)


async def test_living_client_is_accepted(path: Path) -> None:
    """A client that answers the ping after a slow claim gets its session."""
    async with serving(path, **QUIET) as server, pausable_commits(server) as commits:
        owner = await server.socket()
        ids = await owner.connect()
        await away(server, owner)
        missed = await server.sio.emit("missed")
        client = await slow_claim(server, commits, ids["pid"])
        commits.resume()
        assert await client.raw_packet() == "2"
        session = next(iter((await server.manager.start()).registry))
        await server.sio.emit("written to nobody")
        assert session.state is State.CONNECTING
        await client.send("3")
        assert await client.content("40") == ids
        assert await client.event() == ["missed", missed]
        assert (await client.event())[0] == "written to nobody"


async def test_slow_check_of_a_token_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose token was checked for long proves its life, too, although its claim is prompt."""
    monkeypatch.setattr(claims, "PROMPT_CLAIM_SECONDS", 0.3)
    checking = authentication()

    class SlowCheck:
        refused, key_fetches = checking.refused, checking.key_fetches

        async def check(self, auth: Any, namespace: str) -> Token:
            clock = asyncio.get_running_loop().time
            begun = clock()
            await until(lambda: clock() - begun > claims.PROMPT_CLAIM_SECONDS)
            return await checking.check(auth, namespace)

    def register(sio: Any) -> None:
        sio.authentication = SlowCheck()

    async with serving(path, register=register, **QUIET) as server:
        owner, auth = await server.socket(), {"token": token_of()}
        ids = await owner.connect(auth=auth)
        await away(server, owner)
        back = await server.socket()
        await back.send("40" + json.dumps({**auth, "pid": ids["pid"]}))
        assert await back.raw_packet() == "2"
        await back.send("3")
        assert await back.content("40") == ids


async def test_client_that_is_gone_gets_no_session(path: Path) -> None:
    """A client that is gone after its slow claim does not get the session, and a later one gets it."""
    async with serving(path, **QUIET) as server, pausable_commits(server) as commits:
        owner = await server.socket()
        ids = await owner.connect()
        await away(server, owner)
        gone = await slow_claim(server, commits, ids["pid"])
        await gone.leave()
        await until(lambda: len(server.engine.sockets) == 0)
        commits.resume()
        session = next(iter((await server.manager.start()).registry))
        await until(lambda: session.state is State.AWAY and session.claim == 2)
        back = await server.socket()
        await back.send("40" + json.dumps({"pid": ids["pid"]}))
        assert await back.raw_packet() == "2"
        await back.send("3")
        assert await back.content("40") == ids


async def test_silent_client_gets_no_session(path: Path) -> None:
    """A half-open connection with a slow claim answers no ping: the session goes to the next claim."""
    async with (
        serving(path, ping_interval=1_000.0, ping_timeout=2.0) as server,
        pausable_commits(server) as commits,
    ):
        owner = await server.socket()
        ids = await owner.connect()
        await away(server, owner)
        missed = await server.sio.emit("missed")
        silent = await slow_claim(server, commits, ids["pid"])
        commits.resume()
        assert await silent.raw_packet() == "2"
        assert await silent.raw_packet() is None  # no byte of the session
        back = await server.socket()
        await back.send("40" + json.dumps({"pid": ids["pid"]}))
        assert await back.content("40") == ids
        assert await back.event() == ["missed", missed]


async def test_late_claim_of_a_dead_connection(path: Path) -> None:
    """A slow claim of a dead connection that comes after the client's newer one costs no more than a return.

    The newer connection is closed without a packet, so the client comes back for the session.
    """
    async with serving(path, **QUIET) as server:
        runtime = await server.manager.start()
        owner = await server.socket()
        ids = await owner.connect()
        await away(server, owner)
        newer, older = await server.socket(), await server.socket()
        for client in (newer, older):
            await client.send("40" + json.dumps({"pid": ids["pid"]}))
            assert await client.raw_packet() == "2"
        (session,) = runtime.registry
        assert session.claim == 3
        await newer.send("3")
        await older.leave()
        await until(lambda: session.state is State.AWAY)
        assert await newer.rest() == []
        back = await server.socket()
        await back.send("40" + json.dumps({"pid": ids["pid"]}))
        assert await back.content("40") == ids


async def test_prompt_claim_needs_no_ping(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt claim is accepted at once, and so is a new session."""
    monkeypatch.setattr(claims, "PROMPT_CLAIM_SECONDS", 1_000.0)
    async with serving(path, **QUIET) as server:
        owner = await server.socket()
        ids = await owner.connect()
        await away(server, owner)
        back = await server.socket()
        await back.send("40" + json.dumps({"pid": ids["pid"]}))
        packet = await back.raw_packet()
        assert isinstance(packet, str) and json.loads(packet.removeprefix("40")) == ids
