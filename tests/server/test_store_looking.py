"""Queries of people with the sqlite3 program, during and after the run of a server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from socketio_eventlog.changes import Pruned
from socketio_eventlog.events import Room
from socketio_eventlog.session_changes import DataSaved, SessionAway, SessionBound
from support.new_databases import create_database
from support.storing import BEAT, Clock, commit, event, joined, left, opened, python, session, sqlite

pytestmark = pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the sqlite3 program")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "events.db"


async def test_the_view_recent_events(path: Path) -> None:
    async with opened(path, new_epoch=lambda: "first") as log:
        await commit(
            log,
            [event("one", emitted_at=0.5), event("two", rooms=("lobby", 42), attachments=(b"12", b"345"))],
        )
    async with opened(path, new_epoch=lambda: "second") as log:
        await commit(log, [event("three", namespace="/admin")])
        assert sqlite(path, "SELECT * FROM recent_events").splitlines() == [
            '1970-01-01T00:16:40.000Z|second.3|/admin|message|["message","three"]|(everyone)|',
            '1970-01-01T00:16:40.000Z|first.2|/|message|["message","two"]|lobby, 42|5',
            '1970-01-01T00:00:00.500Z|first.1|/|message|["message","one"]|(everyone)|',
        ]


async def test_the_view_current_sessions(path: Path) -> None:
    async with opened(path) as log:
        await commit(log, [session("s1"), joined("a"), joined(42), joined("gone"), event(), left("gone")])
        await commit(log, [session("s2"), DataSaved("/", "s2", '{"name":"Ann"}')])
        await commit(log, [SessionAway("/", "s2", claim=1, disconnected_at=2_000.0, confirmed=0)])
        columns = "sid, namespace, state, rooms, opened, disconnected, data"
        assert sqlite(path, f"SELECT {columns} FROM current_sessions").splitlines() == [
            's2|/|away||1970-01-01T00:16:40.000Z|1970-01-01T00:33:20.000Z|{"name":"Ann"}',
            "s1|/|connected|42, a|1970-01-01T00:16:40.000Z||{}",
        ]


async def test_sessions_that_wait(path: Path) -> None:
    """The view has who a session belongs to, how long it still waits, and how many events wait for it."""
    clock = Clock()
    async with opened(path, monotonic=clock, max_disconnection_seconds=60.0) as log:
        await commit(log, [session("s1"), joined("a"), joined("gone"), SessionBound("/", "s1", "Ann"), BEAT])
        await commit(log, [session("s2"), event("received")])
        await commit(log, [SessionAway("/", "s1", claim=1, disconnected_at=2_000.0, confirmed=1)])
        addressed: list[tuple[Room, ...] | None] = [("a", "b"), None, ("s1",), ("gone",), ("b",)]
        await commit(log, [event(rooms=rooms) for rooms in addressed])
        await commit(log, [left("gone"), event(rooms=("gone",)), event(skip=("s1",))])
        await commit(log, [event(namespace="/other")])
        clock.now += 3.5  # a step of the uptime counts at most two heartbeats
        await commit(log, [BEAT])
        columns = "sid, identity, remaining_seconds"
        current = sqlite(path, f"SELECT {columns} FROM current_sessions").splitlines()
        assert current == ["s2||", "s1|Ann|56"]
        assert sqlite(path, "SELECT * FROM waiting_sessions") == "s1|/|Ann|56|4|8\n"


async def test_foreign_keys(path: Path) -> None:
    """Tools see which rows belong together; the tables are sound, and nothing is enforced."""
    async with opened(path) as log:
        await commit(log, [session("s1"), joined("a"), event(attachments=(b"1",))])
        await commit(log, [Pruned(1)])
        tables = 'SELECT m.name, f."table" FROM sqlite_master AS m, pragma_foreign_key_list(m.name) AS f'
        assert set(sqlite(path, tables).split()) == {"attachments|events", "rooms|sessions", "sessions|boots"}
        assert sqlite(path, "PRAGMA integrity_check", "PRAGMA foreign_key_check") == "ok\n"


def test_metadata_for_datasette(path: Path) -> None:
    """docs/datasette.json names every table and view, columns that are there, and hides the internal ones."""
    create_database(path)
    file = Path(__file__).parents[2] / "docs" / "datasette.json"
    described = json.loads(file.read_text())["databases"]["events"]["tables"]
    names = sqlite(path, "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')").split()
    assert described.keys() == set(names)
    for name, one in described.items():
        columns = sqlite(path, f"SELECT name FROM pragma_table_info('{name}')").split()
        named = {*one.get("columns", ()), *filter(None, [one.get("sort_desc"), one.get("label_column")])}
        assert named <= set(columns), name
        assert one.keys() == {"hidden"} or one["description"]


async def test_the_json_columns_work_with_the_json_functions(path: Path) -> None:
    async with opened(path) as log:
        await commit(log, [session(), event("hi", rooms=("a", 7)), DataSaved("/", "s1", '{"user":{"id":3}}')])
        assert sqlite(path, "SELECT payload ->> 1, json_extract(rooms, '$[1]') FROM events") == "hi|7\n"
        assert sqlite(path, "SELECT data ->> '$.user.id' FROM sessions") == "3\n"
        rooms = "SELECT offset FROM events WHERE EXISTS (SELECT 1 FROM json_each(rooms) WHERE value = 'a')"
        assert sqlite(path, rooms) == "1\n"


@pytest.mark.parametrize(
    "view", ["recent_events", "current_sessions", "session_timelines", "waiting_sessions"]
)
async def test_a_limited_query_reads_no_whole_table(path: Path, view: str) -> None:
    """A query of a view with a limit neither sorts nor reads the whole table."""
    async with opened(path):
        pass
    plan = sqlite(path, f"EXPLAIN QUERY PLAN SELECT * FROM {view} LIMIT 20")
    assert "TEMP B-TREE" not in plan
    assert "MATERIALIZE" not in plan


async def test_the_schema_explains_every_column(path: Path) -> None:
    async with opened(path):
        pass
    schema = sqlite(path, ".schema")
    assert "The log: every stored event" in schema
    tables = sqlite(path, "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'alembic_version'")
    for table in tables.split():
        statement = sqlite(path, f"SELECT sql FROM sqlite_master WHERE name = '{table}'")
        assert "\n  -- " in statement, f"{table} is not explained"
        assert "STRICT" in statement


async def test_only_the_owner_can_read_the_files(path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(path) as log:
            await commit(log, [event()])
            names = ["events.db", "events.db-lock", "events.db-reserve", "events.db-shm", "events.db-wal"]
            assert sorted(file.name for file in path.parent.iterdir()) == names
            assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    finally:
        os.umask(before)


async def test_close_leaves_a_single_file(path: Path) -> None:
    """After a close the database is a single file, which can be copied; the reserve is empty."""
    async with opened(path) as log:
        await commit(log, [event()])
    assert sorted(file.name for file in path.parent.iterdir()) == ["events.db", "events.db-reserve"]


async def test_constant_queries_disturb_no_commit(path: Path) -> None:
    async with opened(path) as log:
        await commit(log, [event()] * 100)
        query = "SELECT count(*) AS events, max(time) FROM recent_events;\n"
        reader = await asyncio.create_subprocess_exec(
            "sqlite3", "-json", str(path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        reading = asyncio.ensure_future(reader.communicate(query.encode() * 200))
        while not reading.done():
            await commit(log, [event()] * 10)
            await commit(log, [Pruned(log.head - 100)])
        output, _ = await reading
        assert reader.returncode == 0
        seen = [json.loads(line.strip("[], ")) for line in output.decode().splitlines() if line.strip()]
        assert len(seen) == 200


async def test_an_unfinished_query_blocks_no_commit(path: Path) -> None:
    """An unfinished query of another program blocks neither commits nor the close."""
    code = """
import sqlite3, sys
rows = sqlite3.connect(sys.argv[1]).execute("SELECT * FROM events")
print(next(rows)[0], flush=True)
sys.stdin.read()
"""
    async with opened(path) as log:
        await commit(log, [event("x" * 1000)] * 500)
        with python(code, path, stdin=-1) as process:
            assert process.stdout is not None and process.stdin is not None
            assert process.stdout.readline() == "1\n"
            for _ in range(10):
                await commit(log, [event("x" * 1000)] * 500)
            await commit(log, [Pruned(1000)])
            await log.close()
            process.stdin.close()
    async with opened(path) as log:
        assert (log.head, log.pruned_through) == (5500, 1000)
