"""A standby that lags is promoted: official clients beyond its end are told so, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.clients import NodeClients
from support.postgres import Cluster
from support.processes import ServerProcess
from support.scrapes import scrape


@pytest.fixture
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary and its asynchronous standby."""
    primary = Cluster()
    try:
        primary.start()
        standby = primary.standby()
        try:
            standby.start()
            yield primary, standby
        finally:
            standby.stop()
            standby.remove()
    finally:
        primary.stop()
        primary.remove()


@pytest.mark.timeout(180)
async def test_clients_beyond_the_end_are_refused(
    pair: tuple[Cluster, Cluster], node: NodeClients, tmp_path: Path
) -> None:
    """Clients that got a lost event get new sessions; the others recover, and miss nothing that is left."""
    primary, standby = pair
    database = primary.new_database()
    config = {"store": {"url": primary.url(database, standby)}}
    with ExitStack() as stack:
        servers = []
        for number in range(2):
            folder = tmp_path / f"node{number}"
            folder.mkdir()
            servers.append(stack.enter_context(ServerProcess(folder, config)))
        publisher = await node.control(servers[0].url)
        beyond = [await node.client(server.url) for server in servers]
        within = [await node.client(server.url) for server in servers]
        for client in beyond:
            await client.connected()
            await client.call("join", "lost")
        for client in within:
            await client.connected()
        await publisher.call("publish", {"name": "kept", "namespace": "/"})
        for client in (*beyond, *within):
            await client.received("kept")
        await asyncio.to_thread(standby.until_caught_up_with, primary)
        standby.stop()
        await publisher.call("publish", {"name": "gone", "to": "lost"})
        for client in beyond:
            await client.received("gone")
        await asyncio.to_thread(primary.stop)
        await asyncio.to_thread(standby.start)
        await asyncio.to_thread(standby.promote)
        for client in within:
            await client.recovered_again()
        for client in beyond:
            assert not (await client.reconnected()).recovered, client.story()
        await publisher.connected()
        await publisher.call("publish", {"name": "new", "namespace": "/"})
        for client in (*beyond, *within):
            await client.received("new")
            names = [event.name for event in client.events]
            assert names == (["kept", "gone", "new"] if client in beyond else ["kept", "new"])
        results = [scrape(server.port).values("recoveries_total", "result") for server in servers]
        assert sum(found.get("rolled_back", 0.0) for found in results) == len(beyond)
        assert sum(found.get("recovered", 0.0) for found in results) >= len(within)
