"""Events that are changed or deleted past the server: no client is told that it has recovered them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.clients import Client, NodeClients
from support.embedded import until
from support.processes import ServerProcess
from support.storing import sqlite

pytestmark = pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the sqlite3 program")

DELETE = "DELETE FROM events WHERE event = 'second'"
STATEMENTS = {
    "delete": DELETE,
    "update": "UPDATE events SET payload = '[\"second\",\"other\"]' WHERE event = 'second'",
    "address": "UPDATE events SET rooms = 'no JSON' WHERE event = 'second'",
    "replace": "REPLACE INTO attachments SELECT * FROM attachments",
    "attachment": "DELETE FROM attachments",
    "content": "UPDATE attachments SET content = x'00'",
}
ALTER = pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)


def alter(server: ServerProcess, statement: str) -> None:
    """Run a statement in the sqlite3 program, which waits for the server's transactions."""
    sqlite(server.database, ".timeout 10000", statement)


async def away(node: NodeClients, server: ServerProcess, room: str) -> Client:
    """A client that was in a room and stays away until ``connect``."""
    client = await node.client(server.url, reconnection=False)
    await client.connected()
    await client.call("join", room)
    await client.close()
    return client


async def publish(node: NodeClients, server: ServerProcess) -> None:
    control = await node.control(server.url, reconnection=False)
    for name in ("first", "second", "third"):
        await control.call("publish", {"name": name, "to": "altered", "data": b"bytes"})
    await control.call("publish", {"name": "elsewhere", "to": "other"})
    await control.close()


async def starts_anew(server: ServerProcess, client: Client) -> None:
    """The client gets a new session, and the log says why."""
    before, sid = server.log.count(": incomplete\n"), client.sid
    await client.connect()
    connected = await client.reconnected()
    assert not connected.recovered and connected.sid != sid and not client.events
    assert server.log.count(": incomplete\n") == before + 1


async def recovers(client: Client, *names: str) -> None:
    await client.connect()
    await client.recovered_again()
    await client.until(lambda: len(client.events) >= len(names), f"{len(names)} events")
    assert [event.name for event in client.events] == list(names)


@ALTER
async def test_altered_while_the_server_runs(tmp_path: Path, node: NodeClients, statement: str) -> None:
    """Only sessions that need an event which was changed get a new one."""
    with ServerProcess(tmp_path) as server:
        rooms = ("altered", "other", "altered")
        hit, spared, late = [await away(node, server, room) for room in rooms]
        await publish(node, server)
        alter(server, statement)
        await starts_anew(server, hit)
        await recovers(spared, "elsewhere")
        assert "Another program has changed or deleted events between " in server.log
        server.restart()
        await starts_anew(server, late)


@ALTER
async def test_altered_between_two_starts(tmp_path: Path, node: NodeClients, statement: str) -> None:
    """A change between two starts is noticed; a client that went away later recovers."""
    with ServerProcess(tmp_path) as server:
        hit = await away(node, server, "altered")
        await publish(node, server)
        spared = await away(node, server, "other")
        server.kill()
        alter(server, statement)
        server.start()
        await starts_anew(server, hit)
        server.restart()
        await publish(node, server)
        await recovers(spared, "elsewhere")


@pytest.mark.parametrize("victims", ["= 'second'", "IN ('third', 'elsewhere')"], ids=["middle", "end"])
async def test_deleted_without_the_triggers(tmp_path: Path, node: NodeClients, victims: str) -> None:
    """A program that drops the triggers leaves a hole, which the next start finds, also at the end."""
    with ServerProcess(tmp_path) as server:
        hit = await away(node, server, "altered")
        await publish(node, server)
        spared = await away(node, server, "other")
        server.terminate()
        alter(server, f"DROP TRIGGER events_deleted; DELETE FROM events WHERE event {victims}")
        server.start()
        assert "has lost the events" in server.log
        await starts_anew(server, hit)
        await publish(node, server)
        await recovers(spared, "elsewhere")


