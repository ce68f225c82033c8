"""The index of events on several nodes, which may divide the log into segments in different ways."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

import psycopg
import pytest

from socketio_eventlog.changes import Pruned
from socketio_eventlog.index import Index
from socketio_eventlog.snapshot import Membership
from support.postgres import shared_cluster
from support.postgres_nodes import Node, all_until, joined_node
from support.storing import event

EVENTS = 32
ROOMS = 15
FULL_BYTES = 20_000
"""A few events fill a segment of the smallest weight."""
OVERLAPPING = """
SELECT count(*) FROM eventstore.index_segments AS one JOIN eventstore.index_segments AS other
ON one.segment < other.segment AND other.segment < one.segment + one.length
"""


def rooms_of(number: int) -> tuple[str, ...]:
    return (f"shared-{number % 3}", *(f"{number}-{room}" for room in range(ROOMS)))


async def assert_exact(nodes: Sequence[Node], after: int = 0) -> None:
    """Each node finds what a walk over all events finds."""
    for node in nodes:
        for room in ("shared-1", "3-7", f"{EVENTS}-0", "nowhere"):
            found = await node.log.missed("/", [Membership(room, 0, None)], after, EVENTS)
            expected = [n for n in range(after + 1, EVENTS + 1) if room in rooms_of(n)]
            assert list(found.sequences) == expected, (node.log.node, room)


async def test_nodes_divide_the_log_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node finds every event, with segments of its own and those of others, also after a start."""
    monkeypatch.setattr(Index.__init__, "__defaults__", (FULL_BYTES,))
    cluster = shared_cluster()
    database = cluster.new_database("migrated")
    url = cluster.url(database)
    async with AsyncExitStack() as stack:
        small = {"index_memory": 1}
        nodes = [
            await stack.enter_async_context(joined_node(url, **small)),
            await stack.enter_async_context(joined_node(url, index_memory=400_000)),
        ]
        for number in range(1, EVENTS + 1):
            last = await nodes[number % 2].commit(event(rooms=rooms_of(number)))
            await all_until(nodes, last.number)
            if number == EVENTS // 2:  # it begins between two segments of the others
                nodes.append(await stack.enter_async_context(joined_node(url, **small)))
        assert int(cluster.sql(database, OVERLAPPING)) > 0, "this test must be able to fail"
        await assert_exact(nodes)
        nodes.append(await stack.enter_async_context(joined_node(url, **small)))
        await assert_exact(nodes)
        last = await nodes[0].commit(Pruned(EVENTS // 2))
        await all_until(nodes, last.number)
        nodes.append(await stack.enter_async_context(joined_node(url, **small)))
        await assert_exact(nodes, after=EVENTS // 2)


async def test_appends_wait_for_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """While another node is frozen in the middle of its part of the index, appends leave theirs for later."""
    monkeypatch.setattr(Index.__init__, "__defaults__", (FULL_BYTES,))
    cluster = shared_cluster()
    database = cluster.new_database("migrated")
    url = cluster.url(database)
    async with joined_node(url, index_memory=1) as node:
        async with await psycopg.AsyncConnection.connect(url) as frozen:
            await frozen.execute("SELECT eventstore.index_of_node(%s)", (node.log.node,))
            for number in range(1, EVENTS):
                await node.commit(event(rooms=rooms_of(number)))
            assert cluster.sql(database, "SELECT count(*) FROM eventstore.index_lists").strip() == "0"
        await node.commit(event(rooms=rooms_of(EVENTS)))
        assert cluster.sql(database, "SELECT count(*) FROM eventstore.index_lists").strip() != "0"
        await assert_exact([node])
