"""A database that loses changes which move no offset: a node that had applied them ends the sessions."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from socketio_eventlog.changed_sessions import ChangedSessions
from socketio_eventlog.errors import StoreError, StoreUnavailable
from socketio_eventlog.postgres import log, lost_history, start
from socketio_eventlog.postgres.connection import Connection
from support.embedded import Server, Socket, serving, until
from support.postgres import Cluster, shared_cluster
from support.postgres_nodes import joined_node
from support.storing import event

DEADLINE_SECONDS = 50.0
NAMES = ("joined", "revoked", "saved", "of a room", "of an identity", "untouched")


@pytest.fixture
def cluster() -> Cluster:
    return shared_cluster()


async def sessions(server: Server) -> dict[str, tuple[str, str, str]]:
    """A session for each name, away from now on: its sid, its private id and an offset."""
    clients: dict[str, tuple[Socket, dict[str, Any]]] = {}
    for name in NAMES:
        client = await server.socket()
        clients[name] = client, await client.connect()
    await server.sio.enter_room(clients["of a room"][1]["sid"], "closed")
    await server.sio.bind(clients["of an identity"][1]["sid"], "ann")
    offset = await server.sio.emit("kept")
    for client, _ in clients.values():
        assert await client.event() == ["kept", offset]
        await client.leave()
    registry = server.manager.runtime.registry  # type: ignore[union-attr]
    await until(lambda: all(session.away_since is not None for session in registry))
    return {name: (ids["sid"], ids["pid"], offset) for name, (_, ids) in clients.items()}


async def change(server: Server, known: dict[str, tuple[str, str, str]]) -> None:
    """Change all sessions but one, without an event."""
    await server.sio.enter_room(known["joined"][0], "room")
    await server.sio.revoke(known["revoked"][0])
    await server.sio.save_session(known["saved"][0], {"name": "bob"})
    await server.sio.close_room("closed")
    await server.sio.revoke_identity("ann")


async def recovered(server: Server, known: dict[str, tuple[str, str, str]]) -> set[str]:
    """The names of the sessions that their clients recover."""
    found = set[str]()
    for name, (sid, pid, offset) in known.items():
        client = await server.socket()
        if (await client.connect(auth={"pid": pid, "offset": offset}))["sid"] == sid:
            found.add(name)
    return found


def stored(server: Server, known: dict[str, tuple[str, str, str]]) -> set[str]:
    """The names of the sessions that are not over: one with an identity is not recovered without it."""
    registry = server.manager.runtime.registry  # type: ignore[union-attr]
    return {name for name, (sid, _, _) in known.items() if registry.get("/", sid) is not None}


def put_rows_back(cluster: Cluster, database: str, dump: str) -> None:
    """Put the rows of a dump back at once, between two appends: the tables stay."""
    tables = cluster.sql(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'eventstore'")
    lock = "SELECT pg_advisory_xact_lock(hashtextextended('eventstore', 0))"
    deletes = (f"DELETE FROM eventstore.{table}" for table in tables.split())
    rows = cluster.run("pg_restore", "--data-only", "--disable-triggers", "-f", "-", dump)
    script = cluster.folder / f"{database}.sql"
    script.write_text(";\n".join((lock, *deletes, rows)))
    options = ("-X", "--quiet", "--single-transaction", "--set", "ON_ERROR_STOP=1")
    cluster.run("psql", *options, "-h", str(cluster.folder), "-U", "tests", "-f", str(script), database)


async def lose(server: Server, lives: int = 1) -> None:
    """Emit until the server has noticed that an older state is back, and has joined anew so many times."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while server.sio.rejoining.count < lives:
            try:
                await server.sio.emit("later")
            except StoreError:
                await asyncio.sleep(0.01)


async def dump(cluster: Cluster, database: str) -> str:
    """Dump a database; return the path of the dump."""
    path = str(cluster.folder / f"{database}.dump")
    options = ("-Fc", "-f", path, "-h", str(cluster.folder), "-U", "tests", database)
    await asyncio.to_thread(cluster.run, "pg_dump", *options)
    return path


async def join_anew(server: Server) -> None:
    count = server.sio.rejoining.count
    server.sio.rejoining.begin("as if without contact")
    await until(lambda: server.sio.rejoining.count == count + 1)


