"""Programs that interfere with the database, handlers that fail: each tried for real.

In every case the server reports the fault, serves the reads that are possible, loses no acknowledged
event, sends no DISCONNECT, and recovers by itself when the cause is removed.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from support.processes import DEADLINE
from support.storing import opened, python, stored_sessions
from support.visitor import (
    Faulty,
    Visitor,
    is_closed_without_a_packet,
    leaves_a_healthy_database,
    make_server,
    visiting,
)


@pytest.fixture
def server(tmp_path: Path) -> Faulty:
    return make_server(tmp_path)


# Other programs -------------------------------------------------------------------------------------


async def test_emits_wait_for_a_foreign_writer(server: Faulty, http: aiohttp.ClientSession) -> None:
    """Emits wait for a foreign writer, and all events arrive in order."""
    async with visiting(server, http) as visitor:
        with closing(sqlite3.connect(server.database, isolation_level=None)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
            for number in range(1, 31):
                await visitor.control.send(f'42/control,{number}["publish",{number}]')
            await visitor.log_says("Trying again")
            foreign.execute("ROLLBACK")
        for number in range(1, 31):
            answer = await visitor.control.packet()
            assert isinstance(answer, str) and answer.startswith(f'43/control,{number}[{{"offset":')
            visitor.acknowledged.append(number)
        visitor._number = 30
        await visitor.receive_acknowledged()
        await leaves_a_healthy_database(server, visitor)


async def test_client_recovers_from_a_locked_database(server: Faulty, http: aiohttp.ClientSession) -> None:
    """A client that disconnects and reconnects while the database is locked is recovered."""
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        await visitor.receive_acknowledged()
        with closing(sqlite3.connect(server.database, isolation_level=None)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
            await visitor.client.leave()
            coming = asyncio.create_task(visitor.come_back())
            await visitor.log_says("Trying again")
            foreign.execute("ROLLBACK")
        assert await coming
        assert await visitor.publish() is None
        await visitor.receive_acknowledged()


async def test_deleted_database_stops_acknowledgements(server: Faulty, http: aiohttp.ClientSession) -> None:
    """A server whose database is deleted reports it and acknowledges no more emits."""
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        for file in server.database.parent.iterdir():
            file.unlink()
        await visitor.log_says("was deleted or replaced while the server was running")
        error = await visitor.publish()
        assert error is not None and "deleted or replaced" in error and str(server.database) in error
        await is_closed_without_a_packet(visitor)
        await asyncio.to_thread(server.restart)
        await visitor.take_control()
        assert not await visitor.come_back()  # the new database has another history
        await visitor.publish_until_success()


async def test_vacuum_of_another_program_under_load(server: Faulty, http: aiohttp.ClientSession) -> None:
    """A VACUUM of another program under load loses no event."""
    async with visiting(server, http) as visitor:
        program = python(VACUUMS, server.database)
        while program.poll() is None or len(visitor.acknowledged) < 100:
            assert await visitor.publish(size=1_000) is None
        assert program.communicate()[0] == "" and program.returncode == 0
        await visitor.receive_acknowledged()
        await leaves_a_healthy_database(server, visitor)


VACUUMS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for _ in range(10):
    connection.execute("VACUUM")
"""


async def test_wal_is_cut_after_a_foreign_reader(server: Faulty, http: aiohttp.ClientSession) -> None:
    """The WAL grows during a foreign read transaction and is cut after it."""
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        with closing(sqlite3.connect(server.database, isolation_level=None)) as foreign:
            foreign.execute("BEGIN")
            assert foreign.execute("SELECT count(*) FROM events").fetchone() == (1,)
            for _ in range(20):
                assert await visitor.publish(size=900_000) is None
                await visitor.receive_acknowledged()
            grown = server.wal.stat().st_size
            assert grown > 15_000_000
            assert foreign.execute("SELECT count(*) FROM events").fetchone() == (1,)
            foreign.execute("COMMIT")
        for _ in range(10):
            assert await visitor.publish(size=900_000) is None
            await visitor.receive_acknowledged()
        assert server.wal.stat().st_size <= 8_000_000


async def test_backup_has_all_acknowledged_events(
    server: Faulty, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A backup of a running server has all events that were acknowledged before it."""
    backup = tmp_path / "backup.db"
    async with visiting(server, http) as visitor:
        for _ in range(20):
            assert await visitor.publish() is None
        await visitor.receive_acknowledged()
        taken = len(visitor.acknowledged)
        program = python(BACKS_UP, server.database, backup)
        while program.poll() is None:
            assert await visitor.publish() is None
        assert program.communicate()[0] == "" and program.returncode == 0
        offset = visitor.offset
        await visitor.receive_acknowledged()
    assert offset is not None
    async with opened(backup) as log:
        assert log.locate(offset).sequence == taken
        assert log.head >= taken and len(await log.read(range(1, log.head + 1))) == log.head
        assert [row.namespace for row in await stored_sessions(log)].count("/") == 1


BACKS_UP = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("VACUUM INTO ?", (sys.argv[2],))
"""


# Faults of the application --------------------------------------------------------------------------


async def test_expired_session_is_not_recovered_later(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """An expired session is not recovered later without the pruned events.

    The handler of session_expired fails, so the end of the session is not stored; the events are pruned.
    """
    server = make_server(tmp_path, connection_state_recovery={"max_disconnection_duration": 0.5})
    visitor = Visitor(server, http)
    server.start()
    try:
        await visitor.arrive()
        assert await visitor.publish() is None
        await visitor.receive_acknowledged()
        await asyncio.to_thread(server.restart)  # a crash leaves the session open
        await visitor.take_control()
        assert await visitor.publish() is None
        await visitor.log_says("has expired but could not be ended")
        with closing(sqlite3.connect(server.database)) as connection:
            query = "SELECT pruned_through FROM log_state"
            async with asyncio.timeout(DEADLINE):
                while connection.execute(query).fetchone() != (2,):
                    # Events are pruned when the heartbeats of the other clients have confirmed them.
                    assert await visitor.control.raw_packet() == "2"
                    await visitor.control.send("3")
        await asyncio.to_thread(server.restart)
        assert not await visitor.come_back(), "recovered, although the second event is gone"
    finally:
        server.kill()
