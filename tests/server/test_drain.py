"""A server that drains: the connections end over a time, new ones are refused, and all clients recover."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from support.clients import Client, NodeClients
from support.http_requests import HANDSHAKE, WEBSOCKET, ask
from support.processes import DEADLINE, ServerProcess
from support.scrapes import scrape

LONG = 3600.0
"""A drain that no test waits for."""


def draining(folder: Path, seconds: float) -> ServerProcess:
    return ServerProcess(folder, {"server": {"drain": seconds}})


async def until_not_ready(server: ServerProcess) -> None:
    async with asyncio.timeout(DEADLINE):
        while ask(server.port, "/readyz", Host="localhost").status != 503:  # noqa: ASYNC110 - no event reports it
            await asyncio.sleep(0.01)


def open_connections(server: ServerProcess) -> dict[str, float]:
    return scrape(server.port).values("connections", "transport")


def assert_drains(server: ServerProcess) -> None:
    """The server is there for every probe of a load balancer. Ends it."""
    for _ in range(50):
        assert ask(server.port, "/readyz", Host="localhost").status == 503
    assert "stopping" not in server.log
    assert server.terminate().code == 128 + signal.SIGTERM


async def connected_clients(node: NodeClients, url: str, count: int) -> list[Client]:
    clients = [await node.client(url) for _ in range(count - 1)]
    clients.append(await node.client(url, transports=("polling",)))
    for client in clients:
        await client.connected()
    return clients


async def test_connections_end_one_by_one(node: NodeClients, tmp_path: Path) -> None:
    """Clients are served until their turn, leave one by one, and recover at the next start."""
    with draining(tmp_path, 5.0) as server:
        clients = await connected_clients(node, server.url, 6)
        publisher = await node.control(server.url)  # the youngest connection, whose turn is the last
        await publisher.pump("publish", {"name": "numbered"}, window=1)
        await publisher.has_acknowledged(1)
        assert (await asyncio.to_thread(server.terminate)).code == 0
        assert "draining 7 connections over 5.0 s" in server.log
        assert await clients[0].gone() == "transport close"
        for client in (*clients, publisher):
            await client.gone()
        await publisher.stop()
        counts = [len(client.by_name["numbered"]) for client in clients]
        assert min(counts) < max(counts) and min(counts) < len(publisher.acknowledged), counts
        server.start()
        await publisher.recovered_again()
        await publisher.call("publish", {"name": "last"})
        for client in clients:
            await client.recovered_again()
            await client.received("last")
            numbers = [event.data[0]["number"] for event in client.by_name["numbered"]]
            assert numbers == sorted(set(numbers)) and publisher.acknowledged.keys() <= set(numbers)


async def test_new_connections_are_refused(node: NodeClients, tmp_path: Path) -> None:
    """While a server drains, probes and handshakes get 503; those who are connected may emit."""
    with draining(tmp_path, LONG) as server:
        client = (await connected_clients(node, server.url, 2))[-1]
        os.kill(server.pid, signal.SIGTERM)
        await until_not_ready(server)
        answer = ask(server.port, "/readyz", Host="localhost")
        assert answer.body == b"not ready: the server is stopping\n"
        for path in (HANDSHAKE, WEBSOCKET):
            refused = ask(server.port, path, Host="localhost")
            assert (refused.status, refused.header("retry-after")) == (503, "5")
        assert ask(server.port, "/healthz", Host="localhost").status == 200
        await client.call("say", "still here")
        await client.received("said")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_ends_the_drain(
    node: NodeClients, tmp_path: Path, second: signal.Signals
) -> None:
    """A second signal ends a server that drains at once."""
    with draining(tmp_path, LONG) as server:
        await connected_clients(node, server.url, 2)
        os.kill(server.pid, signal.SIGTERM)
        await until_not_ready(server)
        assert (await asyncio.to_thread(server.terminate, second)).code == 128 + second


async def test_interrupt_never_drains(node: NodeClients, tmp_path: Path) -> None:
    """Ctrl-C ends a server without drain."""
    with draining(tmp_path, LONG) as server:
        await connected_clients(node, server.url, 2)
        assert (await asyncio.to_thread(server.terminate, signal.SIGINT)).code == 130
        assert "draining" not in server.log


async def test_drain_without_connections(tmp_path: Path) -> None:
    """Also a server without connections lets the load balancer see that it drains."""
    with draining(tmp_path, LONG) as server:
        os.kill(server.pid, signal.SIGTERM)
        await until_not_ready(server)
        assert_drains(server)


async def test_drain_after_the_last_client(node: NodeClients, tmp_path: Path) -> None:
    """A server whose clients have all gone is still there for the load balancer."""
    with draining(tmp_path, LONG) as server:
        clients = await connected_clients(node, server.url, 2)
        os.kill(server.pid, signal.SIGTERM)
        await until_not_ready(server)
        for client in clients:
            await client.close()
        while any(open_connections(server).values()):  # noqa: ASYNC110 - no event reports it
            await asyncio.sleep(0.01)
        assert_drains(server)


async def test_drain_ends(tmp_path: Path) -> None:
    """When its time is over, a drain without connections ends the server."""
    with draining(tmp_path, 0.2) as server:
        assert server.terminate().code == 0
