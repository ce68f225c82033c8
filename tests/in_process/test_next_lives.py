"""What a process needs to begin another life as a node, and what it does when that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from socketio_eventlog.changes import NodeJoined
from socketio_eventlog.errors import BatchNotTaken, DatabaseTooNew, NodeOutdated, StoreClosed
from socketio_eventlog.log import Log
from socketio_eventstore.adapter import rejoining
from socketio_eventstore.core import runtime
from socketio_eventstore.program.readiness import problems
from support.embedded import until
from support.in_process_nodes import Nodes, nodes


@pytest.fixture
async def two(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nodes]:
    async with nodes(monkeypatch) as running:
        yield running


async def test_outdated_node_joins_when_allowed_again(two: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that has demanded a newer version may be replaced by a copy from before."""
    a, _ = two.servers
    opens: Any = vars(runtime)["open_log"]

    async def too_new(*_: object, **__: object) -> Log:
        raise DatabaseTooNew("the log has format 2")

    monkeypatch.setattr(rejoining, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(runtime, "open_log", too_new)
    a.manager.runtime.queue.store_health.failed(NodeOutdated("The log has format 2."))  # type: ignore[union-attr]
    await until(lambda: a.sio.rejoining.failure)
    monkeypatch.setattr(runtime, "open_log", opens)
    await until(lambda: a.sio.rejoining.count == 1)
    assert await a.sio.emit("event")


async def test_life_that_fails_at_its_begin_is_followed(two: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new life whose store is closed before its clients could come is followed by another one."""
    a, _ = two.servers
    lost_sessions, fails = a.sio.rejoining._lost_sessions, [True]
    follow_on = lost_sessions.follow_on

    async def closed_first(present: Any) -> None:
        if fails:
            fails.clear()
            raise StoreClosed
        await follow_on(present)

    monkeypatch.setattr(rejoining, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(lost_sessions, "follow_on", closed_first)
    a.sio.lost("a test")
    await until(lambda: a.sio.rejoining.count == 1)
    client = await a.client()
    assert await client.event_of(a.sio.emit("live")) == ["live"]
    assert len(two.shared.state.nodes) == 2


@pytest.mark.parametrize("failing", ["transport", "handlers", "end of the store", "begin of the clients"])
async def test_fault_between_two_lives_is_not_the_end(
    two: Nodes, failing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault in any step between two lives is logged, and the server serves clients in a new life."""
    a, _ = two.servers
    former = await a.client()
    (connection,) = a.sio.eio.sockets.values()
    owner, name = {
        "transport": (connection, "abort"),
        "handlers": (a.sio.rejoining._clients, "finish"),
        "end of the store": (a.manager, "end_life"),
        "begin of the clients": (a.sio.rejoining._clients, "start"),
    }[failing]
    fail_once(owner, name, monkeypatch)
    monkeypatch.setattr(rejoining, "PAUSE_SECONDS", 0.01)
    a.sio.lost("a test")
    await until(lambda: a.sio.rejoining.count == 1)
    assert await former.packet() is None
    client = await a.client()
    assert await client.event_of(a.sio.emit("live")) == ["live"]
    assert "ZeroDivisionError" in caplog.text and not a.sio.rejoining.is_running


def fail_once(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next call of a method raise an error."""
    method, fails = getattr(owner, name), [True]

    def faulty(*arguments: Any) -> Any:
        if fails:
            fails.clear()
            raise ZeroDivisionError
        return method(*arguments)

    monkeypatch.setattr(owner, name, faulty)


async def test_new_life_that_is_outdated_stays_out(two: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new life that meets an unknown change before its clients could come is the last one."""
    a, _ = two.servers

    async def meet_unknown_change(present: Any) -> None:
        present.queue.store_health.failed(NodeOutdated("An unknown change."))
        raise StoreClosed

    monkeypatch.setattr(rejoining, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(a.sio.rejoining._lost_sessions, "follow_on", meet_unknown_change)
    a.sio.lost("a test")
    await until(lambda: isinstance(a.sio.rejoining.failure, NodeOutdated) or two.count(NodeJoined) > 4)
    assert two.count(NodeJoined) == 4  # the two servers, the new life and the join that is the last one


async def test_node_that_could_not_take_a_batch_pauses(two: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that repeats with every batch does not let a server join without a pause."""
    a, _ = two.servers
    monkeypatch.setattr(rejoining, "PAUSE_SECONDS", 3600.0)
    a.manager.runtime.queue.store_health.failed(BatchNotTaken("Batch 7."))  # type: ignore[union-attr]
    await until(lambda: a.sio.rejoining.failure)
    assert problems(a.sio) == [
        "this node is joining the log anew",
        f"{BatchNotTaken().summary} The log of this server says more.",
    ]
