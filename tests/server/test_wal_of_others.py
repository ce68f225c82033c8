"""What the sqlite3 program does with the WAL of a server under load is no cut, and a cut is one."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from support.storing import sqlite
from support.visitor import Faulty, make_server, visiting

pytestmark = pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the sqlite3 program")

TIMES = 100
CHECKPOINT = "PRAGMA wal_checkpoint(TRUNCATE);"
SCRIPTS = {
    "checkpoint": [CHECKPOINT] * TIMES,
    "vacuum into": [f"VACUUM INTO 'copy-{number}.db';" for number in range(TIMES)],
    "backup": [".backup backup.db"] * TIMES,
    "reader": ["BEGIN; SELECT sum(length(payload)) FROM events; SELECT max(offset) FROM events; COMMIT;"]
    * TIMES,
    "writer": [f"PRAGMA user_version = 7; {CHECKPOINT}"] * TIMES,
}


@pytest.fixture
def server(tmp_path: Path) -> Faulty:
    return make_server(tmp_path)


async def run(server: Faulty, script: Sequence[str]) -> str:
    """Run the first half of a script in one sqlite3 program, and each other line in a program of its own."""
    middle, output = len(script) // 2, ""
    for lines in [script[:middle], *([line] for line in script[middle:])]:
        program = await asyncio.create_subprocess_exec(
            "sqlite3",
            str(server.database),
            cwd=server.folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await program.communicate("\n".join([".timeout 10000", *lines, ""]).encode())
        output += printed.decode()
        assert program.returncode == 0, output
    return output


@pytest.mark.parametrize("names", [*((name,) for name in SCRIPTS), tuple(SCRIPTS)], ids="-".join)
async def test_other_programs_cut_no_wal(
    server: Faulty, http: aiohttp.ClientSession, names: tuple[str, ...]
) -> None:
    """A server under load goes on beside the sqlite3 program, and stops at the first real cut."""
    async with visiting(server, http) as visitor:
        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(run(server, SCRIPTS[name])) for name in names]
            while not all(one.done() for one in runs) or len(visitor.acknowledged) < 100:
                assert await visitor.publish(size=500) is None
        if "checkpoint" in names:
            assert "0|0|0\n" in runs[0].result()  # the WAL was cut by SQLite
        await visitor.heartbeat()
        await visitor.receive_acknowledged()
        assert "events.db-wal" not in server.log
        assert sqlite(server.database, "PRAGMA integrity_check") == "ok\n"
        assert await visitor.publish(size=2_000) is None
        os.truncate(server.wal, 0)  # the second half may be from before the WAL was begun anew
        await visitor.log_says("events.db-wal was cut by another program")
