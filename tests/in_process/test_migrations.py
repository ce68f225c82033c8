from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from sqlalchemy import create_engine

from socketio_eventlog.changes import EventHandled, Pruned
from socketio_eventlog.session_changes import SessionBound
from socketio_eventlog.snapshot import Membership
from socketio_eventlog.sqlite.schema import HEAD_REVISION
from socketio_eventstore.program.cli import commands
from support.storing import commit, event, open_and_write, opened, python, sqlite, stored_sessions


def configuration() -> Config:
    config = Config()
    config.set_main_option("script_location", "socketio_eventlog_migrations:sqlite")
    return config


def migrations() -> ScriptDirectory:
    return ScriptDirectory.from_config(configuration())


def test_the_store_knows_the_newest_migration() -> None:
    assert migrations().get_heads() == [HEAD_REVISION]


def test_the_migrations_import_no_server_code() -> None:
    for script in migrations().walk_revisions():
        assert "socketio_eventstore" not in Path(script.path).read_text(encoding="utf-8")


def test_an_up_to_date_database_needs_no_alembic(path: Path) -> None:
    """The opening of a database with the newest schema imports neither alembic nor SQLAlchemy."""
    code = """
import asyncio, sys
from pathlib import Path
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog

async def main():
    log = await EventLog.open(StoreOptions(path=Path(sys.argv[1])))
    await log.close()
    print("alembic" in sys.modules, "sqlalchemy" in sys.modules)

asyncio.run(main())
"""
    outputs = [subprocess.check_output([sys.executable, "-c", code, path], text=True) for _ in range(2)]
    assert outputs == ["True True\n", "False False\n"]


KILLED_AT_STATEMENT = """
import asyncio, os, signal, sys
from pathlib import Path
from socketio_eventlog.sqlite import schema
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog

connect = schema._connect

def watched(path, mode):
    connection = connect(path, mode)
    connection.set_trace_callback(count)
    return connection

def count(statement):
    if statement.startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

schema._connect = watched
asyncio.run(EventLog.open(StoreOptions(path=Path(sys.argv[1]))))
"""


@pytest.mark.parametrize(
    "statement",
    [
        "BEGIN IMMEDIATE",
        "CREATE TABLE events",
        "CREATE TABLE index_lists",
        "PRAGMA application_id =",
        "INSERT INTO alembic_version",
        "COMMIT",
    ],
)
def test_a_kill_during_the_first_migration(path: Path, statement: str) -> None:
    """A kill in the middle of the first migration leaves an empty database."""
    with python(KILLED_AT_STATEMENT, path, statement) as process:
        assert process.wait(timeout=60) == -signal.SIGKILL
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    assert open_and_write(path) == 1


