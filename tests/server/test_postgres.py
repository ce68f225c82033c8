"""The promises to clients hold for a server whose log is in PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from socketio_eventstore.program.cli import commands
from support.clients import NodeClients, sequence_of
from support.postgres import Cluster
from support.processes import ServerProcess

ROUNDS = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of this file's own, for it is made to crash."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def database(cluster: Cluster) -> str:
    return cluster.new_database()


@pytest.fixture
def server(cluster: Cluster, database: str, tmp_path: Path) -> Iterator[ServerProcess]:
    store = {"path": "data/events.db", "url": cluster.url(database)}
    with ServerProcess(tmp_path, {"store": store}) as server:
        yield server


@pytest.mark.timeout(600)
async def test_crashes_of_both_lose_no_event(
    server: ServerProcess, cluster: Cluster, database: str, node: NodeClients
) -> None:
    """Kills of the server and of a process of PostgreSQL lose no event, and every client recovers."""
    transports = (("websocket",), ("polling",), ("polling", "websocket"))
    clients = [await node.client(server.url, transports=names) for names in transports]
    for client in clients:
        await client.connected()
        await client.call("join", "room")
    publisher = await node.control(server.url)
    await publisher.pump("publish", {"name": "numbered", "to": "room"}, window=8)
    for number in range(ROUNDS):
        await publisher.has_acknowledged(len(publisher.acknowledged) + 30)
        if number % 2:
            await asyncio.to_thread(cluster.kill_a_backend, database)
        else:
            await asyncio.to_thread(server.kill)
            for client in (*clients, publisher):
                await client.gone()
            await asyncio.to_thread(server.start)
            for client in (*clients, publisher):
                await client.connected()
    await publisher.has_acknowledged(len(publisher.acknowledged) + 30)
    await publisher.stop()
    last = await publisher.call("publish", {"name": "last", "to": "room"})
    for client in clients:
        assert (await client.received("last"))[0].offset == last
        first, *later = client.connects
        assert len(later) == ROUNDS // 2
        assert all(again.recovered and again.sid == first.sid for again in later), client.story()
    everything = [
        [(sequence_of(event.offset), event.data[0]["number"]) for event in client.by_name["numbered"]]
        for client in clients
    ]
    logged = cluster.sql(
        database,
        "SELECT \"offset\", payload::json -> 1 -> 'number' FROM eventstore.events"
        " WHERE event = 'numbered' ORDER BY \"offset\"",
    )
    stored = [tuple(map(int, line.split("|"))) for line in logged.splitlines()]
    assert everything == [stored] * len(clients)
    acknowledged = {(sequence_of(offset), number) for number, offset in publisher.acknowledged.items()}
    assert acknowledged <= set(stored)
    assert len({number for _, number in stored}) == len(stored), "an event was stored twice"
    epochs = cluster.sql(database, "SELECT count(*) FROM eventstore.epochs")
    assert int(epochs) == 1 + ROUNDS, "each crash of either begins an epoch"


async def test_people_read_the_views(
    server: ServerProcess, cluster: Cluster, database: str, node: NodeClients
) -> None:
    """The views in psql read like those in the sqlite3 program."""
    control = await node.control(server.url)
    client = await node.client(server.url, reconnection=False)
    sid = (await client.connected()).sid
    await client.call("join", "kitchen")
    await client.call("save", {"name": "Ann"})
    await control.call("publish", {"name": "plain", "args": ["text", {"number": 1}]})
    offset = await control.call("publish", {"name": "binary", "data": b"\x00", "to": ["kitchen", "hall"]})

    rows = cluster.sql(database, "SELECT row_to_json(e) FROM eventstore.recent_events AS e").splitlines()
    newest, *_, oldest = map(json.loads, rows)
    assert list(newest) == ["time", "offset", "namespace", "event", "payload", "rooms", "binary_bytes"]
    assert (oldest["event"], oldest["payload"]) == ("plain", '["plain","text",{"number":1}]')
    assert (newest["event"], newest["rooms"], newest["offset"]) == ("binary", "kitchen, hall", offset)
    assert newest["time"].endswith("Z") and newest["time"] >= oldest["time"]

    query = f"SELECT row_to_json(s) FROM eventstore.current_sessions AS s WHERE sid = '{sid}'"
    session = json.loads(cluster.sql(database, query))
    assert (session["state"], session["rooms"]) == ("connected", "kitchen")
    assert json.loads(session["data"]) == {"name": "Ann"}
    assert "private" not in server.log and client.pid not in cluster.sql(
        database, "SELECT * FROM eventstore.sessions"
    )


def test_commands_need_no_server(cluster: Cluster, tmp_path: Path) -> None:
    """A command joins the log as one more node; one about a file names pg_dump, and never the password."""
    name = cluster.new_database()
    url = cluster.url(name).replace("tests@", "tests:secret@")
    config = tmp_path / "config.toml"
    config.write_text(f'[store]\nurl = "{url}"\n[connection_state_recovery]\n')

    def run(*command: str) -> tuple[int, str]:
        done = CliRunner().invoke(commands, [*command, "--config", str(config)])
        assert "secret" not in done.output and "Traceback" not in done.output, done.output
        return done.exit_code, done.output

    code, text = run("events")
    assert code == 2 and f"{name} on {cluster.folder} has no log yet: a start of a server, or migrate" in text
    assert "has this version's schema" in run("migrate")[1]
    assert run("check-config")[0] == 0
    begin = f"the log is in PostgreSQL, {name} on {cluster.folder}, and this command is about a file: "
    code, text = run("backup", "a copy")
    dump = f"pg_dump --format=custom --schema=eventstore --file='a copy' {name} makes a backup"
    assert code == 2 and f"{begin}{dump}" in text
    code, text = run("restore", "a copy")
    assert code == 2 and f"pg_restore --exit-on-error --single-transaction --dbname={name} 'a copy'" in text
    offset = run("emit", "personal", "Ann")[1].strip()
    assert run("redact", offset, "[1]") == (0, f"the event at offset {offset} is 'redacted' now\n")
    (event,) = run("events", "--json")[1].splitlines()
    assert (json.loads(event)["event"], json.loads(event)["args"]) == ("redacted", [[1]])
    assert run("prune")[1] == "0 events were deleted; the log is pruned up to number 0\n"
    code, text = run("compact")
    assert code == 2 and "VACUUM FULL" in text
    assert json.loads(run("stats", "--json")[1])["head_offset"].endswith(".1")
    cluster.sql(name, "UPDATE eventstore.alembic_version SET version_num = '9999'")
    assert "newer revision 9999; this version knows" in run("migrate")[1]
    assert json.loads(run("stats", "--json")[1])["head_offset"].endswith(".1")
    cluster.sql(name, "UPDATE eventstore.log_state SET min_reader = 2")
    for command in "stats", "migrate":
        code, text = run(command)
        assert code == 2 and "has format 2; this program knows 1: upgrade it" in text


async def test_two_servers_share_a_database(
    cluster: Cluster, database: str, tmp_path: Path, node: NodeClients
) -> None:
    """An emit reaches the clients of both servers, and a client recovers on the other server."""
    store = {"store": {"path": "data/events.db", "url": cluster.url(database)}}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with ServerProcess(tmp_path / "two", store) as two:
        with ServerProcess(tmp_path / "one", store) as one:
            publishers = [await node.control(server.url) for server in (one, two)]
            here, there = [await node.client(server.url, reconnection=False) for server in (one, two)]
            first = await here.connected()
            await there.connected()
            for client in (here, there):
                await client.call("join", "room")
            for publisher in publishers:
                await publisher.call("publish", {"name": "seen", "to": "room"})
            seen = [await client.received("seen", 2) for client in (here, there)]
            assert [event.offset for event in seen[0]] == [event.offset for event in seen[1]]
            kept = {"pid": first.pid, "offset": await here.last_offset()}
            await here.cut()
            await publishers[0].call("publish", {"name": "missed", "to": "room"})
            # The last change of this server is in the log when its stop has ended.
            one.terminate()
        last = await publishers[1].call("publish", {"name": "missed", "to": "room"})
        returned = await node.client(two.url, auth=kept)
        assert (await returned.connected()).sid == first.sid
        missed = await returned.received("missed", 2)
        assert missed[1].offset == last
        assert [event.name for event in returned.events] == ["missed", "missed"]
        nodes = cluster.sql(database, "SELECT count(*) FROM eventstore.nodes")
        assert nodes == "1\n", "the server that stopped has left"
