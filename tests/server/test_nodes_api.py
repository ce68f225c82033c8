"""The HTTP interface and the commands of three servers on one log: each answers and acts for all of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from click.testing import CliRunner

from socketio_eventstore.program.cli import commands
from support import postgres
from support.api import KEY, call, problem, result, serving_api, until
from support.clients import Client, NodeClients
from support.processes import DEADLINE, ServerProcess
from support.scrapes import scrape


class Nodes(list[ServerProcess]):
    """The servers; ``url`` is that of their database."""

    url: str


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    nodes = Nodes()
    nodes.url = postgres.new_url()
    with ExitStack() as stack:
        for _ in range(3):
            folder = tmp_path_factory.mktemp("node")
            server = serving_api(folder, {"store": {"path": "data/events.db", "url": nodes.url}})
            nodes.append(stack.enter_context(server))
        yield nodes


def get(server: ServerProcess, path: str) -> Any:
    return result(call(server.port, "GET", path))


def act(server: ServerProcess, client: Client, what: str, body: object = None) -> None:
    answer = call(server.port, "POST", f"/sessions/%2F/{client.sid}/{what}", body)
    assert (answer.status, answer.body) == (204, b"")


async def connected(node: NodeClients, server: ServerProcess) -> Client:
    client = await node.client(server.url, reconnection=False)
    await client.connected()
    return client


def receipts_of(server: ServerProcess, offset: str) -> dict[str, int]:
    """The recipients of an event by receipt."""
    counts: dict[str, int] = get(server, f"/events/{offset}/recipients")
    return counts


async def known_to(server: ServerProcess, client: Client, state: str = "connected") -> None:
    """Wait until another server shows the session of a client, a few milliseconds later."""

    def is_shown() -> bool:
        answer = call(server.port, "GET", f"/sessions/%2F/{client.sid}")
        return answer.status == 200 and json.loads(answer.body)["state"] == state

    await asyncio.to_thread(until, is_shown)


async def test_session_of_another_node(three: Nodes, node: NodeClients) -> None:
    """Its state, rooms and timeline are shown; joining, leaving, disconnecting and revoking reach it."""
    a, b, c = three
    client = await connected(node, b)
    await known_to(a, client)
    act(a, client, "join", {"room": "red"})
    assert get(a, f"/sessions/%2F/{client.sid}")["joined"] == ["red"]
    await asyncio.to_thread(until, lambda: get(c, "/sessions?room=red")["sessions"])
    assert [one["sid"] for one in get(c, "/sessions?room=red")["sessions"]] == [client.sid]
    offset = result(call(c.port, "POST", "/emit", {"event": "seen", "rooms": ["red"]}))["offset"]
    assert (await client.received("seen"))[0].offset == offset
    shown = get(c, f"/sessions/%2F/{client.sid}")
    assert [entry["kind"] for entry in shown["timeline"]] == ["opened", "connected", "joined"]
    assert [event["offset"] for event in shown["events"]] == [offset]
    await asyncio.to_thread(until, lambda: receipts_of(c, offset)["confirmed"] == 1)
    assert get(c, f"/sessions/%2F/{client.sid}")["missed"] == 0
    act(c, client, "leave", {"room": "red"})
    assert get(c, f"/sessions/%2F/{client.sid}")["joined"] == []
    act(a, client, "disconnect")
    assert await client.gone() == "io server disconnect"
    problem(call(a.port, "POST", f"/sessions/%2F/{client.sid}/disconnect"), 404)
    again = await connected(node, c)
    await known_to(a, again)
    act(a, again, "revoke")
    await again.gone()
    await known_to(c, again, "ended")


async def test_counts_are_of_the_cluster_once(three: Nodes, node: NodeClients) -> None:
    """Each server counts the sessions of all; the metric of clients is summed, that of sessions is not."""
    await asyncio.to_thread(until, lambda: get(three[0], "/sessions")["sessions"] == [])
    clients = [await connected(node, server) for server in three]
    away = await connected(node, three[0])
    await away.cut()
    for server in three:
        for client in clients:
            await known_to(server, client)
        await known_to(server, away, "away")
    stats = [get(server, "/stats") for server in three]
    assert [one["sessions"] for one in stats] == [{"connected": 3, "connecting": 0, "away": 1}] * 3
    assert [one["connections"] for one in stats] == [1, 1, 1]
    scrapes = [scrape(server.port) for server in three]
    assert sum(one.value("socket_io_connected", namespace="/") for one in scrapes) == 3
    assert [one.value("sessions", state="away") for one in scrapes] == [1, 1, 1]
    assert [one.value("sessions", state="elsewhere") for one in scrapes] == [2, 2, 2]
    assert [one.value("nodes") for one in scrapes] == [3, 3, 3]
    assert all(one.value("log_contact_age_seconds") < 9 for one in scrapes)
    assert len({frozenset(one.values("log_epoch_info", "epoch")) for one in scrapes}) == 1
    for client in (*clients, away):
        answer = call(three[1].port, "POST", f"/sessions/%2F/{client.sid}/disconnect")
        assert answer.status == 204


async def test_idempotency_key_holds_on_all_nodes(three: Nodes, node: NodeClients) -> None:
    a, b, c = three
    client = await connected(node, c)
    await known_to(a, client)
    body = {"event": "paid", "args": [1]}
    first = result(call(a.port, "POST", "/emit", body, Idempotency_Key="order-1"))
    assert result(call(b.port, "POST", "/emit", body, Idempotency_Key="order-1")) == first
    assert call(b.port, "POST", "/emit", {"event": "paid"}, Idempotency_Key="order-1").status == 422
    last = result(call(b.port, "POST", "/emit", {"event": "last"}))
    assert (await client.received("last"))[0].offset == last["offset"]
    assert [event.offset for event in client.by_name["paid"]] == [first["offset"]]
    act(a, client, "disconnect")


async def test_pages_of_events_go_on_at_another_node(three: Nodes) -> None:
    """A cursor of one server is understood by the others at once: they have the same events."""
    a, b, c = three
    offsets = [
        result(call(server.port, "POST", "/emit", {"event": "paged", "args": [number]}))["offset"]
        for number, server in enumerate((a, b, c, a, b, c))
    ]
    for server in (a, b):  # which may not have applied the event yet
        assert get(server, f"/events?after={offsets[-1]}")["events"] == []
    newest = get(a, "/events?event=paged&limit=3")
    older = get(b, f"/events?event=paged&limit=3&before={quote(newest['older'])}")
    assert [one["offset"] for one in older["events"] + newest["events"]] == offsets


async def streamed(server: ServerProcess, http: aiohttp.ClientSession, last_id: str) -> list[str]:
    """The offsets of two events from a stream that goes on behind an event."""
    headers = {"Authorization": f"Bearer {KEY}", "Last-Event-ID": last_id}
    url, found = f"{server.url}/api/events/stream", list[str]()
    async with asyncio.timeout(DEADLINE), http.get(url, headers=headers) as response:
        assert response.status == 200
        async for line in response.content:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:])["offset"])
            if len(found) == 2:
                return found
    raise AssertionError(found)


async def test_stream_goes_on_at_another_node(three: Nodes, http: aiohttp.ClientSession) -> None:
    """A stream that broke goes on at another server, with the events of all servers."""
    body = {"event": "streamed"}
    offsets = [result(call(server.port, "POST", "/emit", body))["offset"] for server in three]
    for server in three:
        assert await streamed(server, http, offsets[0]) == offsets[1:]


async def test_command_beside_servers_elsewhere(three: Nodes, node: NodeClients, tmp_path: Path) -> None:
    """Where no server runs on this machine, a command joins the log for its own length."""
    client = await connected(node, three[1])
    await known_to(three[0], client)
    config = tmp_path / "config.toml"
    config.write_text(f'[store]\nurl = "{three.url}"\n[connection_state_recovery]\n')

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(commands, [*arguments, "--config", str(config)])
        assert done.exit_code == 0, done.output
        return done.stdout

    offset = await asyncio.to_thread(run, "emit", "from afar", "1")
    assert (await client.received("from afar"))[0].offset == offset.strip()
    sessions = await asyncio.to_thread(run, "sessions", "--json")
    assert client.sid in [json.loads(line)["sid"] for line in sessions.splitlines()]
    await asyncio.to_thread(until, lambda: scrape(three[0].port).value("nodes") == 3)
    assert client.disconnects == []
    act(three[0], client, "disconnect")
