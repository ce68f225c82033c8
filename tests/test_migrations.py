from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from storing import event, opened, python, sqlite

from socketio_eventstore.store.errors import DatabaseTooNew, StoreNotUsable
from socketio_eventstore.store.schema import HEAD_REVISION


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def open_and_write(path: Path) -> int:
    """The number of the event that it wrote."""

    async def commit() -> int:
        async with opened(path) as log:
            return (await log.commit([event()]))[0]

    return asyncio.run(commit())


def refusal(path: Path, error: type[StoreNotUsable] = StoreNotUsable) -> str:
    """The text with which the database is refused; it has one line and names the path."""
    with pytest.raises(StoreNotUsable) as refused:
        open_and_write(path)
    assert type(refused.value) is error
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def migrations() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", "socketio_eventstore:migrations")
    return ScriptDirectory.from_config(config)


def test_the_store_knows_the_newest_migration() -> None:
    assert migrations().get_heads() == [HEAD_REVISION]


def test_the_migrations_import_nothing_of_ours() -> None:
    for script in migrations().walk_revisions():
        assert "socketio_eventstore" not in Path(script.path).read_text(encoding="utf-8")


def test_opening_a_database_that_is_up_to_date_imports_no_alembic(path: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from socketio_eventstore.store.log import EventLog

async def main():
    log = await EventLog.open(Path(sys.argv[1]))
    await log.close()
    print("alembic" in sys.modules, "sqlalchemy" in sys.modules)

asyncio.run(main())
"""
    outputs = [subprocess.check_output([sys.executable, "-c", code, path], text=True) for _ in range(2)]
    assert outputs == ["True True\n", "False False\n"]


KILLED_AT_STATEMENT = """
import asyncio, os, signal, sys
from pathlib import Path
from socketio_eventstore.store import schema
from socketio_eventstore.store.log import EventLog

connect = schema._connect

def watched(path, mode):
    connection = connect(path, mode)
    connection.set_trace_callback(count)
    return connection

def count(statement):
    if statement.startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

schema._connect = watched
asyncio.run(EventLog.open(Path(sys.argv[1])))
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
def test_a_kill_in_the_middle_of_a_migration_leaves_nothing_of_it(path: Path, statement: str) -> None:
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
from socketio_eventstore.store.log import EventLog

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    log = await EventLog.open(Path(sys.argv[1]))
    await log.close()
    print(log.boot, flush=True)

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


def test_a_start_waits_for_the_migration_of_another_process(path: Path) -> None:
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
from socketio_eventstore.store.log import EventLog

async def main():
    print("opening", flush=True)
    log = await EventLog.open(Path(sys.argv[1]))
    await log.close()
    print("opened", flush=True)

asyncio.run(main())
"""


def test_a_database_of_a_newer_program_is_refused_and_left_as_it_is(path: Path) -> None:
    open_and_write(path)
    sqlite(path, "UPDATE alembic_version SET version_num = '0999'")
    assert "0999" in refusal(path, DatabaseTooNew)
    assert sqlite(path, "SELECT count(*) FROM boots") == "1\n"


@pytest.mark.parametrize("table", ["notes (text)", "alembic_version (version_num)", "events (offset)"])
def test_a_database_of_another_program_is_refused_and_left_as_it_is(path: Path, table: str) -> None:
    sqlite(path, f"CREATE TABLE {table}")
    before = path.read_bytes()
    assert "another program" in refusal(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["events.db"]


@pytest.mark.parametrize("content", [b"Dear diary, today I met a database." * 100, b"{}", os.urandom(4096)])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "not a database" in refusal(path)
    assert path.read_bytes() == content


def test_a_folder_is_refused(path: Path) -> None:
    path.mkdir()
    assert "directory" in refusal(path)


def test_a_path_below_a_file_is_refused(path: Path) -> None:
    path.touch()
    assert f"File exists: '{path}'" in refusal(path / "events.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(path: Path) -> None:
    path.touch(mode=0)
    refusal(path)


def test_an_empty_file_becomes_a_database(path: Path) -> None:
    path.touch()
    assert open_and_write(path) == 1


def test_a_path_with_characters_that_mean_something_to_sqlite_is_taken_literally(
    tmp_path: Path,
) -> None:
    for name in ("a?mode=memory", "50%25.db", ":memory:", "ä #1.db", "file:x.db"):
        open_and_write(tmp_path / name)
        assert (tmp_path / name).is_file()
