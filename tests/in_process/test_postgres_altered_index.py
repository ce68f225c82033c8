"""Changes of the index on PostgreSQL by other programs, and the server's own deletions."""

from __future__ import annotations

import pytest

from socketio_eventlog.changes import Pruned
from socketio_eventlog.postgres.log import PostgresLog
from socketio_eventlog.segment import SEGMENT_LENGTH
from socketio_eventlog.snapshot import Membership
from support.postgres import shared_cluster
from support.postgres_nodes import joined_node
from support.storing import event

LISTS, SEGMENTS = "eventstore.index_lists", "eventstore.index_segments"
RANGES = "SELECT first, last, audience_lost FROM eventstore.altered_ranges ORDER BY number"
STATEMENTS = (
    f"DELETE FROM {LISTS}",
    f'DELETE FROM {LISTS} WHERE audience = \'["/","a"]\'',
    f"UPDATE {LISTS} SET offsets = substr(offsets, 1, 10)",
    f'UPDATE {LISTS} SET audience = \'["/","c"]\' WHERE audience = \'["/","a"]\'',
    f"TRUNCATE {LISTS}",
    f"DELETE FROM {SEGMENTS}",
    f"UPDATE {SEGMENTS} SET segment = 1",
    f"TRUNCATE {SEGMENTS}",
)


async def is_incomplete(log: PostgresLog, after: int = 0) -> bool:
    memberships = [Membership("a", 0, None)]
    summary = await log.summarise_missed(
        "/", memberships, after, log.head, max_events=10_000, max_bytes=10_000_000
    )
    return summary.is_incomplete


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_changes_of_the_index_are_noticed(statement: str) -> None:
    """Without a list or a segment, clients of the room would miss events, now and after a restart."""
    cluster = shared_cluster()
    database = cluster.new_database("migrated")
    url = cluster.url(database)
    async with joined_node(url, index_memory=1) as node:
        await node.commit(*[event(rooms=(room,)) for room in "ab" * (SEGMENT_LENGTH // 2)])
        await node.commit(event(rooms=("a",)), event(rooms=("a",)))
        await node.commit(event(rooms=("a",)))
        assert cluster.sql(database, f"SELECT count(*) FROM {LISTS}") == "2\n"
        assert cluster.sql(database, f"SELECT segment, length FROM {SEGMENTS}") == f"0|{SEGMENT_LENGTH}\n"
        assert not await is_incomplete(node.log)
        cluster.sql(database, statement)
        await node.commit(event(rooms=("a",)))
        assert await is_incomplete(node.log)
        is_known = "TRUNCATE" not in statement
        assert await is_incomplete(node.log, after=SEGMENT_LENGTH) is not is_known
    async with joined_node(url, index_memory=1) as node:
        assert await is_incomplete(node.log)


async def test_an_unfinished_list_is_noticed() -> None:
    """A node completes a segment whose first lists another program has deleted meanwhile."""
    cluster = shared_cluster()
    database = cluster.new_database("migrated")
    async with joined_node(cluster.url(database), index_memory=1) as node:
        await node.commit(*[event(rooms=(f"{n}",)) for n in range(SEGMENT_LENGTH)])
        await node.commit(event(rooms=("a",)))
        while cluster.sql(database, f"SELECT count(*) FROM {LISTS}") == "0\n":
            await node.commit(event(rooms=("a",)))
        assert cluster.sql(database, f"SELECT count(*) FROM {SEGMENTS}") == "0\n"
        cluster.sql(database, f"DELETE FROM {LISTS}")
    assert cluster.sql(database, RANGES) == f"0|{SEGMENT_LENGTH - 1}|t\n"


async def test_the_server_deletes_its_index() -> None:
    """Pruning and the deletion of unfinished lists at a start are no changes of another program.

    A statement for each list of a segment leaves a single note; one for a made-up segment leaves none.
    """
    cluster = shared_cluster()
    database = cluster.new_database("migrated")
    url = cluster.url(database)
    count = f"SELECT count(*) FROM {LISTS}"
    async with joined_node(url) as node:
        for _ in range(2):
            await node.commit(*[event(rooms=(room,)) for room in "ab" * (SEGMENT_LENGTH // 2)])
        for _ in range(3):
            await node.commit(event(rooms=("a",)))
        assert cluster.sql(database, count) == "4\n"
        await node.commit(Pruned(SEGMENT_LENGTH - 1))
        assert cluster.sql(database, count) == "2\n"
    cluster.sql(database, f"INSERT INTO {LISTS} VALUES ({SEGMENT_LENGTH}, '[\"/\",\"d\"]', '', 0, 100)")
    async with joined_node(url) as node:
        assert cluster.sql(database, count) == "2\n"
        assert cluster.sql(database, RANGES) == ""
        assert not await is_incomplete(node.log)
        for audience in "ab":
            cluster.sql(database, f'DELETE FROM {LISTS} WHERE audience = \'["/","{audience}"]\'')
        cluster.sql(database, f"UPDATE {SEGMENTS} SET segment = 999999")
    assert cluster.sql(database, RANGES) == f"{SEGMENT_LENGTH}|{2 * SEGMENT_LENGTH - 1}|t\n"
