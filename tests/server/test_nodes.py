"""Three servers on one PostgreSQL database: their clients go from one to another and lose nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support import postgres
from support.clients import Client, NodeClients, sequence_of
from support.processes import HOST, ServerProcess
from support.proxies import Balancer
from support.reverse_proxies import NAME, HAProxy, Nginx, ReverseProxy

CLUSTER = Path(__file__).parents[2] / "docs" / "cluster.md"
ADDRESSES = ("10.0.0.1:3000", "10.0.0.2:3000", "10.0.0.3:3000")


class NginxOfNodes(Nginx):
    document, servers = CLUSTER, ADDRESSES


class HAProxyOfNodes(HAProxy):
    document, servers = CLUSTER, ADDRESSES


class Nodes:
    """The servers, and their database."""

    def __init__(self, servers: list[ServerProcess], database: str) -> None:
        self.servers = servers
        self._database = database
        self._cluster = postgres.shared_cluster()

    @property
    def names(self) -> set[str]:
        """The nodes that are alive."""
        return set(self._cluster.sql(self._database, "SELECT node FROM eventstore.nodes").split())

    def stored(self, event: str) -> list[tuple[int, int]]:
        """The offsets and the numbers of the events of a name."""
        text = self._cluster.sql(
            self._database,
            "SELECT json_build_array(\"offset\", payload::json -> 1 -> 'number') FROM eventstore.events"
            f" WHERE event = '{event}' ORDER BY \"offset\"",
        )
        return [tuple(json.loads(line)) for line in text.splitlines()]

    async def until(self, query: str) -> None:
        """Wait until a query has a result."""
        await asyncio.to_thread(self._cluster.until, self._database, query)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    url = postgres.new_url()
    database = url.split("@/")[1].split("?")[0]
    with ExitStack() as stack:
        servers = []
        for number in range(3):
            config: dict[str, dict[str, object] | None] = {
                "server": {"node_name": f"n{number + 1}", "allowed_hosts": [NAME], "trusted_proxies": [HOST]},
                "store": {"path": "data/events.db", "url": url},
            }
            server = ServerProcess(tmp_path_factory.mktemp("node"), config)
            servers.append(stack.enter_context(server))
        yield Nodes(servers, database)


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_client_recovers_on_another_node(three: Nodes, node: NodeClients, transport: str) -> None:
    """A client that goes from node to node gets every event once, in order, whoever emits it."""
    a, b, c = three.servers
    name = f"numbered {transport}"
    async with Balancer(a.port) as balancer:
        client = await node.client(balancer.url, transports=(transport,))
        sid = (await client.connected()).sid
        publisher = await node.control(c.url)
        await publisher.call("enter", {"sid": sid, "room": "room", "namespace": "/"})
        await publisher.pump("publish", {"name": name, "to": "room"}, window=4)
        for target in b, c, a, b:
            await publisher.has_acknowledged(len(publisher.acknowledged) + 10)
            await balancer.turn_to(target.port)
            await client.recovered_again()
        await publisher.has_acknowledged(len(publisher.acknowledged) + 10)
        await publisher.stop()
        last = await publisher.call("publish", {"name": "last", "to": sid})
        assert (await client.received("last"))[0].offset == last
        check(client, three, name)


def check(client: Client, nodes: Nodes, name: str) -> None:
    """Compare what a client has received with the log."""
    received = [(sequence_of(event.offset), event.data[0]["number"]) for event in client.by_name[name]]
    assert received == nodes.stored(name), client.story()


async def test_calls_reach_clients_of_other_nodes(three: Nodes, node: NodeClients) -> None:
    a, b, _ = three.servers
    client, control = await node.client(b.url), await node.control(a.url)
    sid = (await client.connected()).sid
    await client.call("join", "kitchen")
    await client.call("save", {"name": "Ann"})
    await control.call("publish", {"name": "stored", "to": "kitchen"})
    assert (await client.received("stored"))[0].offset
    assert await control.call("rooms", {"sid": sid}) == sorted([sid, "kitchen"])
    assert await control.call("load", {"sid": sid}) == {"name": "Ann"}
    await control.call("publish", {"name": "fleeting", "data": b"\x00", "to": sid, "volatile": True})
    assert (await client.received("fleeting"))[0].data == [b"\x00"]
    assert await control.call("ask", {"name": "question", "data": "text", "to": sid}) is not None
    await control.call("hang_up", {"sid": sid})
    assert await client.gone() == "io server disconnect"


@pytest.mark.parametrize("kind", [NginxOfNodes, HAProxyOfNodes], ids=lambda kind: kind.program)
async def test_polling_client_stays_on_its_node(
    three: Nodes, node: NodeClients, tmp_path: Path, kind: type[ReverseProxy]
) -> None:
    """Behind the documented proxies, all requests of a connection reach one node, and so does its upgrade."""
    with kind(tmp_path / "proxy", *(server.port for server in three.servers)) as proxy:
        options: dict[str, Any] = {"agent": "https", "address": HOST, "ca": proxy.authority.read_text()}
        both = ("polling", "websocket")
        clients = [await node.client(proxy.url, transports=("polling",), **options) for _ in range(4)]
        clients += [await node.client(proxy.url, transports=both, **options) for _ in range(2)]
        for client in clients:
            await client.connected()
            for number in range(5):
                assert await client.call("say", number)
        for client in clients[4:]:
            await client.upgraded()
        for client in clients:
            await client.received("said", 5)
            assert client.disconnects == [] and len(client.connects) == 1, client.story()
            await client.disconnect()


async def test_request_at_another_node_is_refused(three: Nodes, http: aiohttp.ClientSession) -> None:
    a, b, _ = three.servers
    query = {"EIO": "4", "transport": "polling"}
    async with http.get(f"{a.url}/socket.io/", params=query) as response:
        handshake = json.loads((await response.text())[1:])
    assert handshake["sid"].startswith("n1.")
    async with http.get(f"{b.url}/socket.io/", params={**query, "sid": handshake["sid"]}) as response:
        assert response.status == 400
        assert await response.json() == {"code": 1, "message": "Session ID unknown"}


@pytest.mark.timeout(600)
async def test_dead_and_frozen_node_lose_nothing(three: Nodes, node: NodeClients) -> None:
    """One node is killed and one is frozen for longer than its lease; their clients recover on the third.

    The frozen one goes on, closes its clients and joins anew.
    """
    a, b, c = three.servers
    former = three.names
    async with Balancer(a.port, c.port) as near_a, Balancer(b.port, c.port) as near_b:
        of_a, of_b = await node.client(near_a.url), await node.client(near_b.url)
        stuck = await node.client(b.url, reconnection=False)
        for client in of_a, of_b, stuck:
            await client.connected()
        publisher = await node.control(c.url)
        await publisher.pump("publish", {"name": "numbered", "namespace": "/"}, window=4)
        await publisher.has_acknowledged(20)
        await asyncio.to_thread(a.kill)
        os.kill(b.pid, signal.SIGSTOP)
        try:
            await of_a.recovered_again()
            await near_b.turn_to(c.port)
            await of_b.recovered_again()
            await three.until("SELECT 'one' FROM eventstore.nodes HAVING count(*) = 1")
        finally:
            os.kill(b.pid, signal.SIGCONT)
        await stuck.gone()
        await three.until("SELECT 'two' FROM eventstore.nodes HAVING count(*) = 2")
        assert len(three.names & former) == 1
        await publisher.has_acknowledged(len(publisher.acknowledged) + 20)
        await publisher.stop()
        await near_b.turn_to(b.port)
        await of_b.recovered_again()
        await publisher.call("publish", {"name": "last", "namespace": "/"})
        for client in of_a, of_b:
            await client.received("last")
            check(client, three, "numbered")
        assert "joined anew" in b.log
        await asyncio.to_thread(a.start)
