"""Two servers over one log: every call works on either, wherever the client is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from socketio_eventlog.errors import StoreClosed, StoreError, StoreNotUsable, StoreUnavailable
from socketio_eventlog.log import Log
from socketio_eventlog.records import Asked, Departed, Event, NodeDied, Volatile
from socketio_eventstore.adapter import departure_barrier, rejoining
from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.core import lease, runtime
from socketio_eventstore.core.event_pages import EventFilter
from socketio_eventstore.core.sessions import State
from socketio_eventstore.program.readiness import problems
from support.embedded import Seen, Socket, until
from support.in_process_nodes import Nodes, nodes
from support.processes import DEADLINE


@pytest.fixture
async def two(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nodes]:
    async with nodes(monkeypatch) as running:
        yield running


async def test_emit_reaches_client_elsewhere(two: Nodes) -> None:
    a, b = two.servers
    client = await b.client()
    await two.until_applied()
    assert await client.event_of(a.sio.emit("news", 1)) == ["news", 1]
    assert await client.event_of(a.sio.emit("yours", to=client.sid)) == ["yours"]


async def test_volatile_event_reaches_client_elsewhere(two: Nodes) -> None:
    a, b = two.servers
    here, there = await a.client(), await b.client()
    await two.until_applied()
    offset = await a.sio.emit("stored")
    await a.sio.emit("volatile", b"\x00", volatile=True)
    for client in here, there:
        assert await client.event() == ["stored", offset]
        assert await client.content("451-") == ["volatile", {"_placeholder": True, "num": 0}, offset]
        assert await client.packet() == b"\x00"


async def test_packets_for_own_clients_stay_local(two: Nodes) -> None:
    """No entry is made for a volatile event, or a question, whose recipients are all here."""
    a, b = two.servers
    client, other = await a.client(), await b.client()
    await two.until_applied()
    await a.sio.emit("volatile", to=client.sid, volatile=True)
    await a.sio.emit("asking", to=client.sid, callback=lambda: None)
    assert two.count(Volatile) == two.count(Asked) == 0
    await a.sio.emit("volatile", to=other.sid, volatile=True)
    await a.sio.emit("asking", to=other.sid, callback=lambda: None)
    assert two.count(Volatile) == two.count(Asked) == 1


async def answer(client: Socket, *arguments: str) -> None:
    """Acknowledge the next event."""
    packet = await client.packet()
    assert isinstance(packet, str)
    ack_id = packet.removeprefix("42").split("[")[0]
    await client.send(f"43{ack_id}[{','.join(arguments)}]")


async def test_call_asks_client_elsewhere(two: Nodes) -> None:
    a, b = two.servers
    client = await b.client()
    await two.until_applied()
    answering = asyncio.create_task(answer(client, '"a"', '{"b":1.0}'))
    assert await a.sio.call("question", to=client.sid) == ("a", {"b": 1.0})
    await answering


async def test_callback_is_called_for_each_node(two: Nodes) -> None:
    a, b = two.servers
    clients = [await a.client(), await b.client()]
    await two.until_applied()
    answers = Seen()
    await a.sio.emit("question", callback=answers)
    for number, client in enumerate(clients):
        await answer(client, str(number))
    assert sorted(await answers.until(2)) == [0, 1]


async def test_binary_answer_comes_from_elsewhere(two: Nodes) -> None:
    a, b = two.servers
    client = await b.client()
    await two.until_applied()
    calling = asyncio.create_task(a.sio.call("question", to=client.sid))
    packet = await client.packet()
    assert isinstance(packet, str)
    await client.send(f'461-{packet.removeprefix("42").split("[")[0]}[{{"_placeholder":true,"num":0}}]')
    await client.send(b"\x00\xff")
    assert await calling == b"\x00\xff"


async def test_rooms_and_data_change_from_elsewhere(two: Nodes) -> None:
    a, b = two.servers
    client = await b.client()
    sid = client.sid
    await two.until_applied()
    await a.sio.enter_room(sid, "room")
    await a.sio.save_session(sid, {"name": "Ann"})
    assert a.sio.rooms(sid) == [sid, "room"]
    await two.until_applied()
    assert b.sio.rooms(sid) == [sid, "room"]
    assert await b.sio.get_session(sid) == await a.sio.get_session(sid) == {"name": "Ann"}
    assert await client.event_of(a.sio.emit("to room", room="room")) == ["to room"]
    await a.sio.leave_room(sid, "room")
    await two.until_applied()
    assert b.sio.rooms(sid) == [sid]


async def test_rooms_close_and_identities_end_from_elsewhere(two: Nodes) -> None:
    a, b = two.servers
    client, other = await b.client(), await b.client()
    await two.until_applied()
    await a.sio.bind(client.sid, "Ann")
    for one in client, other:
        await a.sio.enter_room(one.sid, "room")
    await a.sio.close_room("room")
    await a.sio.emit("to nobody", room="room")
    assert await client.event_of(a.sio.emit("to one", to=client.sid)) == ["to one"]
    await a.sio.revoke_identity("Ann")
    assert await client.packet() is None
    assert await other.event_of(a.sio.emit("to another", to=other.sid)) == ["to another"]


async def test_questions_are_answered_everywhere(two: Nodes) -> None:
    a, b = two.servers
    client = await b.client()
    await two.until_applied()
    for server in a, b:
        assert server.manager.is_connected(client.sid, "/")
        (session,) = await server.sio.fetch_sessions()
        assert session.sid == client.sid and session.is_connected
    await client.leave()
    await two.until_applied()


@pytest.mark.parametrize("call", ["disconnect", "revoke"])
async def test_session_is_ended_from_elsewhere(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node of the client closes it and calls the handler, once."""
    gone = Seen()

    def register(sio: Any) -> None:
        sio.on("disconnect", lambda sid, reason: gone(sio, sid))

    async with nodes(monkeypatch, register) as two:
        a, b = two.servers
        client = await b.client()
        await two.until_applied()
        await getattr(a.sio, call)(client.sid)
        assert await client.packet() == ("41" if call == "disconnect" else None)
        assert await gone.until(1) == [(b.sio, client.sid)]
        assert not a.manager.is_connected(client.sid, "/")