@pytest.mark.parametrize("way", ["dump", "data of a dump", "beside another server", "younger than the dump"])
async def test_lost_changes_end_their_sessions(cluster: Cluster, way: str) -> None:
    """A revoked session stays over, a client that lost its room hears so, and nobody else does."""
    database = cluster.new_database("migrated")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(cluster.url(database)))
        if way in ("beside another server", "younger than the dump"):
            # An idle one, which notices nothing yet: no epoch begins.
            await stack.enter_async_context(joined_node(cluster.url(database)))
        known = await sessions(server)
        path = await dump(cluster, database)
        if way == "younger than the dump":  # so that it is no member any more
            await join_anew(server)
        await change(server, known)
        if way == "dump":
            restore = ("pg_restore", "-h", str(cluster.folder), "-U", "tests", "-d", database)
            await asyncio.to_thread(cluster.run, *restore, "--clean", path)
        else:
            await asyncio.to_thread(put_rows_back, cluster, database, path)
        await lose(server, 2 if way == "younger than the dump" else 1)
        assert await recovered(server, known) == {"untouched"}
        assert stored(server, known) == {"untouched"}


async def test_changes_from_before_the_epoch_are_lost(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may append a lot to the older state in the present epoch, before anybody notices."""
    has_gone_on = asyncio.Event()

    async def late(connection: Connection, known: ChangedSessions) -> None:
        await has_gone_on.wait()
        await lost_history.doubt(connection, known)

    for module in (log, start):
        monkeypatch.setattr(module, "doubt", late)
    database = cluster.new_database("migrated")
    url = cluster.url(database)
    async with serving(url) as server, joined_node(url):
        known = await sessions(server)
        path = await dump(cluster, database)
        await change(server, known)
        await asyncio.to_thread(put_rows_back, cluster, database, path)
        async with joined_node(url) as other:
            for _ in range(30):
                await other.commit(event())
            has_gone_on.set()
            await lose(server)
        assert await recovered(server, known) == {"untouched"}
        assert stored(server, known) == {"untouched"}


async def test_an_epoch_begins_despite_a_cut(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The word that history is lost does not arrive when it is; the next life of the server says it again."""
    cuts = list[str]()

    async def cut(connection: Connection, known: ChangedSessions) -> None:
        cuts.append(known.epochs[-1])
        raise StoreUnavailable("the connection is cut")

    monkeypatch.setattr(log, "doubt", cut)
    database = cluster.new_database("migrated")
    async with serving(cluster.url(database)) as server, joined_node(cluster.url(database)):
        known = await sessions(server)
        path = await dump(cluster, database)
        await change(server, known)
        await asyncio.to_thread(put_rows_back, cluster, database, path)
        await lose(server)
        newest = "SELECT epoch FROM eventstore.epochs ORDER BY number DESC LIMIT 1"
        assert cluster.sql(database, newest).strip() not in cuts
        assert cuts
        assert await recovered(server, known) == {"untouched"}


async def test_a_pruned_batch_is_not_lost(cluster: Cluster) -> None:
    """A server whose last batch was pruned while it was frozen lets no epoch begin, and ends no session."""
    database = cluster.new_database("migrated")
    url = cluster.url(database)
    epochs = "SELECT count(*) FROM eventstore.epochs"
    async with serving(url) as server, joined_node(url) as other:
        known = await sessions(server)
        await change(server, known)
        before = cluster.sql(database, epochs)
        server.manager.runtime.log._tail.close()  # type: ignore[union-attr]  # it sees nothing any more
        for _ in range(3):
            await other.commit(event())
        cluster.sql(
            database,
            "DELETE FROM eventstore.batches WHERE batch < (SELECT max(batch) FROM eventstore.batches)",
        )
        await join_anew(server)
        assert cluster.sql(database, epochs) == before
        assert stored(server, known) == {"joined", "saved", "of a room", "untouched"}


async def test_a_new_life_without_loss_ends_nobody(cluster: Cluster) -> None:
    """A node that joins anew, and has lost nothing, ends no session."""
    async with serving(cluster.url(cluster.new_database("migrated"))) as server:
        known = await sessions(server)
        await change(server, known)
        await join_anew(server)
        assert stored(server, known) == {"joined", "saved", "of a room", "untouched"}
        assert await recovered(server, known) == {"joined", "saved", "of a room", "untouched"}
