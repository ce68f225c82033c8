"""Readiness: the store was written within the last seconds, and every task runs."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from socketio_eventlog.errors import StoreBusy, StoreUnavailable
from socketio_eventstore.core import health
from socketio_eventstore.core.health import WRITTEN_WITHIN_SECONDS, StoreHealth
from socketio_eventstore.program.http_routes import add_routes
from support.core import pausable_commits, pausable_log
from support.embedded import Server, serving, until
from support.storing import Clock


async def readiness(server: Server) -> tuple[int, str]:
    app = web.Application()
    add_routes(app, "/socket.io/", None, server.sio)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/readyz"
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            return response.status, await response.text()
    finally:
        await runner.cleanup()


async def test_store_is_not_open(tmp_path: Path) -> None:
    """A server is not ready before its start."""
    async with serving(tmp_path / "events.db") as server:
        assert await readiness(server) == (503, "not ready: the store is not open\n")
        await server.sio.start()
        assert await readiness(server) == (200, "ok\n")


async def test_failing_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server is not ready while the store cannot be written, and again afterwards, without an emit."""
    monkeypatch.setattr(health, "HEARTBEAT_SECONDS", 0.01)
    async with serving(tmp_path / "events.db") as server:
        runtime = await server.manager.start()
        async with pausable_log(server) as commits:
            commits.failure = lambda _: StoreUnavailable("The disk is full.")
            await until(runtime.health.problems)
            status, text = await readiness(server)
            assert status == 503 and text.startswith("not ready: The event store cannot be written")
            commits.failure = lambda _: None
            await until(lambda: not runtime.health.problems())
            assert await readiness(server) == (200, "ok\n")
        begin, end = caplog.messages
        assert begin.startswith("The store cannot be written. ") and end.startswith("Ended after ")


async def test_failing_commit(tmp_path: Path) -> None:
    """A commit that fails because of the store makes the server unready at once."""
    async with serving(tmp_path / "events.db") as server:
        runtime = await server.manager.start()
        async with pausable_commits(server) as commits:
            commits.fail_with(StoreUnavailable("The disk is full."))
            with pytest.raises(StoreUnavailable):
                await server.sio.emit("event")
            assert (await readiness(server))[0] == 503
            commits.fail_with()
            await server.sio.emit("event")
            assert runtime.health.problems() == []


@pytest.mark.parametrize("name", ["effects of the log", "replay", "health", "retention"])
async def test_cancelled_task(tmp_path: Path, name: str) -> None:
    """A server with a task that has ended for good is not ready."""
    async with serving(tmp_path / "events.db") as server:
        runtime = await server.manager.start()
        task = runtime._supervisor.tasks[name]
        task.cancel()
        await until(task.done)
        assert await readiness(server) == (503, f"not ready: the task {name} has ended\n")


def test_age_of_the_last_write() -> None:
    """A store without a write for some seconds is not available, for example behind a foreign lock."""
    clock = Clock()
    store = StoreHealth(clock)
    clock.now = WRITTEN_WITHIN_SECONDS
    store.failed(StoreBusy())
    assert store.problem() is None
    clock.now += 1.0
    assert store.problem() == "the last write to the store is 7 s old"
    store.written()
    assert store.problem() is None
