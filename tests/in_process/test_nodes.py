"""Two servers over one log: every call works on either, wherever the client is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from socketio_eventlog.changes import Asked, Departed, Volatile
from socketio_eventstore.adapter import departure_barrier
from socketio_eventstore.adapter.messages import Message
from socketio_eventstore.adapter.publishing import Publisher
from socketio_eventstore.program.metric_families import ServerCollector
from support.embedded import Seen, Socket, until
from support.in_process_nodes import NodeLog, Nodes, nodes
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


async def test_volatile_publish_reaches_client_elsewhere(two: Nodes) -> None:
    """What a publisher sends without storing it takes the same way as a volatile emit of a handler."""
    a, b = two.servers
    here, there = await a.client(), await b.client()
    await two.until_applied()
    (offset,) = await Publisher(a.sio).publish([Message("stored", [])])
    assert await Publisher(a.sio).publish([Message("volatile", [], is_volatile=True)]) == [None]
    for client in here, there:
        assert [await client.event(), await client.event()] == [["stored", offset], ["volatile", offset]]


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


async def test_commits_after_a_heartbeat_are_no_lag(two: Nodes) -> None:
    """The metric says how far a node was behind at its heartbeat, and not how much was written since."""
    a, b = two.servers
    runtime = await b.manager.opened()
    await runtime._heartbeats.write()
    for _ in range(20):
        await a.sio.emit("news")
    families = ServerCollector(a.sio).collect()
    (behind,) = next(one.samples for one in families if one.name == "nodes_batches_behind")
    assert behind.value < 5


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


async def test_killed_node_delays_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without connections to the store has no handlers: nobody waits until its heartbeat is old."""
    monkeypatch.setattr(departure_barrier, "DEPARTURE_TIMEOUT_SECONDS", 10 * DEADLINE)
    ended = set[str]()

    async def may_live(log: NodeLog, node: str) -> bool:
        return node not in ended

    monkeypatch.setattr(NodeLog, "may_live", may_live)
    async with nodes(monkeypatch, lambda sio: sio.on("connect", lambda sid, environ: None)) as two:
        a, b = two.servers
        answer = await (await a.socket()).connect()
        await two.until_applied()
        two.log(0).deliveries.close()
        moved = await b.socket()
        connecting = asyncio.create_task(moved.connect(auth={"pid": answer["pid"]}))
        await until(lambda: two.node(1).registry.get("/", answer["sid"]).departing)  # type: ignore[union-attr]
        assert not connecting.done()
        ended.add(two.log(0).node)
        assert (await connecting)["sid"] == answer["sid"]
        two.log(0).deliveries.open()


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
