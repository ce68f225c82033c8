"""An unbound session whose client left by itself is recovered with the same credentials only."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore.adapter.credentials import hash_credentials
from socketio_eventstore.core.recovery import RecoveryResult
from socketio_eventstore.core.sessions import State
from socketio_eventstore.transport.request_head import RequestHead
from support.embedded import Server, Socket, results, serving, until

NONE: dict[str, Any] = {}


async def connected(server: Server, auth: Any, headers: dict[str, str]) -> tuple[Socket, dict[str, Any]]:
    socket = await server.open_socket({"EIO": "4", "transport": "websocket"}, headers)
    await socket.content("0")
    return socket, await socket.connect(auth=auth)


async def left(server: Server, client: Socket) -> None:
    """The client sends DISCONNECT; waits until its session is away."""
    session = (await server.manager.start()).registry.get("/", client.sid)
    assert session is not None
    await client.send("41")
    await until(lambda: session.state is State.AWAY)


async def is_recovered(server: Server, first: tuple[Any, dict[str, str]], second: Any) -> bool:
    client, answer = await connected(server, *first)
    await left(server, client)
    auth, headers = second
    _, again = await connected(server, {**(auth or {}), "pid": answer["pid"]}, headers)
    return bool(again["sid"] == answer["sid"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((None, NONE), ({}, NONE)),
        (({}, NONE), (None, NONE)),
        (({"offset": "x"}, NONE), (None, NONE)),
        (({"a": 1, "b": 2}, NONE), ({"b": 2, "a": 1}, NONE)),
        ((None, {"Cookie": "a=1; b=2"}), (None, {"Cookie": "b=2;a=1"})),
        ((None, {"Cookie": "a=1"}), (None, {"Cookie": "io=xyz; a=1"})),
        ((None, NONE), (None, {"Cookie": "io=xyz"})),
        ((None, {"Authorization": "Bearer 1"}), (None, {"Authorization": "Bearer 1"})),
        ((None, {"User-Agent": "1"}), (None, {"User-Agent": "2"})),
    ],
)
async def test_same_credentials_recover(path: Path, first: Any, second: Any) -> None:
    """The same credentials recover, whatever their order; the server's own cookie does not count."""
    async with serving(path, cookie="io") as server:
        assert await is_recovered(server, first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (({"t": 1}, NONE), ({"t": 2}, NONE)),
        (({"t": 1}, NONE), ({"t": "1"}, NONE)),
        (({"t": 1}, NONE), (None, NONE)),
        ((None, {"Cookie": "user=alice"}), (None, {"Cookie": "user=bob"})),
        ((None, {"Cookie": "user=alice"}), (None, NONE)),
        ((None, {"Cookie": "sio=alice"}), (None, {"Cookie": "sio=bob"})),
        ((None, {"Authorization": "Basic alice"}), (None, {"Authorization": "Basic bob"})),
        ((None, {"Cookie": "x"}), (None, {"Authorization": "x"})),
    ],
)
@pytest.mark.parametrize("skip_middlewares", [False, True], ids=["", "skipped"])
async def test_other_credentials_open_a_session(
    path: Path, first: Any, second: Any, skip_middlewares: bool
) -> None:
    """Other credentials get a new session, and the reason is counted."""
    recovery = {"skip_middlewares": skip_middlewares}
    async with serving(path, cookie={"name": "io"}, recovery=recovery) as server:
        assert not await is_recovered(server, first, second)
        assert await results(server) == {RecoveryResult.AUTH_CHANGED: 1}


async def test_refused_stranger_changes_nothing(path: Path) -> None:
    """After a try with other credentials the owner still recovers."""
    async with serving(path) as server:
        client, answer = await connected(server, {"t": 1}, {})
        await left(server, client)
        for auth, sid_is_same in (({"t": 2}, False), ({"t": 1}, True)):
            _, again = await connected(server, {**auth, "pid": answer["pid"]}, {})
            assert (again["sid"] == answer["sid"]) is sid_is_same


async def test_session_without_hash_is_not_recovered(path: Path) -> None:
    """A session from before the hash recovers after a lost transport only."""
    async with serving(path) as server:
        clients = [await connected(server, None, {}) for _ in range(2)]
        await left(server, clients[0][0])
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT left_by_client FROM sessions ORDER BY number").fetchall() == [
            (1,),
            (0,),
        ]
        database.execute("UPDATE sessions SET auth_hash = NULL")
        database.commit()
    async with serving(path) as server:
        again = [(await connected(server, {"pid": answer["pid"]}, {}))[1] for _, answer in clients]
        assert [new["sid"] == old["sid"] for new, (_, old) in zip(again, clients, strict=True)] == [
            False,
            True,
        ]
        assert (await results(server))[RecoveryResult.AUTH_CHANGED] == 1


async def test_the_database_holds_no_credentials(path: Path) -> None:
    """The hash differs between sessions of one user, and nothing else of the credentials is stored."""
    async with serving(path) as server:
        for _ in range(2):
            await connected(server, {"token": "s3cret-token"}, {"Cookie": "user=s3cret-cookie"})
    with closing(sqlite3.connect(path)) as database:
        hashes = {row[0] for row in database.execute("SELECT auth_hash FROM sessions")}
        assert len(hashes) == 2 and all(len(value) == 32 for value in hashes)
        assert "s3cret" not in "\n".join(database.iterdump())


@pytest.mark.parametrize(
    "auth",
    ["text", ["list"], {1: "a", "b": 2}, {"b": b"\x00"}, {"t": "\ud800"}, {"n": float("inf")}, 7],
    ids=str,
)
def test_any_auth_has_a_hash(auth: Any) -> None:
    """Whatever a client sends as auth has a hash of its own."""
    head = RequestHead("127.0.0.1", False, lambda _: ())
    first, again = (hash_credentials("pid", auth, head, None) for _ in range(2))
    assert first == again
    assert first != hash_credentials("pid", None, head, None)
    assert first != hash_credentials("other", auth, head, None)
