"""The read of the batches of other nodes on PostgreSQL: its bounds, and the history of its events."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import psycopg
import pytest

from socketio_eventlog.changes import Change
from socketio_eventlog.events import Event
from socketio_eventlog.postgres.tail import FOLLOW
from support import postgres
from support.postgres_nodes import Node, joined_node
from support.storing import event

EVENTS = 8192


def large(**values: Any) -> Event:
    """An event of 1000 bytes, more or less."""
    return event(**values)._replace(payload=json.dumps(["news", "x" * 1000]))


SEVERAL_ROOMS = event(rooms=tuple(f"{number:0100}" for number in range(10)))
BINARY = large(attachments=(b"x",))


@pytest.fixture
def url() -> str:
    return postgres.new_url()


async def read(url: str, node: Node, size_bytes: int) -> tuple[list[int], list[int], bool]:
    """Read as a node that has seen what was there when another one joined.

    Return the numbers of the batches that came, of those whose events came along, and whether there are more.
    """
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        parameters = ("another", node.snapshot.batch, 1, 101, 8_000_000, False, EVENTS, size_bytes)
        rows = await (await connection.execute(FOLLOW, parameters)).fetchall()
    first, *batches, end = rows
    assert (first[0], end[0]) == (node.snapshot.batch, None)
    along = [row[0] for row in batches if row[13] is not None]
    return [row[0] for row in batches], along, end[13] == "more"


@pytest.mark.parametrize(
    "change", [large(), SEVERAL_ROOMS, event(skip=("s" * 1000,))], ids=["payload", "rooms", "skip"]
)
async def test_a_read_is_bounded_in_bytes(url: str, change: Change) -> None:
    """The events of a read have together no more bytes than asked for, rooms and skipped sids included."""
    async with joined_node(url) as one:
        numbers = [(await one.commit(change)).number for _ in range(4)]
        assert await read(url, one, 2600) == (numbers[:2], numbers[:2], True)
        assert await read(url, one, 9000) == (numbers, numbers, False)


@pytest.mark.parametrize("is_plain", [True, False])
async def test_a_batch_beyond_the_bound_comes_alone(url: str, *, is_plain: bool) -> None:
    """A batch whose events are too large, or have attachments, comes without them: they are read in parts."""
    async with joined_node(url) as one:
        numbers = [(await one.commit(large() if is_plain else BINARY)).number for _ in range(3)]
        assert await read(url, one, 500) == (numbers[:1], [], True)


async def test_a_batch_that_is_gone_lifts_no_bound(url: str) -> None:
    """A batch without a row that is left counts as empty, and those after it count as before."""
    async with joined_node(url) as one:
        numbers = [(await one.commit(large())).number for _ in range(5)]
        database = url.partition("@/")[2].partition("?")[0]
        postgres.shared_cluster().sql(database, 'DELETE FROM eventstore.events WHERE "offset" = 1')
        assert await read(url, one, 2600) == (numbers[:3], numbers[1:3], True)


async def test_events_of_another_history_stay_behind(url: str) -> None:
    """An older state of the database comes between the read of a batch and that of its events."""
    cluster, database = postgres.shared_cluster(), url.partition("@/")[2].partition("?")[0]
    async with joined_node(url) as one, await psycopg.AsyncConnection.connect(url) as other:
        batch = await one.commit(event("of this history"))
        await other.execute("LOCK TABLE eventstore.events IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(read(url, one, 9000))
        waits = (
            "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'eventstore.events'::regclass"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        await asyncio.to_thread(cluster.until, database, waits)
        await other.execute("UPDATE eventstore.batches SET chain = sha256(chain)")
        await other.execute("UPDATE eventstore.events SET payload = '[\"of another history\"]'")
        await other.commit()
        assert await reading == ([batch.number], [], False)
