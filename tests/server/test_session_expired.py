"""``session_expired`` is called once for each session whose client stays away, over crashes as well."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import aiohttp
import pytest

from support.clients import Client, NodeClients
from support.polling import RawPolling
from support.steered_clocks import SteeredServer

EVENT = "session_expired"
"""The event that the handler of this name emits to ``/control``, stored with the end of the session."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteeredServer]:
    """A server whose uptime passes while a test waits for an expiry, and stands still otherwise."""
    server = SteeredServer(tmp_path_factory.mktemp("server"))
    server.start()
    try:
        yield server
    finally:
        server.kill()
    # Handlers that fail are in the log with their traceback; nothing else may be.
    assert server.log.count("Traceback") == server.log.count("\nhandlers_for_tests.FailedOnPurpose")


async def gone(
    node: NodeClients, url: str, data: dict[str, Any] | None = None, namespace: str = "/"
) -> Client:
    """A client that has saved data, disconnected, and does not reconnect by itself."""
    client = await node.client(url, namespace, reconnection=False)
    await client.connected()
    await client.call("save", data or {})
    await client.cut()
    return client


async def told(server: SteeredServer, control: Client, sid: str) -> None:
    """Lets time pass until the end of a session was announced."""
    events = control.by_name[EVENT]
    with server.time_passes():
        await control.until(lambda: any(event.data == [sid] for event in events), f"{sid} expired")


async def reached(server: SteeredServer, control: Client, gate: str) -> None:
    """Lets time pass until a handler waits at a gate."""
    with server.time_passes():
        await control.call("until_reached", {"gate": gate})


async def ended_once(server: SteeredServer, node: NodeClients, control: Client, *sids: str) -> None:
    """Waits for a later expiry; each of these sessions was announced once, in the log and on the wire."""
    last = await gone(node, server.url)
    await told(server, control, last.sid)
    events = [event.data[0] for event in control.by_name[EVENT]]
    with closing(sqlite3.connect(server.database)) as connection:
        logged = [
            json.loads(payload)[1]
            for (payload,) in connection.execute("SELECT payload FROM events WHERE event = ?", (EVENT,))
        ]
        kept = {sid for (sid,) in connection.execute("SELECT sid FROM sessions")}
    for sid in sids:
        assert events.count(sid) == 1
        assert logged.count(sid) <= 1  # the event may be pruned, but never stored twice
        assert sid not in kept


async def runs(control: Client, sid: str) -> list[dict[str, Any]]:
    """The calls of the handler in this start of the server."""
    return [record for record in await control.call("seen", {"sid": sid}) if record["what"] == EVENT]


@pytest.mark.parametrize("namespace", ["/", "/other"])
async def test_handler_receives_namespace_sid_and_data(
    server: SteeredServer, node: NodeClients, namespace: str
) -> None:
    """The handler is called once, with namespace, sid and saved data."""
    control = await node.control(server.url)
    data = {"name": "Ann", "list": [1, None, {"ü": 2.5}]}
    client = await gone(node, server.url, data, namespace)
    await told(server, control, client.sid)
    await ended_once(server, node, control, client.sid)
    assert await runs(control, client.sid) == [
        {"what": EVENT, "namespace": namespace, "sid": client.sid, "data": data}
    ]
    await client.connect()
    assert not (await client.reconnected()).recovered


