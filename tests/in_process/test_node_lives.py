"""The life of a node among others: it gives up without contact, and joins anew in the same process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from socketio_eventlog.changes import NodeDied
from socketio_eventlog.errors import (
    NodeOutdated,
    StoreClosed,
    StoreError,
    StoreNotUsable,
    StoreUnavailable,
)
from socketio_eventlog.events import Event
from socketio_eventlog.log import Log
from socketio_eventstore.adapter import rejoining
from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.core import lease, runtime
from socketio_eventstore.core.event_pages import EventFilter
from socketio_eventstore.core.retention import NEGLECTED_SWEEPS
from socketio_eventstore.core.sessions import State
from socketio_eventstore.program.readiness import problems
from support.embedded import Seen, until
from support.in_process_nodes import Nodes, nodes


@pytest.fixture
async def two(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nodes]:
    async with nodes(monkeypatch) as running:
        yield running


async def test_isolated_node_closes_clients_and_joins_anew(
    two: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gets no DISCONNECT, and what was emitted meanwhile when it is back, here or elsewhere."""
    a, b = two.servers
    client = await a.socket()
    pid = (await client.connect())["pid"]
    await two.until_applied()
    former = two.log(0)
    monkeypatch.setattr(lease, "CONTACT_SECONDS", 2.0)
    former.cut_off()
    assert await client.packet() is None
    monkeypatch.setattr(lease, "CONTACT_SECONDS", 9.0)
    await until(lambda: a.manager.runtime is not None and two.log(0) is not former)
    assert former.node not in two.shared.state.nodes
    await until(lambda: not a.sio.rejoining.is_running)
    offset = await b.sio.emit("missed")
    back = await a.socket()
    assert (await back.connect(auth={"pid": pid}))["pid"] == pid
    assert await back.event() == ["missed", offset]
    assert await back.event_of(a.sio.emit("live")) == ["live"]


async def test_lonely_node_gives_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that knows of no other one closes its clients without contact: another one may have begun."""
    async with nodes(monkeypatch, count=1) as one:
        (server,) = one.servers
        client = await server.client()
        former = one.log(0)
        monkeypatch.setattr(lease, "CONTACT_SECONDS", 2.0)
        former.cut_off()
        assert await client.packet() is None
        monkeypatch.setattr(lease, "CONTACT_SECONDS", 9.0)
        await until(lambda: server.manager.runtime is not None and one.log(0) is not former)


async def test_node_whose_effects_hang_joins_anew(two: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node in contact whose task of the effects hangs closes its clients; they get what they missed."""
    a, b = two.servers
    client = await a.socket()
    pid = (await client.connect())["pid"]
    await two.until_applied()
    former = two.node(0)
    async with former.queue.effects.lock:
        await two.node(1).lease.beat()
        monkeypatch.setattr(lease, "CONTACT_SECONDS", 2.0)
        assert await client.packet() is None
        monkeypatch.setattr(lease, "CONTACT_SECONDS", 9.0)
        await until(lambda: a.manager.runtime is not None and two.node(0) is not former)
    offset = await b.sio.emit("missed")
    back = await a.socket()
    assert (await back.connect(auth={"pid": pid}))["pid"] == pid
    assert await back.event() == ["missed", offset]


async def test_node_declared_dead_joins_anew(two: Nodes) -> None:
    """A node that was frozen for too long is dead for the others; its clients recover there."""
    a, b = two.servers
    client = await a.socket()
    pid = (await client.connect())["pid"]
    await two.until_applied()
    former = two.log(0)
    former.freeze()
    await two.pass_a_lease(at=1)
    node = await b.manager.start()
    assert not node.context.nodes.others and node.context.nodes.is_first
    assert [session.state for session in node.registry] == [State.AWAY]
    back = await b.socket()
    assert (await back.connect(auth={"pid": pid}))["pid"] == pid
    former.release()
    assert await client.packet() is None
    await until(lambda: a.manager.runtime is not None and two.log(0) is not former)
    await two.until_applied()
    assert len(node.context.nodes) == 2


async def test_neglected_events_are_deleted_elsewhere(two: Nodes) -> None:
    """When the first node deletes nothing for some sweeps of another one, the other one does it."""
    a, _ = two.servers
    other = two.node(1)
    assert not other.context.nodes.is_first and other.retention is not None
    for _ in range(3):
        await a.sio.emit("old")
    await two.pass_time(2 * other.options.event_retention)
    assert [await other.retention.sweep() for _ in range(NEGLECTED_SWEEPS)] == [0] * NEGLECTED_SWEEPS
    assert await other.retention.sweep() == 3
    await two.until_applied()
    assert two.node(0).log.pruned_through == 3


