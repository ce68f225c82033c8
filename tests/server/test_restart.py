"""The promises to clients hold for servers that are killed, restarted, or given an older database."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.clients import Client, Connected, NodeClients, sequence_of
from support.processes import ServerProcess
from support.steered_clocks import REAL, STILL, SteeredServer
from support.storing import put_back

ROUNDS = 20
ROOM = "room of all five"


def sqlite3_program(database: Path, query: str) -> list[dict[str, Any]]:
    """The rows of a query with the sqlite3 program."""
    if shutil.which("sqlite3") is None:
        pytest.skip("the sqlite3 program is not installed")
    command = ("sqlite3", "-json", str(database), query)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return rows


async def five_clients(node: NodeClients, url: str) -> list[Client]:
    """Five clients on all transports, which join one room once."""
    transports = [("websocket",), ("websocket",), ("polling",), ("polling", "websocket"), ("websocket",)]
    clients = [await node.client(url, transports=names) for names in transports]
    for number, client in enumerate(clients):
        await client.connected()
        await client.call("join", ROOM)
        await client.call("save", {"number": number})
    return clients


def check_deliveries(clients: list[Client], publisher: Client) -> list[tuple[int, int]]:
    """Returns the events that all clients received: pairs of sequence and publisher's number."""
    everything = [
        [(sequence_of(event.offset), event.data[0]["number"]) for event in client.by_name["numbered"]]
        for client in clients
    ]
    received = everything[0]
    sequences, numbers = [sequence for sequence, _ in received], [number for _, number in received]
    assert all(other == received for other in everything), "the clients received different things"
    assert sequences == sorted(set(sequences)), "offsets were repeated or came out of order"
    # The publisher sends in the order of its numbers, each at most once.
    assert numbers == sorted(set(numbers)), "events were repeated or came out of order"
    acknowledged = {(sequence_of(offset), number) for number, offset in publisher.acknowledged.items()}
    # Events that were stored and not acknowledged at a crash may be there as well.
    assert acknowledged <= set(received), f"missing: {sorted(acknowledged - set(received))[:10]}"
    return received


@pytest.mark.timeout(600)
async def test_twenty_crashes_lose_and_repeat_no_event(tmp_path: Path, node: NodeClients) -> None:
    """Twenty crashes lose no event and repeat no event."""
    seed = int(os.environ.get("RESTART_SEED") or random.randrange(2**32))
    print(f"RESTART_SEED={seed}")
    chance = random.Random(seed)
    # No event is pruned meanwhile, so the log can be compared with what the clients received.
    config = {"connection_state_recovery": {"max_disconnection_duration": 600.0}}
    with ServerProcess(tmp_path, config) as server:
        clients = await five_clients(node, server.url)
        publisher = await node.control(server.url)
        await publisher.pump("publish", {"name": "numbered", "to": ROOM}, window=16)
        for _ in range(ROUNDS):
            if chance.random() < 0.75:  # otherwise it is killed while some clients reconnect
                for client in clients:
                    await client.connected()
            await publisher.has_acknowledged(len(publisher.acknowledged) + chance.randrange(300))
            await asyncio.to_thread(server.kill)
            for client in (*clients, publisher):
                await client.gone()
            await asyncio.to_thread(server.start)
        for client in (*clients, publisher):
            await client.connected()
        await publisher.has_acknowledged(len(publisher.acknowledged) + 100)
        await publisher.stop()
        last = await publisher.call("publish", {"name": "last", "to": ROOM})

        for number, client in enumerate(clients):
            assert (await client.received("last"))[0].offset == last
            first, *later = client.connects
            assert all(again.recovered and again.sid == first.sid for again in later), client.story()
            assert await client.call("rooms") == sorted([first.sid, ROOM])
            assert await client.call("load") == {"number": number}
        received = check_deliveries(clients, publisher)
        print(f"{len(received)} events, {len(publisher.acknowledged)} of them acknowledged")

        logged = sqlite3_program(
            server.database, "SELECT offset, payload FROM events WHERE event = 'numbered'"
        )
        assert [(row["offset"], json.loads(row["payload"])[1]["number"]) for row in logged] == received
        epochs = sqlite3_program(server.database, "SELECT boot FROM boots")
        assert len(epochs) == len({row["boot"] for row in epochs}) == ROUNDS + 1


