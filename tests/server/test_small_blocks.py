"""A full disk with blocks of 1 KB, on which SQLite's memory map could kill the server with SIGBUS.

Its -shm had holes there, and no block was left when the first page of a hole was written to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from socketio_eventlog.sqlite.shared_memory import size_for
from socketio_eventlog.sqlite.space import BYTES_PER_APPEND
from support.small_disks import fill, small_disk
from support.visitor import Faulty, make_server, visiting

BLOCK_BYTES = 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Faulty]:
    server = make_server(tmp_path, store={"prune_interval": 0.2})
    with small_disk(server.database.parent, "ext4", 16_000_000, BLOCK_BYTES):
        yield server


async def test_opening_on_a_full_disk_with_small_blocks(server: Faulty, http: aiohttp.ClientSession) -> None:
    """A start gives up the reserve where the blocks that are left are too few for the whole -shm.

    Before a transaction the -shm has blocks for all that the transaction may add to the WAL.
    """
    ballast = server.database.with_name("ballast")
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        await visitor.receive_acknowledged()
        blocks = server.database.with_name("events.db-shm").stat().st_blocks
        assert blocks * 512 >= size_for(BYTES_PER_APPEND // 5000)
        for free_blocks in (8, 20):  # SQLite itself takes 8, and the first commit all 32
            server.terminate()
            fill(ballast)
            os.truncate(ballast, ballast.stat().st_size - free_blocks * BLOCK_BYTES)
            server.start()
            await visitor.take_control()
            assert await visitor.come_back()
            ballast.unlink()
            await visitor.publish_until_success()
            await visitor.receive_acknowledged()
