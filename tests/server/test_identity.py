"""A session that is bound to an identity is recovered by this identity only; its pid is not enough."""

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
    """Publishes an event to the namespace, one to a room and one to the session."""
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
    """Ann recovers her session; returns when she has each missed event once."""
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
async def test_other_identity_gets_a_new_session(
    server: ServerProcess, node: NodeClients, identity: str | None
) -> None:
    """Another identity gets a new session; the owner still recovers everything."""
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

    # The new session of the other identity is a session like any other.
    await thief.cut()
    await control.call("publish", {"name": "missed", "to": stolen.sid})
    await thief.connect(pid=stolen.pid, offset=await thief.last_offset(), **who)
    assert (await thief.reconnected()).sid == stolen.sid
    await thief.received("missed")


async def test_other_identity_receives_no_byte(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """Another identity receives no byte of the old session."""
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


async def test_client_that_changes_its_identity(server: ServerProcess, node: NodeClients) -> None:
    """A client that changes its identity gets a new session."""
    # The official client compares pids, so this client reports "recovered" or not.
    control = await node.control(server.url)
    ann = await ann_goes_away(node, server.url, control)
    before = ann.connects[-1]
    await ann.connect(bind="bob")
    after = await ann.reconnected()
    assert not after.recovered and after.sid != before.sid and after.pid != before.pid
    await control.call("publish", {"name": "end", "to": after.sid})
    await ann.received("end")
    assert [event.name for event in ann.events] == ["end"]
    # The client sends the new pid now; the new session belongs to bob.
    await ann.cut()
    await control.call("publish", {"name": "missed", "to": after.sid})
    await ann.connect()
    await ann.recovered_again()
    await ann.received("missed")


async def test_claim_of_another_identity_loses_no_event(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """A claim of another identity costs a connected owner no event."""
    control = await node.control(server.url)
    owner = RawPolling(http, server.url)
    session = await owner.connect(auth={"bind": "ann", "rooms": ["Ann's room"]})
    offset = await control.call("publish", {"name": "live", "to": session["sid"]})
    assert await owner.event() == ["live", offset]

    thief = await node.client(server.url, reconnection=False, auth={"pid": session["pid"], "bind": "bob"})
    assert (await thief.connected()).sid != session["sid"]
    # The transport was closed without DISCONNECT, so the official client would reconnect.
    assert [packet for packet in await rest(owner) if packet not in ("1", "6")] == []
    await publish_secrets(control, session["sid"])
    again = RawPolling(http, server.url)
    assert await again.connect(auth={"pid": session["pid"], "offset": offset, "bind": "ann"}) == session
    assert [(await again.event())[:2] for _ in range(3)] == [["secret", "for Ann only"]] * 3
    await thief.received("secret")
    assert [event.name for event in thief.events] == ["secret"]  # the one to the namespace
    records = await control.call("seen", {"sid": session["sid"]})
    # The third call authenticated the other identity.
    assert [record["what"] for record in records] == ["connect", "disconnect", "connect", "connect"]


async def test_owner_reconnects_after_a_foreign_claim(server: ServerProcess, node: NodeClients) -> None:
    """A connected owner reconnects by itself after a claim of another identity."""
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
async def test_refusal_leaks_no_byte(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession, identity: str | None
) -> None:
    """A refusal leaks no byte of the session and leaves it to its owner."""
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


async def test_bound_identity_survives_a_crash(server: ServerProcess, node: NodeClients) -> None:
    """The identity of a bound session survives a crash."""
    control = await node.control(server.url)
    ann = await ann_goes_away(node, server.url, control)
    await asyncio.to_thread(server.restart)
    await control.reconnected()
    thief = await node.client(server.url, reconnection=False, auth={"pid": ann.pid, "bind": "bob"})
    assert (await thief.connected()).sid != ann.sid
    await ann_has_lost_nothing(ann)
    assert [event.name for event in thief.events] == []


async def test_bound_session_skips_no_connect_handler(
    tmp_path_factory: pytest.TempPathFactory, node: NodeClients
) -> None:
    """The connect handler of a bound session is never skipped."""
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


@pytest.mark.parametrize("extra", [{"bind": "bob"}, {"refuse": "no"}], ids=["another", "refused"])
async def test_always_connect_waits_for_a_bound_session(
    tmp_path_factory: pytest.TempPathFactory, node: NodeClients, extra: dict[str, Any]
) -> None:
    """With ``always_connect`` a recovered session gets CONNECT after its handler accepts."""
    with EmbeddedServer(tmp_path_factory.mktemp("server"), ALWAYS_CONNECT) as server:
        control = await node.control(server.url)
        ann = await ann_goes_away(node, server.url, control)
        thief = await node.client(server.url, reconnection=False, auth={"pid": ann.pid, **extra})
        await thief.until(lambda: bool(thief.connects or thief.errors), "an answer")
        await control.call("publish", {"name": "secret", "to": ann.sid})
        await control.call("publish", {"name": "end", "namespace": "/control"})
        await control.received("end")
        assert not [connect for connect in thief.connects if connect.sid == ann.sid], thief.story()
        assert not thief.events
        await ann.connect()
        await ann.recovered_again()
        await ann.received("secret", 4)


async def test_new_session_of_another_identity_recovers(server: ServerProcess, node: NodeClients) -> None:
    """The new session of another identity recovers before its first event."""
    control = await node.control(server.url)
    # The client has an offset of another log and has received no event, so it goes on sending this offset.
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
