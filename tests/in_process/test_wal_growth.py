"""A WAL that grows behind a long reader is reported once, with the reader."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from socketio_eventlog.sqlite import wal
from socketio_eventstore.core import health
from support.embedded import serving, until

READS = """
import sqlite3, sys

connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM events").fetchone()
print("reading", flush=True)
sys.stdin.read()
"""


def truncates(database: Path) -> bool:
    """Checkpoint; return whether nobody was in the way."""
    with closing(sqlite3.connect(database)) as connection:
        (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return bool(is_busy == 0)


async def said(caplog: pytest.LogCaptureFixture, beginning: str) -> str:
    """Wait for a line of the log."""
    await until(lambda: any(line.startswith(beginning) for line in caplog.messages))
    return next(line for line in caplog.messages if line.startswith(beginning))


async def test_long_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the process that reads, and one line says when the WAL is small again."""
    monkeypatch.setattr(health, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(wal, "WARNING_BYTES", 10_000_000)
    database, pipe = tmp_path / "events.db", asyncio.subprocess.PIPE
    async with serving(database) as server:
        await server.sio.emit("first")
        command = (sys.executable, "-c", READS, str(database))
        reader = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        assert reader.stdin is not None and reader.stdout is not None
        assert await reader.stdout.readline() == b"reading\n"
        for _ in range(12):
            await server.sio.emit("large", "x" * 1_000_000)
        line = await said(caplog, f"The WAL of {database} has grown to 1")
        if wal.LOCKS.exists():
            assert f"Processes with a lock: {reader.pid} (python" in line
        reader.stdin.close()
        await reader.wait()
        await until(lambda: truncates(database))
        await said(caplog, "Ended after 1 times: The WAL of ")
        assert len([line for line in caplog.messages if "The WAL of" in line]) == 2
