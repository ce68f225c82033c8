"""A session that a second connection claims while the connect handler of the first one is running."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore.core.recovery import Recovery, RecoveryResult
from socketio_eventstore.core.sessions import Session
from support.embedded import Server, away, results, serving, until


class Handlers:
    """A connect handler that binds the identity ``as`` of ``auth``, and waits for the test with ``wait``."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.calls: list[str] = []

    def register(self, sio: Any) -> None:
        async def connect(sid: str, environ: dict[str, Any], auth: dict[str, Any] | None) -> None:
            auth = auth or {}
            self.calls.append(f"connect {auth.get('as')}")
            if auth.get("wait"):
                await self.gate.wait()
            if auth.get("as"):
                await sio.bind(sid, auth["as"])

        async def disconnect(sid: str, reason: str) -> None:
            self.calls.append("disconnect")

        sio.on("connect", connect)
        sio.on("disconnect", disconnect)


async def claim_twice(server: Server, handlers: Handlers, identity: str | None) -> list[dict[str, Any]]:
    """Claim the session of alice with a slow connect handler, then by another connection.

    Returns the answer to the second connection, and the ids of the session.
    """
    runtime = await server.manager.start()
    owner = await server.socket()
    ids = await owner.connect(auth={"as": "alice"})
    await away(server, owner)
    slow, fast = await server.socket(), await server.socket()
    await slow.send("40" + json.dumps({"pid": ids["pid"], "as": "alice", "wait": True}))
    await until(lambda: handlers.calls.count("connect alice") == 2)
    answer = asyncio.create_task(fast.connect(auth={"pid": ids["pid"], "as": identity}))
    await until(lambda: next(iter(runtime.registry)).claim == 3)
    handlers.gate.set()
    return [await answer, ids]


async def test_superseded_client_is_no_other_identity(path: Path) -> None:
    """A client that lost its claim while it authenticated gets no session of its own."""
    handlers = Handlers()
    async with serving(path, register=handlers.register) as server:
        answer, ids = await claim_twice(server, handlers, "alice")
        assert answer["sid"] == ids["sid"]
        assert RecoveryResult.REFUSED not in await results(server)
        assert len(list((await server.manager.start()).registry)) == 1
        assert handlers.calls.count("connect alice") == 3
        await until(lambda: handlers.calls.count("disconnect") == 2)  # of the owner's, and of the lost claim


@pytest.mark.parametrize("identity", [None, "mallory"])
async def test_bind_authenticates_its_own_connection(path: Path, identity: str | None) -> None:
    """The bind of a superseded connect handler does not authenticate the connection that superseded it."""
    handlers = Handlers()
    async with serving(path, register=handlers.register) as server:
        answer, ids = await claim_twice(server, handlers, identity)
        assert answer["sid"] != ids["sid"] and answer["pid"] != ids["pid"]
        assert RecoveryResult.RECOVERED not in await results(server)


async def test_session_ends_while_it_is_claimed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose session the application ends between its claim and the decision gets a new one."""
    decide = Recovery.decide

    async def decide_after_the_end(self: Recovery, session: Session, *question: Any) -> Any:
        await server.sio.disconnect(session.sid)
        return await decide(self, session, *question)

    monkeypatch.setattr(Recovery, "decide", decide_after_the_end)
    async with serving(path) as server:
        client = await server.socket()
        answer = await client.connect()
        await away(server, client)
        again = await (await server.socket()).connect(auth={"pid": answer["pid"]})
        assert again["sid"] != answer["sid"]
        assert await results(server) == {RecoveryResult.UNKNOWN_SESSION: 1}
