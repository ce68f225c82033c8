"""A task of the server that dies is started again, and the readiness probe tells of it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from types import coroutine
from typing import Any

import pytest

from socketio_eventstore.core import health, replay, supervisor
from socketio_eventstore.core.supervisor import Supervisor
from support.embedded import away, serving, until

TASKS = ["commit queue", "effects of the log", "replay", "health", "retention"]


class Mortal:
    """Lets a task die: its coroutine gets exceptions where it waits, until it does not catch one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.deaths = 0
        self._is_condemned = False

    def condemn(self) -> None:
        self._is_condemned = True

    @coroutine
    def run(self, work: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
        cancelled: asyncio.CancelledError | None = None
        while True:
            error = ZeroDivisionError() if self._is_condemned else cancelled
            try:
                waits_for = work.send(None) if error is None else work.throw(error)
            except StopIteration:
                return
            except ZeroDivisionError:
                self._is_condemned = False
                self.deaths += 1
                raise
            cancelled = None
            try:
                yield waits_for
            except asyncio.CancelledError as cancellation:
                cancelled = cancellation


@pytest.fixture
def mortal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mortal:
    """The task of this name, in a server that starts after this fixture."""
    mortal, start = Mortal(request.param), Supervisor.start

    def start_mortal(self: Supervisor, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> Any:
        def mortal_work() -> Any:
            return mortal.run(work())

        return start(self, name, mortal_work if name == mortal.name else work)

    monkeypatch.setattr(Supervisor, "start", start_mortal)
    return mortal


@pytest.mark.parametrize("mortal", TASKS, indirect=True)
async def test_dead_task_is_started_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, mortal: Mortal, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that dies is started again; meanwhile the server is not ready, afterwards everything works."""
    monkeypatch.setattr(health, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "RESTART_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(replay, "PAGE_EVENTS", 3)
    async with serving(path, recovery={"prune_interval": 0.01}) as server:
        runtime = await server.manager.start()
        gone, client = await server.socket(), await server.client()
        pid = (await gone.connect())["pid"]
        await away(server, gone)
        runtime.context.recent_events.clear()  # the replay is in the task, not in memory
        missed = [await server.sio.emit("missed", number) for number in range(5)]
        runtime.context.recent_events.clear()

        back = await server.socket()
        await until(lambda: runtime.queue._wake is not None)  # a fault within a batch fails the batch
        mortal.condemn()  # nothing slow before the look at its problem, which is over in 50 ms
        if mortal.name == "replay":
            await back.connect(auth={"pid": pid})
        emit = asyncio.create_task(server.sio.emit("meanwhile"))
        await until(lambda: mortal.deaths)
        await until(runtime.health.problems)
        assert runtime.health.problems() == [f"the task {mortal.name} has ended"]
        offset = await emit
        await until(lambda: not runtime.health.problems())

        for number, one in enumerate(missed):
            assert await client.event() == ["missed", number, one]
        assert await client.event() == ["meanwhile", offset]
        if mortal.name != "replay":
            await back.connect(auth={"pid": pid})
        assert [(await back.event())[-1] for _ in missed] == missed
        assert await back.event() == ["meanwhile", offset]
        assert await back.event_of(server.sio.emit("after")) == ["after"]
        batch = runtime.context.nodes.batch
        await until(lambda: runtime.context.nodes.batch > batch + 3)  # heartbeats and sweeps
        assert mortal.deaths == 1
        assert f"A task of the server has failed ({mortal.name}); it starts again" in caplog.text
