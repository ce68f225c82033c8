"""A node that joins a PostgreSQL log while others write it."""

from __future__ import annotations

from typing import Any

import pytest

from socketio_eventlog.postgres import altered
from socketio_eventlog.postgres.connection import Connection
from socketio_eventlog.postgres.writer import Writer
from support import postgres
from support.postgres_nodes import joined_node
from support.storing import event


def cluster_sql(url: str, statement: str) -> None:
    """Run a statement in the database of a URL."""
    cluster = postgres.shared_cluster()
    cluster.sql(url.partition("@/")[2].partition("?")[0], statement)


@pytest.fixture
def url() -> str:
    return postgres.new_url()


async def test_a_frozen_joiner_holds_no_lock(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first statement a node that joins holds no lock: others write on if it is frozen there."""
    note_lost, appended = altered.note_lost, []
    async with joined_node(url) as one:

        async def written(connection: Connection, *arguments: Any) -> list[tuple[int, int]]:
            appended.append(await one.commit(event()))
            return await note_lost(connection, *arguments)

        monkeypatch.setattr(altered, "note_lost", written)
        async with joined_node(url) as other:
            assert len(appended) == 1
            assert other.log.head == 1


async def test_a_cut_node_is_alive_for_a_joiner(url: str) -> None:
    """The loss of the connection that appends ends no node; the loss of all connections does."""
    async with joined_node(url) as one:
        cluster_sql(url, "SELECT pg_terminate_backend(backend, 60000) FROM eventstore.nodes")
        async with joined_node(url) as other:
            assert [node.node for node in other.snapshot.nodes] == [one.log.node, other.log.node]
            await one.commit(event())


async def test_a_node_without_connections_has_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database knows which nodes have no connection any more, before they are declared dead."""

    async def killed(writer: Writer) -> None:
        """The end of a process writes nothing."""

    async with joined_node(url) as one:
        with monkeypatch.context() as patch:
            patch.setattr(Writer, "leave", killed)
            async with joined_node(url) as other:
                assert await one.log.may_live(other.log.node)
        connected = f"SELECT FROM pg_stat_activity WHERE application_name LIKE '% {other.log.node}'"
        postgres.shared_cluster().until("postgres", f"SELECT 1 WHERE NOT EXISTS ({connected})")
        assert not await one.log.may_live(other.log.node)
        assert await one.log.may_live(one.log.node)
        assert not await one.log.may_live("unknown")
