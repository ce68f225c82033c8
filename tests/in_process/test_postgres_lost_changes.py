"""A database that loses changes which move no offset: a node that had applied them ends the sessions."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from socketio_eventlog.errors import StoreError
from support.embedded import Server, Socket, serving, until
from support.postgres import Cluster, shared_cluster
from support.postgres_nodes import joined_node

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


async def lose(server: Server) -> None:
    """Emit until the server has noticed that an older state is back, and has joined anew."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not server.sio.rejoining.count:
            try:
                await server.sio.emit("later")
            except StoreError:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", ["dump", "data of a dump", "beside another server"])
async def test_lost_changes_end_their_sessions(cluster: Cluster, way: str) -> None:
    """A revoked session stays over, a client that lost its room hears so, and nobody else does."""
    database = cluster.new_database("migrated")
    dump = str(cluster.folder / f"{database}.dump")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(cluster.url(database)))
        if way == "beside another server":  # an idle one, which notices nothing yet: no epoch begins
            await stack.enter_async_context(joined_node(cluster.url(database)))
        known = await sessions(server)
        await asyncio.to_thread(
            cluster.run, "pg_dump", "-Fc", "-f", dump, "-h", str(cluster.folder), "-U", "tests", database
        )
        await change(server, known)
        if way == "dump":
            restore = ("pg_restore", "-h", str(cluster.folder), "-U", "tests", "-d", database)
            await asyncio.to_thread(cluster.run, *restore, "--clean", dump)
        else:
            await asyncio.to_thread(put_rows_back, cluster, database, dump)
        await lose(server)
        assert await recovered(server, known) == {"untouched"}
        assert stored(server, known) == {"untouched"}


async def test_a_new_life_without_loss_ends_nobody(cluster: Cluster) -> None:
    """A node that joins anew, and has lost nothing, ends no session."""
    async with serving(cluster.url(cluster.new_database("migrated"))) as server:
        known = await sessions(server)
        await change(server, known)
        server.sio.rejoining.begin("as if without contact")
        await until(lambda: server.sio.rejoining.count == 1)
        assert stored(server, known) == {"joined", "saved", "of a room", "untouched"}
        assert await recovered(server, known) == {"joined", "saved", "of a room", "untouched"}
