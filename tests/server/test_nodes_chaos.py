"""Faults by chance of three servers on one database: every client has exactly the events of its twin.

``NODES_SECONDS=120 NODES_SEED=7 pytest -s -n 0 tests/server/test_nodes_chaos.py`` is the long form. It has
faults that last longer than a lease, too.
"""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from support import postgres
from support.api import serving_api
from support.clients import NodeClients
from support.node_chaos import AnyNode, Chaos, Judge, Line

SHORT_SECONDS: Final = 5.0
SECONDS: Final = float(os.environ.get("NODES_SECONDS", SHORT_SECONDS))
SEED: Final = int(os.environ.get("NODES_SEED", "1"))
CLIENTS: Final = 6


@pytest.mark.timeout(SECONDS + 600)
async def test_faults_of_nodes_lose_nothing(node: NodeClients, tmp_path: Path) -> None:
    """Kills, short freezes, lost answers and cuts: no event is lost, repeated, misplaced or leaked."""
    print(f"NODES_SEED={SEED}")
    chance, cluster = random.Random(SEED), postgres.shared_cluster()
    database = cluster.new_database("migrated")
    judge = Judge(cluster, database)
    async with AsyncExitStack() as stack:
        servers, lines = [], []
        for number in range(3):
            lines.append(await stack.enter_async_context(Line(cluster)))
            folder = tmp_path / f"node{number}"
            folder.mkdir()
            store = {"path": "data/events.db", "url": lines[-1].url_of(database), "retention": 3600.0}
            recovery = {"max_disconnection_duration": 600.0}
            servers.append(serving_api(folder, {"store": store, "connection_state_recovery": recovery}))
            stack.push(servers[-1])
            await asyncio.to_thread(servers[-1].start)  # the line to its database is in this process
        clients = []
        for _ in range(CLIENTS):
            proxy = AnyNode(chance, *(server.port for server in servers))
            await stack.enter_async_context(proxy)
            clients.append((proxy, await node.client(proxy.url, timeout=5_000)))
            await clients[-1][1].connected()
        chaos = Chaos(chance, servers, lines, clients)
        await chaos.run(SECONDS, freezes_long=SECONDS > SHORT_SECONDS)
        await chaos.emit_last()
        judge.check_acknowledged(chaos.acknowledged)
        for _, client in clients:
            await client.received("last")
            judge.check(client)
            first, *later = client.connects
            assert all(again.recovered and again.sid == first.sid for again in later), client.story()
        assert chaos.acknowledged and chaos.faults
        connects = sum(len(client.connects) for _, client in clients)
        print(f"{len(chaos.acknowledged)} events, {connects} connections, {sorted(chaos.faults)}")