async def test_disconnect_handler_comes_before_connect_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client goes to another node while the disconnect handler of its former one is still running."""
    calls, may_end = Seen(), asyncio.Event()

    def register(sio: Any) -> None:
        async def disconnected(sid: str, reason: str) -> None:
            calls("disconnect begins", sio)
            await may_end.wait()
            calls("disconnect ends", sio)

        sio.on("connect", lambda sid, environ: calls("connect", sio))
        sio.on("disconnect", disconnected)

    monkeypatch.setattr(departure_barrier, "DEPARTURE_TIMEOUT_SECONDS", DEADLINE)
    async with nodes(monkeypatch, register) as two:
        a, b = two.servers
        client = await a.socket()
        answer = await client.connect()
        await two.until_applied()
        moved = await b.socket()
        connecting = asyncio.create_task(moved.connect(auth={"pid": answer["pid"]}))
        await calls.until(2)
        may_end.set()
        assert (await connecting)["sid"] == answer["sid"]
        assert calls.all == [
            ("connect", a.sio),
            ("disconnect begins", a.sio),
            ("disconnect ends", a.sio),
            ("connect", b.sio),
        ]
        assert two.count(Departed) == 1


async def test_stuck_handler_elsewhere_delays_no_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    may_end = asyncio.Event()

    def register(sio: Any) -> None:
        async def disconnected(sid: str, reason: str) -> None:
            await may_end.wait()

        sio.on("connect", lambda sid, environ: None)
        sio.on("disconnect", disconnected)

    monkeypatch.setattr(departure_barrier, "DEPARTURE_TIMEOUT_SECONDS", 0.05)
    async with nodes(monkeypatch, register) as two:
        a, b = two.servers
        answer = await (await a.socket()).connect()
        await two.until_applied()
        moved = await b.client({"pid": answer["pid"]})
        assert moved.sid == answer["sid"]
        assert "may still run on another node" in caplog.text
        may_end.set()


# The life of a node -------------------------------------------------------------------------------------


async def test_isolated_node_closes_clients_and_joins_anew(
    two: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gets no DISCONNECT, and what was emitted meanwhile when it is back, here or elsewhere."""
    a, b = two.servers
    client = await a.socket()
    pid = (await client.connect())["pid"]
    await two.until_applied()
    former = two.log(0)
    monkeypatch.setattr(lease, "CONTACT_SECONDS", 0.5)
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


async def test_rejoining_node_refuses_clients_and_is_not_ready(two: Nodes) -> None:
    a, _ = two.servers
    await a.client()
    a.sio.lost("a test")
    assert problems(a.sio) == ["this node is joining the log anew"]
    async with a.http.get(a.url, params={"EIO": "4", "transport": "polling"}) as response:
        assert response.status == 503
    await until(lambda: not a.sio.rejoining.is_running)
    assert problems(a.sio) == []
