"""Sessions that are bound to an identity: whoever else has the private id gets nothing of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from support.clients import Client, NodeClients
from support.polling import RawPolling, rest
from support.processes import EmbeddedServer, ServerProcess

ALWAYS_CONNECT = """
import sys

import socketio
from aiohttp import web

import handlers_for_tests
from socketio_eventstore import RecoveryManager

port, database = int(sys.argv[1]), sys.argv[2]
manager = RecoveryManager(database)
sio = socketio.AsyncServer(async_mode="aiohttp", always_connect=True, client_manager=manager)
handlers_for_tests.register(sio)
app = web.Application()
sio.attach(app)
web.run_app(app, host="127.0.0.1", port=port, print=None)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as server:
        yield server


async def publish_secrets(control: Client, sid: str) -> None:
    """One to everyone, one to a room, one to the session itself."""
    for message in ({}, {"to": "Ann's room"}, {"to": sid}):
        await control.call("publish", {"name": "secret", "data": "for Ann only", **message})


async def ann_goes_away(node: NodeClients, url: str, control: Client) -> Client:
    """A client that is bound to "ann" and misses three events."""
    ann = await node.client(url, reconnection=False, auth={"bind": "ann", "rooms": ["Ann's room"]})
    sid = (await ann.connected()).sid
    await ann.call("save", {"name": "Ann"})
    await ann.cut()
    await publish_secrets(control, sid)
    return ann


async def ann_has_lost_nothing(ann: Client) -> None:
    """She comes back as herself; returns when she has what she missed, each once."""
    await ann.connect()
    again = await ann.recovered_again()
    await ann.received("secret", 3)
    assert await ann.call("rooms") == sorted(["Ann's room", again.sid])
    assert await ann.call("load") == {"name": "Ann"}
    assert [event.name for event in ann.events] == ["secret"] * 3


async def test_the_same_identity_recovers_its_session(server: ServerProcess, node: NodeClients) -> None:
    control = await node.control(server.url)
    ann = await ann_goes_away(node, server.url, control)
    await ann_has_lost_nothing(ann)
    assert (await ann.call("whoami"))["recovered"] is True


@pytest.mark.parametrize("identity", ["bob", "Ann", "ann ", None], ids=["other", "case", "space", "nobody"])
async def test_somebody_else_gets_a_fresh_session_and_its_owner_still_recovers_everything(
    server: ServerProcess, node: NodeClients, identity: str | None
) -> None:
    control = await node.control(server.url)
    ann = await ann_goes_away(node, server.url, control)
    who = {} if identity is None else {"bind": identity}
    thief = await node.client(server.url, reconnection=False, auth={"pid": ann.pid, **who})
    stolen = await thief.connected()
    assert stolen.sid != ann.sid and stolen.pid != ann.pid
    assert await thief.call("whoami") == {"sid": stolen.sid, "recovered": False}
    assert await thief.call("rooms") == [stolen.sid] and await thief.call("load") == {}
    await control.call("publish", {"name": "end", "to": stolen.sid})
    await thief.received("end")
    assert [event.name for event in thief.events] == ["end"]
    await ann_has_lost_nothing(ann)

    # What the thief was given is a session like any other.
    await thief.cut()
    await control.call("publish", {"name": "missed", "to": stolen.sid})
    await thief.connect(pid=stolen.pid, offset=await thief.last_offset(), **who)
    assert (await thief.reconnected()).sid == stolen.sid
    await thief.received("missed")


