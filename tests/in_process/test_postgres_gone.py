"""Events on PostgreSQL that are gone or changed, on several nodes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from socketio_eventlog.altered import AlteredRange
from socketio_eventlog.errors import HistoryLost
from socketio_eventlog.events import Event
from socketio_eventlog.postgres import events, tail
from socketio_eventlog.postgres.connection import Connection
from support import postgres
from support.postgres_nodes import joined_node
from support.storing import event


def cluster_sql(url: str, statement: str) -> None:
    """Run a statement in the database of a URL."""
    postgres.shared_cluster().sql(url.partition("@/")[2].partition("?")[0], statement)


IN_A_ROW = event("with attachments, so the events of its batch are read as rows", attachments=(b"x",))


@pytest.fixture
def url() -> str:
    return postgres.new_url()


async def test_another_node_learns_what_is_gone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that has not found an event tells the others, which read its part of the index."""

    async def deleted_before(connection: Connection, *arguments: Any) -> tuple[dict[int, Event], int]:
        await connection.execute("SET session_replication_role = replica")  # as at the loss of a file
        await connection.execute('DELETE FROM eventstore.events WHERE "offset" = 1')
        await connection.execute("RESET session_replication_role")
        return await events.read_ranges(connection, *arguments)

    async with joined_node(url) as one, joined_node(url) as other:
        monkeypatch.setattr(tail, "read_ranges", deleted_before)
        await other.until((await one.commit(event("gone", rooms=("a",)), IN_A_ROW)).number)
        await one.commit(event("kept"))
        assert list(one.log._altered) == [AlteredRange(None, 1, 1, is_audience_lost=True)]


async def test_a_lost_audience_reaches_all_nodes(url: str) -> None:
    """A start that does not know for whom altered events were says so to the others."""
    async with joined_node(url) as one:
        await one.commit(event(rooms=("a",)))
        cluster_sql(url, "UPDATE eventstore.events SET payload = '[]'")
        await one.commit(event())
        assert {known.is_audience_lost for known in one.log._altered} == {False}
        async with joined_node(url):
            await one.commit(event())
            assert {known.is_audience_lost for known in one.log._altered} == {True}


async def test_a_page_of_another_history_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another state of the database may come between the batches and their events."""

    async def replaced_before(connection: Connection, *arguments: Any) -> tuple[dict[int, Event], int]:
        await connection.execute("UPDATE eventstore.batches SET chain = 'another'")
        return await events.read_ranges(connection, *arguments)

    async with joined_node(url) as one, joined_node(url) as other:
        monkeypatch.setattr(tail, "read_ranges", replaced_before)
        appending = one.log.append([IN_A_ROW])
        with pytest.raises(HistoryLost):
            async for _ in other.log.batches():
                pass
        await asyncio.gather(appending, return_exceptions=True)  # it may notice, too
