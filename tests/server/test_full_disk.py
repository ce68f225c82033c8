"""A disk that is full, on ext4 and tmpfs: by the log itself, and by other files.

Emits fail with a clear error and nothing that was acknowledged is lost. Sessions go on, the server starts
again, and it goes on by itself when there is room.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.processes import DEADLINE
from support.small_disks import KINDS, fill, small_disk
from support.steered_clocks import REAL, SteeredServer
from support.visitor import Faulty, Visitor, is_closed_without_a_packet, make, visiting

MEGABYTE = 1_000_000
AWAY_SECONDS = 3.0
"""How long a client may be away, and so how long an event stays at least."""
LINES_AT_THE_BEGINNING = 5
"""One each of the store, the heartbeat, the pruning, a handler and a connection."""


class FaultyAndSteered(Faulty, SteeredServer):
    """A server on a small disk, whose uptime stands still while its client is away."""


@pytest.fixture(params=KINDS)
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FaultyAndSteered]:
    """A server whose database is on a disk of its own."""
    server = make(
        FaultyAndSteered,
        tmp_path,
        connection_state_recovery={"max_disconnection_duration": AWAY_SECONDS},
        # A full disk overrules it.
        store={"prune_interval": 0.2, "retention": 3600.0},
    )
    server.set_speed(REAL)
    with small_disk(server.database.parent, request.param, 16 * MEGABYTE):
        yield server


def reserve(server: FaultyAndSteered) -> Path:
    return server.database.with_name("events.db-reserve")


def ballast(server: FaultyAndSteered) -> Path:
    return server.database.with_name("ballast")


async def readiness(visitor: Visitor, http: aiohttp.ClientSession) -> tuple[int, str]:
    async with http.get(f"{visitor.server.url}/readyz") as response:
        return response.status, await response.text()


async def is_ready(visitor: Visitor, http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(DEADLINE):
        while (await readiness(visitor, http))[0] != 200:
            await visitor.heartbeat()


async def fill_by_emits(visitor: Visitor, size: int = 20_000) -> str:
    """Emit until an emit fails; return its error. The client reads, as a client does."""
    for _ in range(5000):
        if (error := await visitor.publish(size)) is not None:
            return error
        await visitor.receive_acknowledged()
    raise AssertionError("the disk was never full")


async def fill_until_unready(visitor: Visitor, http: aiohttp.ClientSession) -> str:
    """Emit until an emit fails and, before a pruning has made room, the probe says so; return its text."""
    async with asyncio.timeout(DEADLINE):
        while True:
            assert "The disk of" in await fill_by_emits(visitor)
            status, text = await readiness(visitor, http)
            if status == 503:
                return text


async def test_log_fills_its_disk(server: FaultyAndSteered, http: aiohttp.ClientSession) -> None:
    """Emits fail, sessions go on, and old events go until emits succeed again."""
    async with visiting(server, http) as visitor:
        for _ in range(3):
            assert f"The disk of {server.database} is full" in await fill_until_unready(visitor, http)
            with server.time_stands_still():
                await visitor.client.leave()
                assert await visitor.come_back()
            await visitor.publish_until_success()
            await visitor.receive_acknowledged()
        await is_ready(visitor, http)
        assert "Traceback" not in server.log
        assert len(server.lines) < 30
        assert is_healthy(server)


async def test_starts_on_the_disk_that_the_log_filled(
    server: FaultyAndSteered, http: aiohttp.ClientSession
) -> None:
    """A kill on the full disk loses nothing, and the next server goes on by itself."""
    async with visiting(server, http) as visitor:
        assert "The disk of" in await fill_by_emits(visitor)
        with server.time_stands_still():
            await visitor.leave()
            server.restart()
            await visitor.take_control()
            assert await visitor.come_back()
        await visitor.publish_until_success()
        await visitor.receive_acknowledged()
        await is_ready(visitor, http)
        assert is_healthy(server)


async def test_disk_filled_by_another_file(server: FaultyAndSteered, http: aiohttp.ClientSession) -> None:
    """The reserve serves the sessions; when the file goes, the server goes on and makes a reserve again."""
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        assert reserve(server).exists()
        fill(ballast(server))
        assert "The disk of" in await fill_by_emits(visitor)
        assert not reserve(server).exists()
        with server.time_stands_still():
            await visitor.client.leave()
            assert await visitor.come_back()
        ballast(server).unlink()
        await visitor.publish_until_success()
        await visitor.receive_acknowledged()
        await is_ready(visitor, http)
        assert reserve(server).exists()


async def test_starts_with_the_reserve(server: FaultyAndSteered, http: aiohttp.ClientSession) -> None:
    """On a disk without a free block the start gives up the reserve, after a kill and after a clean stop."""
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        await visitor.receive_acknowledged()
        for stop in (server.kill, server.terminate):
            with server.time_stands_still():
                stop()
                fill(ballast(server))
                server.start()
                await visitor.take_control()
                assert await visitor.come_back()
            assert "The disk of" in await fill_by_emits(visitor)
            assert not reserve(server).exists()
            ballast(server).unlink()
            await visitor.publish_until_success()
            await visitor.receive_acknowledged()
            await is_ready(visitor, http)
            assert reserve(server).exists()


async def test_start_without_reserve_says_the_bytes(server: FaultyAndSteered) -> None:
    """Without a reserve a start on a full disk fails with one line: how many bytes must be freed."""
    with server:
        server.terminate()
    reserve(server).unlink()
    fill(ballast(server))
    said = await asyncio.to_thread(server.refusal)
    assert f"The disk of {server.database} is full: " in said
    assert "bytes must be freed by hand" in said
    ballast(server).unlink()
    server.start()
    server.terminate()


async def test_start_where_no_block_is_freed(server: FaultyAndSteered) -> None:
    """Where a snapshot keeps the blocks of the reserve, the start says how many bytes must be freed.

    A second name of the file stands for the snapshot.
    """
    with server:
        server.terminate()
    snapshot = server.database.with_name("snapshot")
    snapshot.hardlink_to(reserve(server))
    fill(ballast(server))
    said = await asyncio.to_thread(server.refusal)
    assert "bytes must be freed by hand" in said
    ballast(server).unlink()
    server.start()
    server.terminate()


async def test_used_reserve_says_the_bytes(server: FaultyAndSteered, http: aiohttp.ClientSession) -> None:
    """When nothing can be written any more, the log and the probe say how many bytes must be freed.

    The reserve is used up, and a reader keeps the WAL from being written from the start again.
    """
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        with closing(sqlite3.connect(server.database, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            fill(ballast(server))
            assert "The disk of" in await fill_by_emits(visitor)
            fill(ballast(server))
            await visitor.log_says("bytes must be freed by hand")
            status, text = await readiness(visitor, http)
            assert status == 503 and "bytes must be freed by hand" in text
            await is_closed_without_a_packet(visitor)
            said = [line for line in server.lines if "must be freed by hand" in line]
            assert len(said) <= LINES_AT_THE_BEGINNING
        ballast(server).unlink()
        await visitor.publish_until_success()
        await visitor.receive_acknowledged()
        await is_ready(visitor, http)


def is_healthy(server: FaultyAndSteered) -> bool:
    with closing(sqlite3.connect(server.database)) as connection:
        result: tuple[Any, ...] = connection.execute("PRAGMA integrity_check").fetchone()
    return result == ("ok",)