async def test_somebody_else_is_written_not_one_byte_of_the_old_session(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    control = await node.control(server.url)
    ann = await ann_goes_away(node, server.url, control)
    thief = RawPolling(http, server.url)
    await thief.open()
    await thief.post(f'40{{"pid":"{ann.pid}","bind":"bob"}}')
    connect = await thief.packet()
    assert connect.startswith('40{"sid":') and ann.sid not in connect and ann.pid not in connect
    offset = await control.call("publish", {"name": "end"})
    assert await thief.packet() == f'42["end","{offset}"]'
    await thief.close()
    assert await rest(thief) in ([], ["6"])
    await ann.connect()
    await ann.recovered_again()
    await ann.received("secret", 3)


async def test_a_client_that_lost_its_identity_itself_starts_anew(
    server: ServerProcess, node: NodeClients
) -> None:
    # The official client compares private ids, so this is where it says "recovered" or not.
    control = await node.control(server.url)
    ann = await ann_goes_away(node, server.url, control)
    before = ann.connects[-1]
    await ann.connect(bind="bob")
    after = await ann.reconnected()
    assert not after.recovered and after.sid != before.sid and after.pid != before.pid
    await control.call("publish", {"name": "end", "to": after.sid})
    await ann.received("end")
    assert [event.name for event in ann.events] == ["end"]
    # It sends the new private id now; the new session is bob's.
    await ann.cut()
    await control.call("publish", {"name": "missed", "to": after.sid})
    await ann.connect()
    await ann.recovered_again()
    await ann.received("missed")


async def test_a_claim_by_somebody_else_costs_a_connected_owner_nothing(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    control = await node.control(server.url)
    owner = RawPolling(http, server.url)
    session = await owner.connect(auth={"bind": "ann", "rooms": ["Ann's room"]})
    offset = await control.call("publish", {"name": "live", "to": session["sid"]})
    assert await owner.event() == ["live", offset]

    thief = await node.client(server.url, reconnection=False, auth={"pid": session["pid"], "bind": "bob"})
    assert (await thief.connected()).sid != session["sid"]
    # The transport was closed without DISCONNECT, after which the official client would stay away.
    assert [packet for packet in await rest(owner) if packet not in ("1", "6")] == []
    await publish_secrets(control, session["sid"])
    again = RawPolling(http, server.url)
    assert await again.connect(auth={"pid": session["pid"], "offset": offset, "bind": "ann"}) == session
    assert [(await again.event())[:2] for _ in range(3)] == [["secret", "for Ann only"]] * 3
    assert [event.name for event in thief.events] == ["secret"]  # the one to everyone, as its own
    records = await control.call("seen", {"sid": session["sid"]})
    # The third call was the one that found out who the thief is.
    assert [record["what"] for record in records] == ["connect", "disconnect", "connect", "connect"]


async def test_an_owner_who_is_connected_comes_back_by_itself_after_somebody_elses_claim(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    ann = await node.client(server.url, auth={"bind": "ann"})
    first = await ann.connected()
    thief = await node.client(server.url, auth={"pid": first.pid, "bind": "bob"})
    stolen = await thief.connected()
    await ann.recovered_again()
    await control.call("publish", {"name": "end"})
    await ann.received("end")
    await thief.received("end")
    assert stolen.sid != first.sid and len(thief.connects) == 1 and len(ann.connects) == 2


@pytest.mark.parametrize("identity", [None, "ann", "bob"], ids=["before binding", "as owner", "as another"])
async def test_a_refusal_leaks_not_one_byte_and_leaves_the_session_to_its_owner(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession, identity: str | None
) -> None:
    control = await node.control(server.url)
    ann = await ann_goes_away(node, server.url, control)
    stranger = RawPolling(http, server.url)
    await stranger.open()
    who = "" if identity is None else f',"bind":"{identity}"'
    await stranger.post(f'40{{"pid":"{ann.pid}","refuse":"no"{who}}}')
    assert await stranger.packet() == '44{"message":"refused by the test","data":{"reason":"no"}}'
    await control.call("publish", {"name": "after the refusal", "to": ann.sid})
    await stranger.close()
    assert await rest(stranger) in ([], ["6"])
    await ann.connect()
    await ann.recovered_again()
    await ann.received("after the refusal")
    assert [event.name for event in ann.events] == ["secret"] * 3 + ["after the refusal"]
    assert f"reconnection of {ann.sid}: refused" in server.log


async def test_what_an_identity_is_bound_to_survives_a_crash(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    ann = await ann_goes_away(node, server.url, control)
    await asyncio.to_thread(server.restart)
    await control.reconnected()
    thief = await node.client(server.url, reconnection=False, auth={"pid": ann.pid, "bind": "bob"})
    assert (await thief.connected()).sid != ann.sid
    await ann_has_lost_nothing(ann)
    assert [event.name for event in thief.events] == []


async def test_the_connect_handler_of_a_bound_session_is_never_skipped(
    tmp_path_factory: pytest.TempPathFactory, node: NodeClients
) -> None:
    config = {"connection_state_recovery": {"skip_middlewares": True}}
    with ServerProcess(tmp_path_factory.mktemp("server"), config) as server:
        control = await node.control(server.url)
        free = await node.client(server.url, reconnection=False)
        sid = (await free.connected()).sid
        await free.cut()
        await free.connect()
        await free.recovered_again()
        records = await control.call("seen", {"sid": sid})
        assert [record["what"] for record in records] == ["connect", "disconnect"]

        ann = await ann_goes_away(node, server.url, control)
        thief = await node.client(server.url, reconnection=False, auth={"pid": ann.pid})
        assert (await thief.connected()).sid != ann.sid and not thief.events
        await ann_has_lost_nothing(ann)
        records = await control.call("seen", {"sid": ann.sid})
        assert [record["what"] for record in records] == ["connect", "disconnect", "connect", "connect"]


@pytest.mark.parametrize("wish", [{"bind": "bob"}, {"refuse": "no"}], ids=["another", "refused"])
async def test_always_connect_tells_nobody_of_a_session_before_its_handler_agrees(
    tmp_path_factory: pytest.TempPathFactory, node: NodeClients, wish: dict[str, Any]
) -> None:
    with EmbeddedServer(tmp_path_factory.mktemp("server"), ALWAYS_CONNECT) as server:
        control = await node.control(server.url)
        ann = await ann_goes_away(node, server.url, control)
        thief = await node.client(server.url, reconnection=False, auth={"pid": ann.pid, **wish})
        await thief.until(lambda: bool(thief.connects or thief.errors), "an answer")
        await control.call("publish", {"name": "secret", "to": ann.sid})
        await control.call("publish", {"name": "end", "namespace": "/control"})
        await control.received("end")
        assert not [connect for connect in thief.connects if connect.sid == ann.sid], thief.story()
        assert not thief.events
        await ann.connect()
        await ann.recovered_again()
        await ann.received("secret", 4)


async def test_somebody_elses_fresh_session_recovers_though_nothing_was_received_in_it(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    # It brought an offset of another log along, and has received nothing since: it goes on sending it.
    foreign = {"offset": "foreign.7"}
    client = await node.client(
        server.url, reconnection=False, auth={"pid": "unknown", "bind": "ann", **foreign}
    )
    first = await client.connected()
    await client.cut()
    await client.connect(pid=first.pid, bind="bob", **foreign)
    second = await client.reconnected()
    assert second.sid != first.sid
    await client.cut()
    await control.call("publish", {"name": "missed", "to": second.sid})
    await client.connect(pid=second.pid, bind="bob", **foreign)
    assert (await client.reconnected()).sid == second.sid
    await client.received("missed")