async def test_a_replay_that_finds_a_row_gone(tmp_path: Path, node: NodeClients) -> None:
    """A client that needs an event which is gone unnoticed loses its connection, and gets a new session."""
    with ServerProcess(tmp_path) as server:
        hit = await away(node, server, "altered")
        await publish(node, server)
        control = await node.control(server.url)  # events that are in memory are not read again
        for _ in range(3):
            await control.call("publish", {"name": "filler", "data": b"x" * 400_000, "to": "nobody"})
        alter(server, f"DROP TRIGGER events_deleted; {DELETE}")
        await hit.connect()
        await hit.until(lambda: len(hit.disconnects) == 2, "the end of the connection")
        assert "is gone: its row was deleted" in server.log
        hit.events.clear()
        await starts_anew(server, hit)


async def test_pruning_alters_no_event(tmp_path: Path, node: NodeClients) -> None:
    """The server's own pruning notes no range."""
    config = {
        "connection_state_recovery": {"max_disconnection_duration": 0.5},
        "store": {"prune_interval": 0.1},
    }
    with ServerProcess(tmp_path, config) as server:
        await publish(node, server)
        await until(lambda: sqlite(server.database, "SELECT count(*) FROM events") == "0\n")
        assert sqlite(server.database, "SELECT count(*) FROM altered_ranges") == "0\n"


# The WAL --------------------------------------------------------------------------------------------


def delete(wal: Path) -> None:
    wal.unlink()
    wal.with_name(wal.name.replace("-wal", "-shm")).unlink()


def halve(wal: Path) -> None:
    os.truncate(wal, wal.stat().st_size // 2)


def empty(wal: Path) -> None:
    os.truncate(wal, 0)


CUTS = pytest.mark.parametrize("cut", [delete, halve, empty])


async def with_events_in_the_wal(node: NodeClients, server: ServerProcess) -> tuple[Client, Path]:
    """A client that is away; the session is in the database, its missed events in the WAL only."""
    client = await away(node, server, "altered")
    server.terminate()
    server.start()
    await publish(node, server)
    return client, server.database.with_name("events.db-wal")


@CUTS
async def test_wal_that_was_cut_between_two_starts(
    tmp_path: Path, node: NodeClients, cut: Callable[[Path], None]
) -> None:
    """A WAL that was cut or deleted after a crash is noticed at the start."""
    with ServerProcess(tmp_path) as server:
        client, wal = await with_events_in_the_wal(node, server)
        server.kill()
        cut(wal)
        server.start()
        assert "has lost the events" in server.log
        await starts_anew(server, client)
        await publish(node, server)
        assert sqlite(server.database, "PRAGMA integrity_check") == "ok\n"


@CUTS
async def test_wal_that_is_cut_while_the_server_runs(
    tmp_path: Path, node: NodeClients, cut: Callable[[Path], None]
) -> None:
    """A WAL that is cut while the server runs stops the writes; the next start misses the events."""
    with ServerProcess(tmp_path) as server:
        client, wal = await with_events_in_the_wal(node, server)
        cut(wal)
        await until(lambda: "events.db-wal was " in server.log)
        server.kill()
        server.start()
        assert sqlite(server.database, "PRAGMA integrity_check") == "ok\n"
        await starts_anew(server, client)


async def test_wal_that_another_program_ends_is_in_order(tmp_path: Path, node: NodeClients) -> None:
    """A checkpoint by the sqlite3 program empties the WAL, and nothing is lost."""
    with ServerProcess(tmp_path) as server:
        client, wal = await with_events_in_the_wal(node, server)
        sqlite(server.database, "PRAGMA wal_checkpoint(TRUNCATE)")
        await publish(node, server)
        server.kill()
        sqlite(server.database, "SELECT count(*) FROM events")  # the last one to close deletes the WAL
        assert not wal.exists()
        server.start()
        await recovers(client, *("first", "second", "third") * 2)
