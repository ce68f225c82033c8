"""Official clients of real servers miss no event, on any transport, with any parser and any emit."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.clients import NodeClients, sequence_of
from support.processes import EmbeddedServer, ServerProcess, TlsServer
from support.recovering import recovers_what_it_missed

TRANSPORTS = [
    pytest.param(("websocket",), id="websocket"),
    pytest.param(("polling",), id="polling"),
    pytest.param(("polling", "websocket"), id="upgraded"),
]

AIOHTTP_MSGPACK = """
import sys

import socketio
from aiohttp import web

import handlers_for_tests
from socketio_eventstore import RecoveryManager

port, database = int(sys.argv[1]), sys.argv[2]
manager = RecoveryManager(database)
sio = socketio.AsyncServer(async_mode="aiohttp", serializer="msgpack", client_manager=manager)
handlers_for_tests.register(sio)
app = web.Application()
sio.attach(app)
web.run_app(app, host="127.0.0.1", port=port, print=None)
"""

AIOHTTP_TLS = """
import asyncio
import ssl
import sys

import socketio
import trustme
import uvloop
from aiohttp import web

import handlers_for_tests
from socketio_eventstore import RecoveryManager

port, database = int(sys.argv[1]), sys.argv[2]
sio = socketio.AsyncServer(async_mode="aiohttp", client_manager=RecoveryManager(database))
handlers_for_tests.register(sio)
app = web.Application()
sio.attach(app)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
web.run_app(app, host="127.0.0.1", port=port, print=None, ssl_context=context, loop=LOOP.new_event_loop())
"""

ASGI = """
import sys

import socketio
import uvicorn

import handlers_for_tests
from socketio_eventstore import RecoveryManager

port, database = int(sys.argv[1]), sys.argv[2]
sio = socketio.AsyncServer(async_mode="asgi", client_manager=RecoveryManager(database))
handlers_for_tests.register(sio)
uvicorn.run(socketio.ASGIApp(sio), host="127.0.0.1", port=port)
"""


@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_clients_recover_on_every_transport(
    tmp_path: Path, node: NodeClients, transports: tuple[str, ...]
) -> None:
    with ServerProcess(tmp_path) as server:
        await recovers_what_it_missed(server, node, transports=transports)


@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_msgpack_clients_recover_on_aiohttp(
    tmp_path: Path, node: NodeClients, transports: tuple[str, ...]
) -> None:
    """Clients with the msgpack parser recover in an application on aiohttp."""
    with EmbeddedServer(tmp_path, AIOHTTP_MSGPACK) as server:
        msgpack = {"parser": "msgpack"}
        await recovers_what_it_missed(server, node, transports=transports, control=msgpack, **msgpack)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_clients_recover_over_tls(
    tmp_path: Path, node: NodeClients, transports: tuple[str, ...], loop: str
) -> None:
    with TlsServer(tmp_path, AIOHTTP_TLS.replace("LOOP", loop)) as server:
        unchecked = {"rejectUnauthorized": False}  # each start has a certificate of its own
        await recovers_what_it_missed(server, node, transports=transports, control=unchecked, **unchecked)


@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_clients_recover_in_an_application_on_asgi(
    tmp_path: Path, node: NodeClients, transports: tuple[str, ...]
) -> None:
    with EmbeddedServer(tmp_path, ASGI) as server:
        await recovers_what_it_missed(server, node, transports=transports)


async def test_upgrade_to_websocket_misses_no_event(tmp_path: Path, node: NodeClients) -> None:
    """An upgrade from polling to WebSocket misses no event."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        await control.pump("publish", {"name": "numbered"}, window=4)
        client = await node.client(server.url, transports=("polling", "websocket"), reconnection=False)
        await client.upgraded()
        await client.received("numbered", 50)
        await client.cut()
        await control.has_acknowledged(len(control.acknowledged) + 50)
        await client.connect()
        await client.recovered_again()
        await client.upgraded()
        await control.stop()
        last = await control.call("publish", {"name": "last"})
        assert (await client.received("last"))[0].offset == last
        numbers = [event.data[0]["number"] for event in client.by_name["numbered"]]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert numbers[-1] == max(control.acknowledged)


