"""A server whose log has reached ``max_size``: old events go first, then emits fail, and sessions go on."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore import LogFull
from socketio_eventstore.core import health, retention
from socketio_eventstore.core.operations import Emit, JoinRoom
from support.core import pausable_commits
from support.embedded import Server, Socket, away, serving, until
from support.processes import DEADLINE
from support.storing import event

MAX_SIZE = 1_000_000
LARGE = "x" * 50_000


@pytest.fixture(autouse=True)
def fast_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(retention, "HEARTBEAT_SECONDS", 0.01)


def options(max_disconnection_duration: float, **more: Any) -> dict[str, Any]:
    return {
        "max_size": MAX_SIZE,
        "retention": 3600.0,
        "max_disconnection_duration": max_disconnection_duration,
        "prune_interval": 0.01,
        **more,
    }


async def fill_log(server: Server) -> int:
    """Emit until an emit fails; return the number of emits."""
    for number in range(100):
        try:
            await server.sio.emit("large", LARGE)
        except LogFull:
            return number
    raise AssertionError("the log was never full")


async def emit_until_success(server: Server, name: str) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                await server.sio.emit(name, LARGE)
            except LogFull:
                await asyncio.sleep(0.01)
            else:
                return


async def receive_all(client: Socket, count: int) -> None:
    for _ in range(count):
        assert (await client.event())[0] == "large"


def names_and_size(path: Path) -> tuple[list[str], int]:
    """The names of the stored events, and the size of the closed database."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT event FROM events ORDER BY offset")
        return [name for (name,) in rows], path.stat().st_size


async def test_old_events_go_before_retention(path: Path) -> None:
    """Events beyond the disconnection duration go although their retention has not passed."""
    async with serving(path, recovery=options(0.05)) as server:
        for number in range(100):
            await emit_until_success(server, f"e{number}")
        runtime = await server.manager.start()
        assert 0 < runtime.log.pruned_through < 100
        await until(lambda: not runtime.health.problems())
    names, size = names_and_size(path)
    assert names == [f"e{number}" for number in range(100 - len(names), 100)]
    assert size < MAX_SIZE * 9 // 8 + 2 * len(LARGE)


async def test_events_within_the_limit_stay(path: Path) -> None:
    """Below the limit events stay for their retention."""
    async with serving(path, recovery=options(0.05)) as server:
        for number in range(10):
            await server.sio.emit(f"e{number}", LARGE)
        runtime = await server.manager.start()
        before = runtime.context.uptime
        await until(lambda: runtime.context.uptime > before + 0.2)
        assert runtime.log.pruned_through == 0


async def test_sessions_keep_their_events(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Events that a session away may need stay: emits fail, the client recovers, and then events go."""
    async with serving(path, recovery=options(60.0)) as server:
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await away(server, client)
        count = await fill_log(server)
        runtime = await server.manager.start()
        await until(runtime.health.problems)
        (problem,) = runtime.health.problems()
        assert problem == f"{path} and its WAL have reached max_size = {MAX_SIZE} bytes."
        assert runtime.log.pruned_through == 0
        client = await server.socket()
        answer = await client.connect(auth={"pid": pid})
        assert answer["pid"] == pid
        await receive_all(client, count)
        await server.sio.enter_room(client.sid, "room")
        await server.sio.emit("volatile", volatile=True)
        assert (await client.event())[0] == "volatile"
        with pytest.raises(LogFull):
            await server.sio.save_session(client.sid, {"longer": "x" * 100})
        other = await server.client()
        await other.leave()
        await until(lambda: len(caplog.messages) == 1)
    assert caplog.messages == [problem]


async def test_goes_on_by_itself(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the session that held the events has expired, emits succeed again, and a line says so."""
    async with serving(path, recovery=options(2.0)) as server:
        client = await server.client()
        await away(server, client)
        await fill_log(server)
        runtime = await server.manager.start()
        await emit_until_success(server, "after")
        await until(lambda: not runtime.health.problems() and len(caplog.messages) > 1)
    begin, end = caplog.messages
    assert "max_size" in begin and end == f"Ended after 1 times: {begin}"


async def test_only_emits_of_a_batch_fail(path: Path) -> None:
    """Emits and joins in one batch: each emit fails, each join takes effect."""
    async with serving(path, recovery=options(60.0)) as server:
        client = await server.client()
        await fill_log(server)
        runtime = await server.manager.start()
        session = runtime.registry.get("/", client.sid)
        assert session is not None
        async with pausable_commits(server) as commits:
            commits.pause()
            first = runtime.queue.submit(JoinRoom(session, "first"))
            await commits.reached.wait()
            waiting = [
                runtime.queue.submit(operation)
                for number in range(100)
                for operation in (Emit(event()), JoinRoom(session, f"r{number}"))
            ]
            commits.resume()
            results = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert [type(result) for result in results[1::2]] == [LogFull] * 100
        assert [result for result in results[::2] if isinstance(result, BaseException)] == []
        assert set(server.sio.rooms(client.sid)) >= {f"r{number}" for number in range(100)}


async def test_refused_emits_cost_one_append(path: Path) -> None:
    """A thousand refused emits delay the join behind them by one transaction, and not by a thousand."""
    async with serving(path, recovery=options(60.0)) as server:
        client = await server.client()
        await fill_log(server)
        runtime = await server.manager.start()
        session = runtime.registry.get("/", client.sid)
        assert session is not None
        sizes: list[int] = []
        async with pausable_commits(server) as commits:
            commits.failure = lambda changes: sizes.append(len(changes))
            emits = [runtime.queue.submit(Emit(event())) for _ in range(1000)]
            await runtime.queue.submit(JoinRoom(session, "room"))
            results = await asyncio.gather(*emits, return_exceptions=True)
        assert {type(result) for result in results} == {LogFull}
        assert len([size for size in sizes if size >= 100]) == 1  # the others are the join and heartbeats


async def test_smaller_limit_at_the_start(path: Path) -> None:
    """A log beyond a new limit starts, and old events go as soon as they may."""
    async with serving(path, recovery=options(0.05, max_size=10 * MAX_SIZE)) as server:
        for _ in range(60):
            await server.sio.emit("large", LARGE)
    async with serving(path, recovery=options(0.05)) as server:
        await emit_until_success(server, "after")
        runtime = await server.manager.start()
        assert runtime.log.pruned_through > 0
        await until(lambda: not runtime.health.problems())
