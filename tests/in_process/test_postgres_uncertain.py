"""Appends to PostgreSQL whose outcome is not known at first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from socketio_eventlog.errors import NodeFenced
from socketio_eventlog.postgres import connection, stored, writer
from socketio_eventlog.postgres.connection import Connection, Link, connection_string
from socketio_eventlog.postgres.failures import ConnectionLost
from support import postgres
from support.postgres import Cluster
from support.postgres_nodes import joined_node
from support.postgres_proxies import Freezing
from support.storing import Clock, event

APPENDING = """
SELECT pid FROM pg_stat_activity
WHERE query LIKE '%CALL eventstore.append%' AND wait_event_type = 'Lock' AND datname = current_database()
"""


@asynccontextmanager
async def without_standby(cluster: Cluster, database: str) -> AsyncIterator[Link]:
    """A link to a server that waits for a synchronous standby, which does not exist, from some time on."""
    link = Link(connection_string(cluster.url(database)), 60)
    cluster.sql(database, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    cluster.sql(database, "SELECT pg_reload_conf()")  # the processes take note of it one after another
    try:
        yield link
    finally:
        cluster.sql(database, "ALTER SYSTEM RESET synchronous_standby_names")
        cluster.sql(database, "SELECT pg_reload_conf()")
        await link.close()


async def test_a_cancelled_wait_is_no_snapshot() -> None:
    """A snapshot whose wait for a standby is cancelled is none: nothing says that it is durable."""
    cluster = postgres.shared_cluster()
    database = cluster.new_database("migrated")
    async with without_standby(cluster, database) as link:

        async def read() -> None:
            while True:  # the first ones may be before the new setting
                async with link.use() as used:
                    await stored.snapshot(used)

        reading = asyncio.create_task(read())
        waiting = f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'SyncRep'"
        backend = await asyncio.to_thread(cluster.until, database, waiting)
        cluster.sql(database, f"SELECT pg_cancel_backend({backend})")
        with pytest.raises(ConnectionLost):
            await reading


async def test_a_batch_lost_before_its_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind PgBouncer a crash between append and flush passes unnoticed: the batch is appended again."""
    cluster = postgres.shared_cluster()
    database = cluster.new_database("migrated")
    losses: list[int] = []

    async def lost_before(link: Connection, batch: int, chain: bytes) -> None:
        if not losses:
            losses.append(batch)
            cluster.sql(database, f"DELETE FROM eventstore.batches WHERE batch = {batch}")
            cluster.sql(database, "SET session_replication_role = replica", "DELETE FROM eventstore.events")
        await connection.flush_batch(link, batch, chain)

    async with joined_node(cluster.url(database)) as node:
        await node.commit()
        node.log._tail.close()  # what it reads is flushed: a crash would not take it
        await node.log._tailing
        monkeypatch.setattr(writer, "flush_batch", lost_before)
        batch = await node.commit(event())
        assert losses == [batch.number]
        assert cluster.sql(database, 'SELECT "offset" FROM eventstore.events') == "1\n"
        await node.commit(event())
        assert node.log.head == 2


async def test_a_dead_node_learns_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer was lost, and the node is dead when it asks again: the history has the batch."""
    cluster, clock = postgres.shared_cluster(), Clock(100.0)
    database = cluster.new_database("migrated")
    async with Freezing(cluster) as proxy:

        def cut_and_freeze() -> None:
            proxy.is_frozen = True
            Freezing._cut(proxy)

        async with joined_node(proxy.url_of(database) + "&connect_timeout=2", clock=clock) as node:
            await node.commit()
            monkeypatch.setattr(proxy, "_cut", cut_and_freeze)
            proxy.cut_next_answer()
            uncertain = node.log.append([event()])
            await asyncio.to_thread(cluster.until, database, "SELECT 1 FROM eventstore.events")
            clock.now += 61.0
            async with joined_node(cluster.url(database), clock=clock) as other:
                assert [one.node for one in other.snapshot.nodes] == [other.log.node]
                proxy.is_frozen = False
                batch = await node.until(await uncertain)
                assert [done.position for done in batch.changes] == [1] and other.log.head == 1
                with pytest.raises(NodeFenced):
                    await node.log.append([event()])


async def test_a_cancelled_append_is_tried_again() -> None:
    """A statement that an operator cancels may have been committed: its callers hear the outcome only."""
    cluster = postgres.shared_cluster()
    database = cluster.new_database("migrated")
    url = cluster.url(database)
    async with joined_node(url) as node, await psycopg.AsyncConnection.connect(url) as holder:
        await holder.execute("LOCK TABLE eventstore.events IN ACCESS EXCLUSIVE MODE")
        stuck = node.log.append([event()])
        backend = await asyncio.to_thread(cluster.until, database, APPENDING)
        cluster.sql(database, f"SELECT pg_cancel_backend({backend})")
        await asyncio.to_thread(
            cluster.until, database, f"SELECT 1 WHERE NOT EXISTS ({APPENDING} AND pid = {backend})"
        )
        await holder.rollback()
        await node.until(await stuck)
        assert node.log.head == 1
