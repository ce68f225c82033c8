"""Migrations of a PostgreSQL database keep the rows of the version before."""

from __future__ import annotations

import pytest

from socketio_eventlog.events import Offset
from socketio_eventlog.postgres import connection, schema
from socketio_eventlog.snapshot import Membership
from support.postgres import Cluster, shared_cluster
from support.storing import opened_postgres

ROWS_OF_0006 = (
    """
    INSERT INTO eventstore.batches
    VALUES (1, 'old', 'old', 0, '', 'c1', 0, 0, 1000, 0, '[]', '{}'),
           (2, 'old', 'old', 1, 'b', 'c2', 0, 2, 1001, 1.5, '[["opened",0,[]]]', '{}')
    """,
    """
    INSERT INTO eventstore.events VALUES
      (1, 1001, '/', 'message', '["a"]', NULL, 11, 0, '["message"]'),
      (2, 1001, '/', 'message', NULL, NULL, 11, 0, '["message"]')
    """,
    """
    INSERT INTO eventstore.epochs (epoch, began_after, began_in, began_at, fingerprint)
    VALUES ('old', 0, 1, 1000, 'f')
    """,
    "INSERT INTO eventstore.canary VALUES ('old')",
    """
    INSERT INTO eventstore.nodes (node, address, alive_at, uptime, applied, floor)
    VALUES ('old', 'somewhere', 1001, 1.5, 2, 0)
    """,
    """
    INSERT INTO eventstore.sessions
      (namespace, sid, pid_hash, start_epoch, start_offset, confirmed, opened_at, data, claimed_in, node)
    VALUES ('/', 's1', 'h', 'old', 0, 0, 1000, '{}', 2, 'old')
    """,
    "INSERT INTO eventstore.rooms VALUES ('/', 's1', '\"a\"', 0, NULL)",
    "INSERT INTO eventstore.index_segments VALUES (0, decode('000000000b000000', 'hex'))",
    """
    INSERT INTO eventstore.index_lists
    VALUES (0, '["/","a"]', decode('0100', 'hex'), 11), (2, '["/","unfinished"]', decode('0000', 'hex'), 11)
    """,
)

_ENDED_ONCE = """
DO $$
BEGIN
  CREATE SCHEMA IF NOT EXISTS eventstore;
  IF nextval('public.tries') = 1 THEN
    RAISE EXCEPTION 'deadlock detected' USING ERRCODE = 'deadlock_detected';
  END IF;
END
$$
"""


def migrate(cluster: Cluster, database: str) -> None:
    schema.prepare(connection.connection_string(cluster.url(database)), database)


def migrate_to_0006(cluster: Cluster, database: str) -> None:
    from alembic import command

    upgrade = command.upgrade
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _head: upgrade(config, "0006"))
        patch.setattr(schema, "HEAD_REVISION", "0006")
        migrate(cluster, database)


async def test_many_nodes_keep_every_row_of_one_node() -> None:
    """Sessions, events and the index of the only node from before are there, and the node is gone."""
    cluster = shared_cluster()
    database = cluster.new_database()
    migrate_to_0006(cluster, database)
    cluster.sql(database, *ROWS_OF_0006)
    migrate(cluster, database)
    lists = cluster.sql(database, "SELECT segment, length, audience FROM eventstore.index_lists")
    assert lists == '0|2|["/","a"]\n', "the unfinished list is made anew"
    async with opened_postgres(cluster.url(database)) as log:
        snapshot = await log.join()
        (found,) = snapshot.sessions
        assert (found.start, found.node, found.away_since) == (Offset("old", 0), None, 1.5)
        assert found.memberships == (Membership("a", 0, None),)
        assert [node.node for node in snapshot.nodes] == [log.node]
        assert str(log.locate("old.2")) == "old.2"
        assert (await log.missed("/", found.memberships, 0, log.head)).sequences == (1,)
        assert [logged.sequence for logged in await log.read([1, 2])] == [1, 2]


async def test_a_deadlock_is_no_end_of_a_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL ends a migration that waits for another node while that waits for it: the next try works."""
    monkeypatch.setattr(schema, "LOCK_PAUSE_SECONDS", 0.0)
    cluster = shared_cluster()
    database = cluster.new_database()
    cluster.sql(database, "CREATE SEQUENCE public.tries")
    monkeypatch.setattr(schema, "_CREATE", _ENDED_ONCE)
    migrate(cluster, database)
    assert (
        cluster.sql(database, "SELECT version_num FROM eventstore.alembic_version")
        == f"{schema.HEAD_REVISION}\n"
    )
    assert cluster.sql(database, "SELECT last_value FROM public.tries") == "2\n"
