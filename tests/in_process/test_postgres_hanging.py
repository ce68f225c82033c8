"""A PostgreSQL server that hangs: it keeps its connections, and answers nothing."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from socketio_eventlog.errors import OutcomeUnknown, StoreUnavailable
from socketio_eventlog.postgres import reads, writer
from socketio_eventlog.postgres.connection import Link, connection_string
from socketio_eventlog.postgres.failures import ConnectionLost
from support import postgres
from support.postgres_nodes import joined_node
from support.postgres_proxies import Freezing
from support.storing import event

LOCK = "SELECT pg_advisory_lock(7)"
WAITING = "SELECT 'yes' WHERE EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'advisory')"


async def test_a_use_has_a_time_limit() -> None:
    """A statement that takes too long ends, at the server, too; the next use has another connection."""
    cluster = postgres.shared_cluster()
    database = cluster.new_database()
    link = Link(connection_string(cluster.url(database)), 0.2)
    async with await psycopg.AsyncConnection.connect(cluster.url(database), autocommit=True) as holder:
        await holder.execute(LOCK)
        with pytest.raises(ConnectionLost, match=r"has not answered for 0\.2 s"):
            async with link.use() as connection:
                await connection.execute(LOCK)
        await asyncio.to_thread(cluster.until, database, WAITING.replace("WHERE EXISTS", "WHERE NOT EXISTS"))
        async with link.use(60) as connection:
            await connection.execute("SELECT pg_advisory_unlock(8)")
    await link.close()


async def test_a_log_closes_on_a_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """``close`` waits neither for the answer to an append, nor for reads."""
    for module in (writer, reads):
        monkeypatch.setattr(module, "CLOSING_SECONDS", 0.5)
    cluster = postgres.shared_cluster()
    async with Freezing(cluster) as proxy:
        url = proxy.url_of(cluster.new_database("migrated")) + "&connect_timeout=2"
        async with joined_node(url) as node:
            await node.commit(event())
            for link in node.log._link, node.log._reads._link:
                link._limit_seconds = 0.5
            proxy.is_frozen = True
            stuck = node.log.append([event()])
            searching = asyncio.ensure_future(node.log.counts())
            await node.log.close()
            results = await asyncio.gather(stuck, searching, return_exceptions=True)
            assert isinstance(results[0], OutcomeUnknown) and isinstance(results[1], StoreUnavailable)