def test_servers_that_start_at_once_migrate_once(path: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
import alembic.command
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    log = await EventLog.open(StoreOptions(path=Path(sys.argv[1])))
    await log.close()
    print(log.node, flush=True)

asyncio.run(main())
"""
    for attempt in range(4):
        database = path.with_name(f"events{attempt}.db")
        processes = [python(code, database, stdin=subprocess.PIPE) for _ in range(2)]
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        outputs = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            outputs.append(output.strip())
        assert sqlite(database, "SELECT boot FROM boots ORDER BY boot").split() == sorted(outputs)
        assert sqlite(database, "SELECT version_num FROM alembic_version") == f"{HEAD_REVISION}\n"


def test_a_start_waits_for_another_migration(path: Path) -> None:
    """A start waits while another process migrates the database."""
    path.touch()
    code = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""
    with python(code, path, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        opening = python(OPENS, path)
        assert opening.stdout is not None and opening.stdout.readline() == "opening\n"
        process.communicate("done\n")
    assert opening.communicate(timeout=60)[0] == "opened\n"
    assert opening.returncode == 0


OPENS = """
import asyncio, sys
from pathlib import Path
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog

async def main():
    print("opening", flush=True)
    log = await EventLog.open(StoreOptions(path=Path(sys.argv[1])))
    await log.close()
    print("opened", flush=True)

asyncio.run(main())
"""


# From one version to the next -----------------------------------------------------------------------

WRITTEN_UNDER_0001 = """
INSERT INTO boots VALUES (1, 'first', 0, 1000.0, 1060.0, 60.0);
INSERT INTO events VALUES
  (1, 1001.0, '/', 'message', NULL, NULL, 19, 0, '["message","to all"]'),
  (2, 1002.0, '/', 'message', '["red",7]', '["s2"]', 21, 0, '["message","to rooms"]'),
  (3, 1003.0, '/', 'file', '["s1"]', NULL, 45, 1, '["file",{"_placeholder":true,"num":0}]');
INSERT INTO attachments VALUES (3, 0, x'0001ff');
INSERT INTO sessions VALUES
  (1, '/', 's1', x'01', 'first', 0, NULL, 1, 1000.0, 1002.0, NULL, NULL, '{"name":"Ann"}'),
  (2, '/', 's2', x'02', 'first', 1, 'older.9', 1, 1001.0, NULL, 1003.0, 30.0, '{}');
INSERT INTO rooms VALUES ('/', 's1', 'red', 1, NULL), ('/', 's1', 7, 0, 2), ('/', 's2', '7', 1, NULL);
UPDATE log_state SET pruned_through = 0;
"""


WRITTEN_UNDER_0003 = """
UPDATE sessions SET identity = 'ann', auth_hash = x'0a', left_by_client = 1 WHERE sid = 's2';
INSERT INTO answers VALUES ('/', 'buy', 'ann', 'key', '[1]', 41.0);
"""

WRITTEN_UNDER_0005 = """
UPDATE sessions SET claim = 3, node = 'first' WHERE sid = 's1';
INSERT INTO positions (uptime, position) VALUES (50.0, 2);
INSERT INTO altered_ranges (namespace, first, last) VALUES ('/', 2, 2);
"""

TABLES = ("boots", "events", "attachments", "sessions", "rooms", "log_state")
Rows = dict[str, list[tuple[object, ...]]]


def upgraded(path: Path, revision: str) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = configuration()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
    assert sqlite(path, "SELECT version_num FROM alembic_version") == f"{revision}\n"


def written_under(path: Path, revision: str, script: str) -> None:
    """Create a database of an earlier version, or upgrade it to one, and write rows."""
    upgraded(path, revision)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)


def written_under_0001(path: Path) -> Rows:
    """Create a database of the first version; return the rows by table."""
    written_under(path, "0001", WRITTEN_UNDER_0001)
    return rows(path)


def rows(path: Path, *more: str) -> Rows:
    with closing(sqlite3.connect(path)) as connection:
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in (*TABLES, *more)}


def assert_kept(before: Rows, after: Rows) -> None:
    for table, kept in before.items():
        width = len(kept[0])  # a new column comes last
        assert [row[:width] for row in after[table]] == kept, table


def test_0002_keeps_every_row_of_0001(path: Path) -> None:
    """The migrations 0002 and 0003 keep every row written under 0001."""
    before = written_under_0001(path)
    upgraded(path, "0003")
    after = rows(path)
    assert_kept(before, after)
    # No session was bound to an identity, has a hash of credentials, or was left by its client.
    assert {row[-3:] for row in after["sessions"]} == {(None, None, 0)}
    assert sqlite(path, "SELECT count(*) FROM answers") == "0\n"
    assert sqlite(path, "PRAGMA integrity_check") == "ok\n"


def test_migrate_makes_a_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``migrate`` keeps a checked copy of the former state, named by its revision, when there is one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text('[connection_state_recovery]\n[store]\npath = "events.db"\n')
    path, backup = tmp_path / "events.db", tmp_path / "events.db-0003"
    written_under_0001(path)
    written_under(path, "0003", WRITTEN_UNDER_0003)
    before = rows(path, "answers")
    done = CliRunner().invoke(commands, ["migrate"])
    assert done.output == f"{backup} is a backup of the former state\n{path} has this version's schema\n"
    assert rows(backup, "answers") == before
    assert sqlite(path, "SELECT version_num FROM alembic_version") == f"{HEAD_REVISION}\n"
    done = CliRunner().invoke(commands, ["migrate"])
    assert done.output == f"{path} has this version's schema\n"
    done = CliRunner().invoke(commands, ["restore", str(backup)])
    assert "note: The schema has revision 0003" in done.output and rows(path, "answers") == before
    done = CliRunner().invoke(commands, ["stats"])
    assert done.exit_code == 2 and "run migrate, which makes a backup of a file first" in done.output
    done = CliRunner().invoke(commands, ["migrate", "--json"])
    assert json.loads(done.stdout) == {"database": str(path), "backup": str(backup)}


def test_the_newest_keeps_every_row_of_0003(path: Path) -> None:
    """The migrations from 0004 on keep every row written under 0003."""
    written_under_0001(path)
    written_under(path, "0003", WRITTEN_UNDER_0003)
    before = rows(path, "answers")
    upgraded(path, HEAD_REVISION)
    after = rows(path, "answers")
    assert_kept(before, after)
    # Every session was claimed once, no client has it or has shown a token; no boot has written a heartbeat.
    assert {row[-4:] for row in after["sessions"]} == {(1, None, None, None)}
    assert {row[-3:] for row in after["boots"]} == {(0, 0, None)}
    assert sqlite(path, "SELECT count(*) FROM positions") == "0\n"
    # Earlier versions did not record unused sequences: no hole in their events is a loss.
    assert sqlite(path, "SELECT first, last FROM unused_ranges") == "1|3\n"
    assert sqlite(path, "SELECT count(*) FROM publications") == "0\n"
    assert sqlite(path, "SELECT count(*) FROM session_timelines") == "0\n"
    assert sqlite(path, "PRAGMA integrity_check") == "ok\n"


def test_0006_keeps_every_row_of_0005(path: Path) -> None:
    """The migration 0006 keeps every row written under 0005."""
    written_under_0001(path)
    written_under(path, "0003", WRITTEN_UNDER_0003)
    written_under(path, "0005", WRITTEN_UNDER_0005)
    more = ("answers", "positions", "altered_ranges", "unused_ranges")
    before = rows(path, *more)
    upgraded(path, "0006")
    assert rows(path, *more) == before
    assert sqlite(path, "SELECT count(*) FROM publications") == "0\n"
    assert sqlite(path, "PRAGMA integrity_check") == "ok\n"


SEGMENTS_OF_0005 = """
WITH RECURSIVE numbers(number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM numbers WHERE number < 4096)
INSERT INTO index_generations SELECT number, zeroblob(16384) FROM numbers;
INSERT INTO index_lists VALUES (1, '["/","a"]', x'0300', 7), (4096, '["/","a"]', x'0500', 7);
UPDATE log_state SET head = 16781312;
INSERT INTO events VALUES (16781312, 1001.0, '/', 'message', NULL, NULL, 19, 0, '["message","to all"]');
"""


async def test_0007_keeps_the_segments_of_0005(path: Path) -> None:
    """The keys of the segments become offsets, though the key of one was the offset of another."""
    written_under(path, "0005", SEGMENTS_OF_0005)
    async with opened(path, index_memory=100_000) as log:
        found = await log.missed("/", [Membership("a", 0, None)], 0, log.head)
        assert found.sequences == (4096 + 3, 4096 * 4096 + 5)
        await commit(log, [Pruned(4096 + 3)])
        assert sqlite(path, "SELECT min(generation) FROM index_generations") == "4096\n"


async def test_a_database_of_0001_opens(path: Path) -> None:
    """A database of 0001 opens with its events and sessions, and accepts new events."""
    written_under_0001(path)
    async with opened(path) as log:
        snapshot = await log.join()
        assert (log.head, snapshot.uptime, snapshot.positions) == (3, 60.0, ())
        assert [logged.event.attachments for logged in await log.read([1, 2, 3])] == [(), (), (b"\0\1\xff",)]
        first, second = snapshot.sessions
        assert (first.sid, first.data, first.away_since, first.identity) == (
            "s1",
            '{"name":"Ann"}',
            60.0,  # away since the last sign of life of its server
            None,
        )
        assert {(stored.claim, stored.node) for stored in (first, second)} == {(1, None)}
        disconnected_at = "SELECT disconnected_at FROM sessions ORDER BY number"
        assert sqlite(path, disconnected_at) == "1060.0\n1003.0\n"
        assert set(first.memberships) == {Membership("red", 1, None), Membership(7, 0, 2)}
        assert (second.former_offset, second.away_since) == ("older.9", 30.0)
        assert second.memberships == (Membership("7", 1, None),)
        assert log.locate("first.3").sequence == 3 and str(log.offset_of(3)) == "first.3"
        assert (await log.missed("/", list(first.memberships), 0, 3)).sequences == (2,)
        answered = EventHandled("/", "buy", "ann", "key", "[1]")
        assert await commit(log, [SessionBound("/", "s1", "ann"), answered, event()]) == [3, 3, 4]
        assert await log.acknowledgement("/", "buy", "ann", "key") == "[1]"
    async with opened(path) as log:
        assert [stored.identity for stored in await stored_sessions(log)] == ["ann", None]


def test_a_kill_during_0002_leaves_0001(path: Path) -> None:
    """A kill in the middle of 0002 leaves the schema and rows of 0001."""
    before = written_under_0001(path)
    for statement in (
        "ALTER TABLE sessions",
        "CREATE INDEX answers_answered",
        "UPDATE alembic_version",
        "COMMIT",
    ):
        with python(KILLED_AT_STATEMENT, path, statement) as process:
            assert process.wait(timeout=60) == -signal.SIGKILL
        assert rows(path) == before
        assert sqlite(path, "SELECT version_num FROM alembic_version") == "0001\n"
    assert open_and_write(path) == 4
