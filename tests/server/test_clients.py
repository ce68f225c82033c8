"""Official clients, real servers: whatever the transport, parser or way of emitting, nothing is missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.clients import NodeClients, number_of
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
async def test_clients_with_the_msgpack_parser_recover_in_an_application_on_aiohttp(
    tmp_path: Path, node: NodeClients, transports: tuple[str, ...]
) -> None:
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


async def test_an_upgrade_from_polling_to_websocket_misses_nothing(tmp_path: Path, node: NodeClients) -> None:
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


async def test_events_reach_whom_they_are_addressed_to_live_and_missed(
    tmp_path: Path, node: NodeClients
) -> None:
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


async def test_namespaces_on_one_transport_recover_each_for_itself(tmp_path: Path, node: NodeClients) -> None:
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


async def test_acknowledged_emits_are_not_stored_and_leave_the_offset_alone(
    tmp_path: Path, node: NodeClients
) -> None:
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False)
        await client.connected()
        offset = await control.call("publish", {"name": "stored"})
        answer = await control.call("ask", {"name": "question", "data": "text", "to": client.sid})
        assert answer == "answer to question"
        # The last argument of an event with an acknowledgement id is no offset, and the client takes none.
        assert (await client.received("question"))[0].args == ["text"]
        assert await client.last_offset() == offset

        await client.cut()
        await control.call("publish", {"name": "missed"})
        await client.connect()
        await client.recovered_again()
        await control.call("publish", {"name": "end"})
        await client.received("end")
        assert [event.name for event in client.events] == ["stored", "question", "missed", "end"]


async def test_volatile_emits_are_not_stored_and_end_in_the_present_offset(
    tmp_path: Path, node: NodeClients
) -> None:
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False)
        await client.connected()
        # Before any stored event as well: a string at the end would be taken for an offset.
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


async def test_events_that_nobody_is_there_to_receive_have_an_offset_too(
    tmp_path: Path, node: NodeClients
) -> None:
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
        numbers = [number_of(offset) for offset in offsets]
        assert sorted(set(numbers)) == numbers
        assert [event.name for event in client.events] == ["heard"]


@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_a_client_that_has_never_received_an_event_recovers(
    tmp_path: Path, node: NodeClients, transports: tuple[str, ...]
) -> None:
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


async def test_a_msgpack_client_that_has_never_received_an_event_recovers(
    tmp_path: Path, node: NodeClients
) -> None:
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
