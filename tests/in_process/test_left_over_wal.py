"""A copy that is put back beside the WAL of a killed server is noticed; a right WAL never is refused."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from socketio_eventlog.errors import NothingChanged, StoreNotUsable
from socketio_eventlog.sqlite.lock import Lock
from socketio_eventlog.sqlite.restore import restore
from support.storing import open_and_write, python, sqlite

KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog
from support.storing import commit, event

async def main():
    log = await EventLog.open(StoreOptions(path=Path(sys.argv[1])))
    await commit(log, [event("before")])
    print("copy", flush=True)
    sys.stdin.readline()
    for _ in range(int(sys.argv[2])):
        await commit(log, [event("x" * 1000)] * 100)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder / "events.db"


def killed(path: Path, copy: str = "", commits: int = 30) -> Path:
    """A server is killed; returns the copy that the sqlite3 program made of its database before."""
    backup = path.parent.parent / "copy.db"
    environment = Path(__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(environment)!r})\n{KILLED}"
    with python(code, path, str(commits), stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "copy\n"
        if copy:
            sqlite(path, copy.format(backup))
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.wait(60) == -signal.SIGKILL
    assert path.with_name("events.db-wal").stat().st_size > 0
    return backup


def over(copy: Path, database: Path) -> None:
    """Like ``cp``: the content changes, the file stays."""
    database.write_bytes(copy.read_bytes())


def into_place(copy: Path, database: Path) -> None:
    """Like ``mv``: another file."""
    copy.replace(database)


def refused(path: Path) -> None:
    """Every start is refused with the line that says what to delete; afterwards the copy opens."""
    for _ in range(2):
        with pytest.raises(StoreNotUsable, match=r"events.db-wal is still there: delete .*events.db-wal and"):
            open_and_write(path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    open_and_write(path)
    assert sqlite(path, "PRAGMA integrity_check") == "ok\n"


@pytest.mark.parametrize("put_back", [over, into_place])
@pytest.mark.parametrize("commits", [1, 30])
def test_vacuumed_copy_is_noticed(path: Path, put_back: Callable[[Path, Path], None], commits: int) -> None:
    """A copy by ``VACUUM INTO`` of the same life of the server is noticed."""
    put_back(killed(path, "VACUUM INTO '{}'", commits), path)
    refused(path)


@pytest.mark.parametrize("commits", [1, 30])
def test_backup_that_was_moved_is_noticed(path: Path, commits: int) -> None:
    """A copy by ``.backup`` that replaces the file is noticed."""
    into_place(killed(path, ".backup {}", commits), path)
    refused(path)


def test_backup_of_an_earlier_life_is_noticed(path: Path) -> None:
    """A copy from before the start of the killed server is noticed, also when the file stayed."""
    open_and_write(path)
    earlier = path.parent.parent / "earlier.db"
    shutil.copy(path, earlier)
    killed(path)
    over(earlier, path)
    refused(path)


def test_wal_of_a_killed_server_is_used(path: Path) -> None:
    """The right WAL is used, after one kill and after several."""
    for _ in range(3):
        killed(path, commits=12)
    assert open_and_write(path) == 3 * 1201 + 1


def test_copied_folder_is_used(path: Path) -> None:
    """A copy of all files after a crash is in order, although every file is another one."""
    killed(path)
    elsewhere = path.parent.parent / "elsewhere"
    shutil.copytree(path.parent, elsewhere)
    shutil.rmtree(path.parent)
    assert open_and_write(elsewhere / "events.db") == 3002


def test_wal_without_note_is_used(path: Path) -> None:
    """Without the lock file the WAL is used: its deletion would lose commits."""
    killed(path)
    path.with_name("events.db-lock").unlink()
    assert open_and_write(path) == 3002


def test_copy_without_wal_is_used(path: Path) -> None:
    """The documented way: delete the WAL, put the copy back, and start, also after a kill at the start."""
    backup = killed(path, ".backup {}")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    into_place(backup, path)
    killed(path, commits=1)
    open_and_write(path)
    assert sqlite(path, "PRAGMA integrity_check") == "ok\n"


# Restores -------------------------------------------------------------------------------------------

KILLED_RESTORE = """
import os, signal, sys
from pathlib import Path
from socketio_eventlog.sqlite.restore import restore
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
restore(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_restore_while_a_program_reads(path: Path) -> None:
    """An open read snapshot keeps the WAL out of the database: the restore is refused, and loses nothing."""
    backup = killed(path, ".backup {}")
    sqlite(backup, "PRAGMA journal_mode = DELETE")
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("PRAGMA query_only = 1")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        with closing(sqlite3.connect(path)) as other:  # what comes after the snapshot
            other.execute("UPDATE log_state SET head = head")
            other.commit()
            with pytest.raises(NothingChanged, match=r"A program reads .*events\.db, whose WAL"):
                restore(backup, path)
        reader.execute("COMMIT")
    assert not list(path.parent.glob("*-replaced*"))
    assert open_and_write(path) == 3002
    restore(backup, path)
    assert open_and_write(path) == 2


def test_killed_restore_keeps_the_progress(path: Path) -> None:
    """Until the copy is in its place, a start can miss what the killed server has committed."""
    backup = killed(path, ".backup {}")
    sqlite(backup, "PRAGMA journal_mode = DELETE")
    with python(KILLED_RESTORE, backup, path) as process:
        assert process.wait(60) == -signal.SIGKILL
    lock = Lock(path, 0)
    assert lock.found_progress is not None and lock.found_progress.head == 3001
    lock.release(keep_file=True)
    assert open_and_write(path) == 3002