async def test_slow_node_declares_nobody_dead(two: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the database is slow, the heartbeats of all others are late, too."""
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", -1.0)
    two.log(0).freeze()
    await two.pass_a_lease(at=1)
    assert two.count(NodeDied) == 0
    two.log(0).release()


async def test_handlers_of_the_old_life_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emit of a disconnect handler of the old life fails, and does not happen in the new one."""
    failed = Seen()

    def register(sio: Any) -> None:
        async def disconnected(sid: str, reason: str) -> None:
            try:
                await sio.emit("from the old life")
            except StoreError as error:
                failed(error)

        sio.on("disconnect", disconnected)

    async with nodes(monkeypatch, register) as two:
        a, _ = two.servers
        await a.client()
        await two.until_applied()
        former = two.log(0)
        former.freeze()
        await two.pass_a_lease(at=1)
        former.release()
        await failed.until(1)
        await until(lambda: a.manager.runtime is not None and two.log(0) is not former)
        assert two.count(Event) == 0


async def test_expiry_of_the_old_life_ends_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler of ``session_expired`` that outlives the node's life ends no session of the next one."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def session_expired(sid: str, data: Any) -> None:
        begun.set()
        await may_end.wait()

    async with nodes(monkeypatch, lambda sio: sio.on("session_expired", session_expired), count=1) as one:
        (server,) = one.servers
        client = await server.client()
        (session,) = one.node(0).registry
        expiring = asyncio.create_task(server.sio.session_expired(session))
        await begun.wait()
        server.sio.lost("a test")
        await until(lambda: not server.sio.rejoining.is_running)
        may_end.set()
        with pytest.raises(StoreClosed):
            await expiring
        assert [session.sid for session in one.node(0).registry] == [client.sid]


async def test_feed_of_the_old_life_ends(two: Nodes) -> None:
    """A reader that follows the log over HTTP is cut off, and comes back to the new life."""
    a, _ = two.servers
    feed = await Administration(a.sio).follow(EventFilter(), None)
    a.sio.lost("a test")
    await until(lambda: not a.sio.rejoining.is_running)
    with pytest.raises(StoreClosed):
        await feed.grown()


async def test_calls_between_two_lives_fail(two: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database is away, a call raises the error of a store that is not available."""
    a, _ = two.servers
    opens: Any = vars(runtime)["open_log"]

    async def away(*_: object, **__: object) -> Log:
        raise StoreNotUsable("the database is away")

    monkeypatch.setattr(rejoining, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(runtime, "open_log", away)
    a.sio.lost("a test")
    await until(lambda: a.manager.runtime is None)
    with pytest.raises(StoreUnavailable, match="joining the log anew"):
        await a.sio.emit("event")
    monkeypatch.setattr(runtime, "open_log", opens)
    await until(lambda: not a.sio.rejoining.is_running)
    assert await a.sio.emit("event")


async def test_server_that_ends_begins_no_other_life(two: Nodes) -> None:
    a, _ = two.servers
    await a.sio.shutdown()
    a.sio.lost("a test")
    assert not a.sio.rejoining.is_running
    await a.sio.start()
    a.sio.lost("a test")
    former = await a.manager.start()
    await until(lambda: former.is_over)
    await a.sio.shutdown()
    assert a.manager.runtime is None
    await a.sio.start()


async def test_outdated_node_stays_out(two: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    """A node that has met a change of a newer version joins no other time, although the log would take it."""
    a, b = two.servers
    client = await a.client()
    a.manager.runtime.queue.store_health.failed(NodeOutdated("There is a change “renamed”."))  # type: ignore[union-attr]
    assert await client.packet() is None
    await until(lambda: a.sio.rejoining.failure)
    assert problems(a.sio)[1].startswith("A newer version of this program writes the log")
    with pytest.raises(StoreUnavailable, match="joining the log anew"):
        await a.sio.emit("refused")
    assert await b.sio.emit("taken")
    assert len(two.shared.state.nodes) == 1
    stays = "stays out of the log until a newer version replaces it. .* There is a change “renamed”"
    assert [record.levelname for record in caplog.records if re.search(stays, record.message)] == ["ERROR"]


async def test_rejoining_node_refuses_clients_and_is_not_ready(
    two: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = two.servers
    await a.client()
    opens: Any = vars(runtime)["open_log"]
    may_join, is_reachable = asyncio.Event(), asyncio.Event()

    async def open_later(*arguments: object, **options: object) -> Log:
        await may_join.wait()
        if not is_reachable.is_set():
            raise StoreNotUsable("The database chat on db.internal does not know the role ann.")
        log: Log = await opens(*arguments, **options)
        return log

    monkeypatch.setattr(runtime, "open_log", open_later)
    a.sio.lost("a test")
    assert problems(a.sio) == ["this node is joining the log anew"]
    async with a.http.get(a.url, params={"EIO": "4", "transport": "polling"}) as response:
        assert response.status == 503
    may_join.set()
    await until(lambda: len(problems(a.sio)) == 2)
    assert problems(a.sio)[1] == "The event store cannot be opened. The log of this server says more."
    is_reachable.set()
    await until(lambda: not a.sio.rejoining.is_running)
    assert problems(a.sio) == []
