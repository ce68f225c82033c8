"""Events that official clients cannot read: never sent to them for ever, and never silently lost."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest
from socketio import exceptions

from socketio_eventlog.events import Event
from socketio_eventstore.core import suspicion
from socketio_eventstore.core.operations import Emit
from socketio_eventstore.core.recovery import RecoveryResult
from socketio_eventstore.core.sessions import Session, State
from support.clients import Client, NodeClients
from support.embedded import Server, results, serving, until
from support.processes import DEADLINE, EmbeddedServer

TRANSPORTS = [
    pytest.param(("websocket",), id="websocket"),
    # Whether the response to a poll has arrived is never known, so the net takes no notice of polling.
]

POISON = [
    ("disconnect", '["disconnect"]', ()),
    ("newListener", '["newListener",1]', ()),
    ("x", f'["x",[{",".join(f"""{{"_placeholder":true,"num":{n}}}""" for n in range(11))}]]', (b"1",) * 11),
    ("x", '["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":7}]', (b"1",)),
    ("x", '["x",NaN]', ()),
]
NAMES = ["reserved", "reserved by Node", "attachments", "lookalike", "NaN"]


def url_of(server: Server) -> str:
    return server.url.removesuffix("/socket.io/")


async def store(server: Server, poison: tuple[str, str, tuple[bytes, ...]], **more: Any) -> Any:
    """Store and send an event past the rules of ``emit``."""
    name, payload, attachments = poison
    event = Event("/", name, payload, attachments, more.get("rooms"), more.get("skip", ()), time.time())
    return await (await server.manager.start()).queue.submit(Emit(event))


async def goes_away(server: Server, client: Client) -> None:
    session = (await server.manager.start()).registry.get("/", client.sid)
    assert session is not None
    await client.cut()
    await until_away(session)


async def until_away(session: Session) -> None:
    await until(lambda: session.state is State.AWAY)


@pytest.mark.parametrize("transports", TRANSPORTS)
@pytest.mark.parametrize("poison", POISON, ids=NAMES)
async def test_stored_poison_is_noticed(
    path: Path,
    node: NodeClients,
    caplog: pytest.LogCaptureFixture,
    poison: tuple[str, str, tuple[bytes, ...]],
    transports: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that cannot read an event gets a new session within seconds; the log names the offset."""
    monkeypatch.setattr(suspicion, "CLOSE_SECONDS", DEADLINE)  # the client may be slow
    async with serving(path) as server:
        client = await node.client(url_of(server), transports=transports)
        first = await client.connected()
        await server.sio.emit("before", 1)
        await client.received("before")
        offset = await store(server, poison)
        await client.until(lambda: client.connects[-1].pid != first.pid, "a new session")
        assert not client.connects[-1].recovered
        assert [connected.recovered for connected in client.connects] == [False, True, True, True, False]
        found = await results(server)
        assert found == {RecoveryResult.RECOVERED: 3, RecoveryResult.POISONED: 1}
        (line,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert f"cannot read the event at offset {offset}" in line.getMessage()
        await server.sio.emit("after", 2)
        await client.received("after")
        assert [event.name for event in client.events] == ["before", "after"]


@pytest.mark.parametrize("poison", POISON, ids=NAMES)
async def test_older_poison_is_not_sent(
    path: Path,
    node: NodeClients,
    caplog: pytest.LogCaptureFixture,
    poison: tuple[str, str, tuple[bytes, ...]],
) -> None:
    """A row from before the rules is not sent: sessions that miss it get a new one, others recover."""
    async with serving(path) as server:
        hit, spared, late = [
            await node.client(url_of(server), reconnection=False, auth={"name": name}) for name in "abc"
        ]
        for client in (hit, spared, late):
            await client.connected()
        for client in (hit, spared):
            await goes_away(server, client)
        await store(server, poison, rooms=(hit.sid, spared.sid), skip=(spared.sid,))
        await goes_away(server, late)
        await server.sio.emit("missed", 1)
    pids = {client: client.pid for client in (hit, spared, late)}
    async with serving(path) as server:
        for client, recovers in [(hit, False), (spared, True), (late, True)]:
            again = await node.client(url_of(server), auth={"pid": pids[client]}, reconnection=False)
            assert ((await again.connected()).pid == pids[client]) is recovers
            if recovers:
                await again.received("missed")
            assert not again.disconnects
        found = await results(server)
        assert found == {RecoveryResult.RECOVERED: 2, RecoveryResult.POISONED: 1}
        assert caplog.text.count("1 stored events cannot be read by official clients") == 1


async def test_breaks_and_late_closes_are_no_poison(path: Path) -> None:
    """Resets, and closes long after the acceptance, never count, however often they come."""
    async with serving(path) as server:
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await client.leave()
        session = (await server.manager.start()).registry.get("/", client.sid)
        assert session is not None
        offset = await server.sio.emit("missed", "x" * 1_000)

        async def visit(*, is_cut: bool = False, is_late: bool = False) -> None:
            await until_away(session)
            again = await server.socket()
            assert (await again.connect(auth={"pid": pid}))["pid"] == pid
            assert (await again.event())[-1] == offset
            if is_late:
                session.current.accepted_at -= 2.5
            if is_cut:
                connection: Any = again._websocket._response.connection
                connection.transport.abort()
            else:
                await again.leave()

        for _ in range(5):
            await visit(is_cut=True)
            await visit(is_late=True)
            await visit()
        await visit()
        await visit(is_cut=True)
        assert RecoveryResult.POISONED not in await results(server)


async def test_close_before_the_bytes_arrived(path: Path) -> None:
    """A client that closes in order before it has a large event never counts, however often it does so."""
    async with serving(path) as server:
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await client.leave()
        session = (await server.manager.start()).registry.get("/", client.sid)
        assert session is not None
        offset = await server.sio.emit("large", "x" * 1_900_000)
        for _ in range(5):
            await until_away(session)
            again = await server.socket()
            connection: Any = again._websocket._response.connection
            raw = connection.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            assert (await again.connect(auth={"pid": pid}))["pid"] == pid
            connection.transport.pause_reading()
            await until(lambda: session.current.first_sent)
            await again._websocket._writer.close(1000)
            await until_away(session)
            connection.transport.abort()
            assert session.suspected.times == 0
        again = await server.socket()
        assert (await again.connect(auth={"pid": pid}))["pid"] == pid
        assert (await again.event())[-1] == offset


async def test_client_that_takes_the_event_is_no_suspect(path: Path) -> None:
    """A client that leaves in order again and again, and names the received event, always recovers."""
    async with serving(path) as server:
        client = await server.socket()
        pid, offset = (await client.connect())["pid"], None
        for number in range(6):
            session = (await server.manager.start()).registry.get("/", client.sid)
            assert session is not None
            await client.leave()
            await until_away(session)
            await server.sio.emit("missed", number)
            again = await server.socket()
            auth = {"pid": pid} if offset is None else {"pid": pid, "offset": offset}
            client.sid, client = (await again.connect(auth=auth))["sid"], again
            assert (await client.event())[:2] == ["missed", number]
            offset = await server.sio.emit("next")
            assert (await client.event())[-1] == offset
        assert await results(server) == {RecoveryResult.RECOVERED: 6}


async def test_sender_of_poison_is_cut_off(path: Path, node: NodeClients) -> None:
    """A client that sends what other clients cannot read loses its transport; the others get nothing."""

    def register(sio: Any) -> None:
        async def relay(event: str, _sid: str, *arguments: Any) -> None:
            await sio.emit(event, arguments)

        sio.on("*", relay)

    async with serving(path, register=register) as server:
        reader = await node.client(url_of(server))
        sender = await node.client(url_of(server), reconnection=False)
        await reader.connected()
        await sender.connected()
        await sender.emit("ten", *[b"1"] * 10)
        assert (await reader.received("ten"))[0].data == [b"1"] * 10
        await sender.emit("eleven", *[b"1"] * 11)
        assert await sender.gone() == "transport close"
        for packet in ('42["newListener",1]', '42["removeListener"]', '42["disconnect"]', '42["x",1e400]'):
            raw = await server.client()
            await raw.send(packet)
            assert not [rest for rest in await raw.rest() if rest != "1"]
        await server.sio.emit("last")
        await reader.received("last")
        assert not reader.disconnects and [event.name for event in reader.events] == ["ten", "last"]


async def test_refused_emits_disturb_no_client(path: Path, node: NodeClients) -> None:
    """Emits that official clients cannot read are refused in every form; the largest one arrives."""
    refused = [
        ("disconnect", None),
        ("removeListener", 1),
        ("x", [b"1"] * 11),
        ("x", (b"1", {"_placeholder": True, "num": 7})),
        ("x", float("inf")),
    ]
    forms: list[dict[str, Any]] = [{}, {"volatile": True}, {"callback": lambda *_: None}]
    async with serving(path) as server:
        client = await node.client(url_of(server))
        await client.connected()
        for form in forms:
            for event, data in refused:
                with pytest.raises(ValueError):
                    await server.sio.emit(event, data, **form)
            await server.sio.emit("ten", {"blobs": [b"1"] * 10}, **form)
            await server.sio.emit("text", {"_placeholder": True, "num": 0}, **form)
        received = await client.received("text", 3)
        assert not client.disconnects and len(client.events) == 6
        assert [event.args[0] for event in received] == [{"_placeholder": True, "num": 0}] * 3


async def test_official_client_learns_of_its_refusal(path: Path, node: NodeClients) -> None:
    """A refusal with bytes as its reason is a connect_error, and not an end without a word."""

    def refuse(*_: Any) -> None:
        raise exceptions.ConnectionRefusedError("not you", b"raw")

    async with serving(path, register=lambda sio: sio.on("connect", refuse)) as server:
        client = await node.client(url_of(server))
        assert (await client.refused())["message"] == "not you"


ASGI = """
import sys
import time

import socketio
import uvicorn

from socketio_eventlog.events import Event
from socketio_eventstore import RecoveryManager
from socketio_eventstore.core import suspicion
from socketio_eventstore.core.operations import Emit

suspicion.CLOSE_SECONDS = 60.0  # the client may be slow
port, database = int(sys.argv[1]), sys.argv[2]
manager = RecoveryManager(database)
sio = socketio.AsyncServer(async_mode="asgi", client_manager=manager)


@sio.on("poison")
async def poison(sid):
    event = Event("/", "disconnect", '["disconnect"]', (), None, (), time.time())
    return await manager.runtime.queue.submit(Emit(event))


uvicorn.run(socketio.ASGIApp(sio), host="127.0.0.1", port=port, ws="WS")
"""


@pytest.mark.parametrize("ws", ["websockets", "wsproto"])
async def test_stored_poison_is_noticed_on_asgi(tmp_path: Path, node: NodeClients, ws: str) -> None:
    """On uvicorn, too, an official client gets a new session, and the log names the event."""
    with EmbeddedServer(tmp_path, ASGI.replace("WS", ws)) as server:
        client = await node.client(server.url)
        first = await client.connected()
        await client.emit("poison")
        await client.until(lambda: client.connects[-1].pid != first.pid, "a new session")
        assert [connected.recovered for connected in client.connects] == [False, True, True, True, False]
        assert "cannot read the event at offset" in server.log