async def test_events_reach_the_addressed_clients(tmp_path: Path, node: NodeClients) -> None:
    """Events reach the addressed clients, live and in a replay."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        rooms = (["red"], ["blue"], ["red", "blue"])
        clients = [
            await node.client(server.url, reconnection=False, auth={"rooms": member_of})
            for member_of in rooms
        ]
        red, blue, both = clients
        for client in clients:
            await client.connected()

        async def publish_all() -> None:
            for message in (
                {"name": "all"},
                {"name": "red", "to": "red"},
                {"name": "blue", "room": "blue"},
                {"name": "both, once", "to": ["red", "blue"]},
                {"name": "a sid", "to": blue.sid},
                {"name": "all but one", "skip_sid": red.sid},
                {"name": "red but two", "to": "red", "skip_sid": [red.sid, both.sid]},
                {"name": "elsewhere", "namespace": "/other"},
                {"name": "end"},
            ):
                await control.call("publish", message)

        await publish_all()
        for client in clients:
            await client.received("end")
            await client.cut()
        await publish_all()
        for client in clients:
            await client.connect()
            await client.recovered_again()
            await client.received("end", 2)
        assert [event.name for event in red.events] == 2 * ["all", "red", "both, once", "end"]
        assert [event.name for event in blue.events] == 2 * [
            "all",
            "blue",
            "both, once",
            "a sid",
            "all but one",
            "end",
        ]
        assert [event.name for event in both.events] == 2 * [
            "all",
            "red",
            "blue",
            "both, once",
            "all but one",
            "end",
        ]


async def test_namespaces_of_a_transport_recover_separately(tmp_path: Path, node: NodeClients) -> None:
    """The namespaces of one transport recover separately."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        main = await node.client(server.url, reconnection=False)
        before = await main.connected()
        other = await node.client(server.url, "/other", beside=main)
        other_before = await other.connected()
        assert before.pid != other_before.pid and before.sid != other_before.sid
        await other.call("join", "room")

        await main.cut()
        await other.gone()
        await control.call("publish", {"name": "missed", "data": "main"})
        await control.call(
            "publish", {"name": "missed", "data": "other", "namespace": "/other", "to": "room"}
        )
        await control.call("publish", {"name": "not other's", "to": "room"})
        await main.connect()  # the neighbours on its transport connect with it
        await main.recovered_again()
        await other.recovered_again()
        await main.received("missed")
        await other.received("missed")
        await control.call("publish", {"name": "end"})
        await control.call("publish", {"name": "end", "namespace": "/other"})
        await main.received("end")
        await other.received("end")
        assert [(event.name, event.data) for event in main.events] == [("missed", ["main"]), ("end", [])]
        assert [(event.name, event.data) for event in other.events] == [("missed", ["other"]), ("end", [])]


async def test_acknowledged_emits_keep_the_offset(tmp_path: Path, node: NodeClients) -> None:
    """Acknowledged emits are not stored and do not change the client's offset."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False)
        await client.connected()
        offset = await control.call("publish", {"name": "stored"})
        answer = await control.call("ask", {"name": "question", "data": "text", "to": client.sid})
        assert answer == "answer to question"
        # The client takes no offset from an event with an acknowledgement id.
        assert (await client.received("question"))[0].args == ["text"]
        assert await client.last_offset() == offset

        await client.cut()
        await control.call("publish", {"name": "missed"})
        await client.connect()
        await client.recovered_again()
        await control.call("publish", {"name": "end"})
        await client.received("end")
        assert [event.name for event in client.events] == ["stored", "question", "missed", "end"]


async def test_volatile_emits_end_in_the_current_offset(tmp_path: Path, node: NodeClients) -> None:
    """Volatile emits are not stored and end in the current offset."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False)
        await client.connected()
        # Before the first stored event as well: the client takes a last string for an offset.
        await control.call("publish", {"name": "volatile", "data": "text", "volatile": True})
        (volatile,) = await client.received("volatile")
        assert volatile.data == ["text"] and await client.last_offset() == volatile.offset

        offset = await control.call("publish", {"name": "stored"})
        await control.call("publish", {"name": "volatile", "data": [1], "volatile": True})
        await client.received("volatile", 2)
        assert await client.last_offset() == offset

        await client.cut()
        await control.call("publish", {"name": "missed"})
        await control.call("publish", {"name": "volatile", "data": "missed", "volatile": True})
        await client.connect()
        await client.recovered_again()
        await control.call("publish", {"name": "end"})
        await client.received("end")
        names = ["volatile", "stored", "volatile", "missed", "end"]
        assert [event.name for event in client.events] == names


async def test_events_without_recipients_have_offsets(tmp_path: Path, node: NodeClients) -> None:
    """Events without recipients have offsets."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        offsets = [
            await control.call("publish", {"name": "unheard", **message})
            for message in ({}, {"to": "empty room"}, {"namespace": "/other"}, {"namespace": "/no handlers"})
        ]
        client = await node.client(server.url)
        await client.connected()
        offsets.append(await control.call("publish", {"name": "heard"}))
        assert (await client.received("heard"))[0].offset == offsets[-1]
        numbers = [sequence_of(offset) for offset in offsets]
        assert sorted(set(numbers)) == numbers
        assert [event.name for event in client.events] == ["heard"]


@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_client_without_events_recovers(
    tmp_path: Path, node: NodeClients, transports: tuple[str, ...]
) -> None:
    """A client that has never received an event recovers."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        await control.call("publish", {"name": "before it came"})
        client = await node.client(server.url, transports=transports, reconnection=False)
        await client.connected()
        assert await client.last_offset() is None
        await client.cut()
        await control.call("publish", {"name": "missed"})
        await client.connect()
        await client.recovered_again()
        await client.received("missed")
        assert [event.name for event in client.events] == ["missed"]


async def test_msgpack_client_without_events_recovers(tmp_path: Path, node: NodeClients) -> None:
    """A msgpack client that has never received an event recovers."""
    # Where the default parser leaves the missing offset out, this one writes JavaScript's undefined.
    with EmbeddedServer(tmp_path, AIOHTTP_MSGPACK) as server:
        control = await node.control(server.url, parser="msgpack", auth={"some": "auth"})
        client = await node.client(server.url, parser="msgpack", reconnection=False, auth={"some": "auth"})
        await client.connected()
        await client.cut()
        await control.call("publish", {"name": "missed"})
        await client.connect()
        await client.recovered_again()
        await client.received("missed")