async def test_late_raw_client_receives_no_missed_event(
    server: SteeredServer, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """A raw client that returns too late receives none of its missed events."""
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    session = await client.connect()
    await client.close()
    await control.call("publish", {"name": "missed", "to": session["sid"]})
    await told(server, control, session["sid"])
    late = RawPolling(http, server.url)
    fresh = await late.connect(auth={"pid": session["pid"]})
    assert fresh["sid"] != session["sid"] and fresh["pid"] != session["pid"]
    offset = await control.call("publish", {"name": "end", "to": fresh["sid"]})
    assert await late.packet() == f'42["end","{offset}"]'


@pytest.mark.parametrize("crash", [True, False], ids=["kill -9", "graceful"])
async def test_sessions_expire_after_a_restart(server: SteeredServer, node: NodeClients, crash: bool) -> None:
    """Sessions that were away or live when the server stopped expire after its restart."""
    control = await node.control(server.url)
    connected = await node.client(server.url, reconnection=False)
    await connected.connected()
    await connected.call("save", {"was": "connected"})
    away = await gone(node, server.url, {"was": "away"})
    await asyncio.to_thread(server.kill if crash else server.terminate)
    await control.gone()
    await asyncio.to_thread(server.start)
    await control.reconnected()
    for client, was in ((away, "away"), (connected, "connected")):
        await told(server, control, client.sid)
        assert [run["data"] for run in await runs(control, client.sid)] == [{"was": was}]
    # The next start does not call the handler again.
    await asyncio.to_thread(server.restart)
    await control.reconnected()
    await ended_once(server, node, control, away.sid, connected.sid)
    assert await runs(control, away.sid) == await runs(control, connected.sid) == []


async def test_failing_handler_is_called_again(server: SteeredServer, node: NodeClients) -> None:
    """A failing handler is called again, and its emits are discarded."""
    control = await node.control(server.url)
    client = await gone(node, server.url, {"failures": 3})
    await told(server, control, client.sid)
    assert len(await runs(control, client.sid)) == 4
    await ended_once(server, node, control, client.sid)
    assert len(await runs(control, client.sid)) == 4


async def test_crash_inside_the_handler_repeats_it(server: SteeredServer, node: NodeClients) -> None:
    """A crash inside the handler repeats it; its first run leaves nothing."""
    control = await node.control(server.url)
    client = await gone(node, server.url, {"gate": "crash inside"})
    await reached(server, control, "crash inside")
    server.kill()
    await control.gone()
    with closing(sqlite3.connect(server.database)) as connection:
        query = "SELECT count(*) FROM events WHERE event = ? AND payload LIKE '%' || ? || '%'"
        assert connection.execute(query, (EVENT, client.sid)).fetchone() == (0,)
        query = "SELECT count(*) FROM sessions WHERE sid = ?"
        assert connection.execute(query, (client.sid,)).fetchone() == (1,)
    await asyncio.to_thread(server.start)
    await control.reconnected()
    await reached(server, control, "crash inside")
    await control.call("open_gate", {"gate": "crash inside"})
    await told(server, control, client.sid)
    await ended_once(server, node, control, client.sid)
    assert len(await runs(control, client.sid)) == 1


async def test_client_during_the_handler_gets_new_session(server: SteeredServer, node: NodeClients) -> None:
    """A client that reconnects during the handler gets a new session."""
    control = await node.control(server.url)
    client = await gone(node, server.url, {"gate": "just too late"})
    sid = client.sid
    await reached(server, control, "just too late")
    await client.connect()
    fresh = await client.reconnected()
    assert not fresh.recovered and fresh.sid != sid
    assert ": expired\n" in server.log
    await control.call("open_gate", {"gate": "just too late"})
    await told(server, control, sid)
    await control.call("publish", {"name": "live", "to": fresh.sid})
    await client.received("live")
    await ended_once(server, node, control, sid)
    assert len(await runs(control, sid)) == 1


async def test_ended_and_recovered_sessions_do_not_expire(server: SteeredServer, node: NodeClients) -> None:
    """Sessions that were ended by the server or recovered in time do not expire."""
    control = await node.control(server.url)
    revoked = await gone(node, server.url)
    await control.call("revoke", {"sid": revoked.sid})
    hung_up = await gone(node, server.url)
    await control.call("hang_up", {"sid": hung_up.sid})
    returned = await gone(node, server.url)
    await returned.connect()
    await returned.recovered_again()
    last = await gone(node, server.url)
    await told(server, control, last.sid)
    for client in (revoked, hung_up, returned):
        assert await runs(control, client.sid) == []
    assert (await returned.call("whoami"))["sid"] == returned.sid
