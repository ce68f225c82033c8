"""``session_expired``: once for each session whose client stays away, whatever happens to the server."""

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
from support.processes import ServerProcess

EVENT = "session_expired"
"""What the handler of the same name emits to ``/control``; stored with the end of the session."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    config = {
        "connection_state_recovery": {"max_disconnection_duration": 1.0},
        "store": {"prune_interval": 0.05},
    }
    server = ServerProcess(tmp_path_factory.mktemp("server"), config)
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
    """A client that has saved something and does not come back by itself."""
    client = await node.client(url, namespace, reconnection=False)
    await client.connected()
    await client.call("save", data or {})
    await client.cut()
    return client


async def told(control: Client, sid: str) -> None:
    """Waits until the end of a session was announced."""
    events = control.by_name[EVENT]
    await control.until(lambda: any(event.data == [sid] for event in events), f"{sid} expired")


async def ended_once(server: ServerProcess, node: NodeClients, control: Client, *sids: str) -> None:
    """Another session expires after these: they were announced once in all, in the log as on the wire."""
    last = await gone(node, server.url)
    await told(control, last.sid)
    events = [event.data[0] for event in control.by_name[EVENT]]
    with closing(sqlite3.connect(server.database)) as connection:
        logged = [
            json.loads(payload)[1]
            for (payload,) in connection.execute("SELECT payload FROM events WHERE event = ?", (EVENT,))
        ]
        kept = {sid for (sid,) in connection.execute("SELECT sid FROM sessions")}
    for sid in sids:
        assert events.count(sid) == 1
        assert logged.count(sid) <= 1  # it may be pruned by now, but cannot be there twice
        assert sid not in kept


async def runs(control: Client, sid: str) -> list[dict[str, Any]]:
    """The calls of the handler in this start of the server."""
    return [record for record in await control.call("seen", {"sid": sid}) if record["what"] == EVENT]


@pytest.mark.parametrize("namespace", ["/", "/other"])
async def test_the_handler_is_called_once_with_namespace_sid_and_what_was_saved(
    server: ServerProcess, node: NodeClients, namespace: str
) -> None:
    control = await node.control(server.url)
    data = {"name": "Ann", "list": [1, None, {"ü": 2.5}]}
    client = await gone(node, server.url, data, namespace)
    await told(control, client.sid)
    await ended_once(server, node, control, client.sid)
    assert await runs(control, client.sid) == [
        {"what": EVENT, "namespace": namespace, "sid": client.sid, "data": data}
    ]
    await client.connect()
    assert not (await client.reconnected()).recovered


async def test_a_raw_client_that_comes_too_late_is_sent_nothing_of_what_it_missed(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    session = await client.connect()
    await client.close()
    await control.call("publish", {"name": "missed", "to": session["sid"]})
    await told(control, session["sid"])
    late = RawPolling(http, server.url)
    fresh = await late.connect(auth={"pid": session["pid"]})
    assert fresh["sid"] != session["sid"] and fresh["pid"] != session["pid"]
    offset = await control.call("publish", {"name": "end", "to": fresh["sid"]})
    assert await late.packet() == f'42["end","{offset}"]'


@pytest.mark.parametrize("crash", [True, False], ids=["kill -9", "graceful"])
async def test_a_client_that_was_away_or_connected_when_the_server_went_down_expires_afterwards(
    server: ServerProcess, node: NodeClients, crash: bool
) -> None:
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
        await told(control, client.sid)
        assert [run["data"] for run in await runs(control, client.sid)] == [{"was": was}]
    # A start later it is not said again.
    await asyncio.to_thread(server.restart)
    await control.reconnected()
    await ended_once(server, node, control, away.sid, connected.sid)
    assert await runs(control, away.sid) == await runs(control, connected.sid) == []


async def test_a_handler_that_fails_is_called_again_and_what_it_emitted_is_discarded(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    client = await gone(node, server.url, {"failures": 3})
    await told(control, client.sid)
    assert len(await runs(control, client.sid)) == 4
    await ended_once(server, node, control, client.sid)
    assert len(await runs(control, client.sid)) == 4


async def test_a_crash_inside_the_handler_repeats_it_and_nothing_of_its_first_run_is_left(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    client = await gone(node, server.url, {"gate": "crash inside"})
    await control.call("until_reached", {"gate": "crash inside"})
    server.kill()
    await control.gone()
    with closing(sqlite3.connect(server.database)) as connection:
        query = "SELECT count(*) FROM events WHERE event = ? AND payload LIKE '%' || ? || '%'"
        assert connection.execute(query, (EVENT, client.sid)).fetchone() == (0,)
        query = "SELECT count(*) FROM sessions WHERE sid = ?"
        assert connection.execute(query, (client.sid,)).fetchone() == (1,)
    await asyncio.to_thread(server.start)
    await control.reconnected()
    await control.call("until_reached", {"gate": "crash inside"})
    await control.call("open_gate", {"gate": "crash inside"})
    await told(control, client.sid)
    await ended_once(server, node, control, client.sid)
    assert len(await runs(control, client.sid)) == 1


async def test_a_client_that_comes_while_its_end_is_announced_gets_a_fresh_session(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    client = await gone(node, server.url, {"gate": "just too late"})
    sid = client.sid
    await control.call("until_reached", {"gate": "just too late"})
    await client.connect()
    fresh = await client.reconnected()
    assert not fresh.recovered and fresh.sid != sid
    assert ": expired\n" in server.log
    await control.call("open_gate", {"gate": "just too late"})
    await told(control, sid)
    await control.call("publish", {"name": "live", "to": fresh.sid})
    await client.received("live")
    await ended_once(server, node, control, sid)
    assert len(await runs(control, sid)) == 1


async def test_a_session_that_was_ended_by_the_server_or_came_back_in_time_does_not_expire(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    revoked = await gone(node, server.url)
    await control.call("revoke", {"sid": revoked.sid})
    hung_up = await gone(node, server.url)
    await control.call("hang_up", {"sid": hung_up.sid})
    returned = await gone(node, server.url)
    await returned.connect()
    await returned.recovered_again()
    last = await gone(node, server.url)
    await told(control, last.sid)
    for client in (revoked, hung_up, returned):
        assert await runs(control, client.sid) == []
    assert (await returned.call("whoami"))["sid"] == returned.sid