async def test_database_is_readable_while_the_server_runs(tmp_path: Path, node: NodeClients) -> None:
    """The sqlite3 program can read the database while the server runs."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False)
        sid = (await client.connected()).sid
        await client.call("join", "kitchen")
        await client.call("save", {"name": "Ann"})
        await control.call("publish", {"name": "plain", "args": ["text", {"number": 1}]})
        offset = await control.call("publish", {"name": "binary", "data": b"\x00", "to": ["kitchen", "hall"]})

        newest, *_, oldest = sqlite3_program(server.database, "SELECT * FROM recent_events")
        assert (oldest["event"], oldest["payload"]) == ("plain", '["plain","text",{"number":1}]')
        assert (newest["event"], newest["rooms"], newest["offset"]) == ("binary", "kitchen, hall", offset)
        assert time.strptime(newest["time"], "%Y-%m-%dT%H:%M:%S.%fZ").tm_year >= 2024

        def session() -> dict[str, Any]:
            query = f"SELECT * FROM current_sessions WHERE namespace = '/' AND sid = '{sid}'"
            (row,) = sqlite3_program(server.database, query)
            return row

        assert (session()["state"], session()["rooms"]) == ("connected", "kitchen")
        assert json.loads(session()["data"]) == {"name": "Ann"}
        await client.cut()
        server.terminate()
        assert session()["state"] == "away"

        kept = b"".join(file.read_bytes() for file in server.database.parent.iterdir())
        assert sid.encode() in kept and client.pid.encode() not in kept, "the private id must not be readable"


async def test_clients_recover_after_a_graceful_restart(tmp_path: Path, node: NodeClients) -> None:
    """All clients recover after a graceful restart."""
    with ServerProcess(tmp_path) as server:
        clients = await five_clients(node, server.url)
        publisher = await node.control(server.url)
        await publisher.pump("publish", {"name": "numbered", "to": ROOM}, window=16)
        await publisher.has_acknowledged(100)
        await asyncio.to_thread(server.terminate)
        for client in (*clients, publisher):
            await client.gone()
        await asyncio.to_thread(server.start)
        for client in (*clients, publisher):
            await client.recovered_again()
        await publisher.has_acknowledged(len(publisher.acknowledged) + 100)
        await publisher.stop()
        await publisher.call("publish", {"name": "last", "to": ROOM})
        for client in clients:
            await client.received("last")
        check_deliveries(clients, publisher)


async def test_long_downtime_expires_no_session(tmp_path: Path, node: NodeClients) -> None:
    """A downtime longer than the disconnection duration expires no session."""
    duration = 4.0
    config = {"connection_state_recovery": {"max_disconnection_duration": duration}}
    with SteeredServer(tmp_path, config, speed=REAL) as server:
        control = await node.control(server.url)
        away = await node.client(server.url, reconnection=False)
        open_at_crash = await node.client(server.url)
        await away.connected()
        await open_at_crash.connected()
        # A long connection does not shorten the time in which a client may return.
        await control.pump("publish", {"name": "traffic", "namespace": "/other"}, window=1)
        over = time.monotonic() + duration + 0.5
        await control.until(lambda: time.monotonic() > over, "a long connection")
        await control.stop()
        server.set_speed(STILL)  # from now on, the downtime alone could expire a session
        await away.cut()
        await control.call("publish", {"name": "missed"})
        await open_at_crash.received("missed")
        server.kill()
        await open_at_crash.gone()

        # The client retries all the time, and every failed attempt checks the time.
        over = time.monotonic() + duration + 1
        await open_at_crash.until(lambda: time.monotonic() > over, "a long downtime")
        await asyncio.to_thread(server.start)
        await away.connect()
        await away.recovered_again()
        await open_at_crash.recovered_again()
        await away.received("missed")
        await control.reconnected()
        await control.call("publish", {"name": "end"})
        for client in (away, open_at_crash):
            await client.received("end")
            assert [event.name for event in client.events] == ["missed", "end"]


async def test_sessions_expire_after_a_crash(tmp_path: Path, node: NodeClients) -> None:
    """Sessions whose clients do not return after a crash expire and are reported once."""
    with SteeredServer(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False)
        first = await client.connected()
        server.kill()
        await client.gone()
        await control.gone()
        await asyncio.to_thread(server.start)
        await control.recovered_again()
        with server.time_passes():
            (expired,) = await control.received("session_expired")
        assert expired.data == [first.sid]
        await client.connect()
        again = await client.reconnected()
        assert not again.recovered and again.sid != first.sid

        # The handler was called once; the next start does not call it again.
        await asyncio.to_thread(server.restart)
        await control.recovered_again()
        await client.gone()
        await client.connect()
        await client.recovered_again()
        assert await control.call("seen", {"sid": first.sid}) == []


@pytest.mark.parametrize("restarted", [False, True], ids=["same start", "later start"])
async def test_an_older_copy_of_the_database_is_recognised(
    tmp_path: Path, node: NodeClients, restarted: bool
) -> None:
    copy = tmp_path / "copy.db"
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url, reconnection=False)
        client = await node.client(server.url, reconnection=False)
        quiet = await node.client(server.url, "/other", reconnection=False)
        first, first_quiet = await client.connected(), await quiet.connected()
        await control.call("publish", {"name": "before"})
        await client.received("before")
        with closing(sqlite3.connect(server.database)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)

        async def come_back() -> tuple[Connected, Connected]:
            await asyncio.to_thread(server.start)
            for one in (control, client, quiet):
                await one.gone()
                await one.connect()
            await control.reconnected()
            return await client.reconnected(), await quiet.reconnected()

        if restarted:
            server.terminate()
            again, _ = await come_back()
            assert again.recovered
        lost = [await control.call("publish", {"name": "lost future"}) for _ in range(5)]
        await client.received("lost future", 5)
        server.terminate()
        put_back(copy, server.database)

        again, again_quiet = await come_back()
        # This client received events that the log does not have, so it must not be recovered.
        assert not again.recovered and again.sid != first.sid
        # The other client received no event of the lost future.
        assert again_quiet.recovered and again_quiet.sid == first_quiet.sid
        offset = await control.call("publish", {"name": "another future"})
        assert offset not in lost
        (event,) = await client.received("another future")
        assert event.offset == offset
        await client.cut()
        await client.connect()
        await client.recovered_again()
