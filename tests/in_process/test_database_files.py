"""Backups, restores, checks and compactions of a database as a file."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from socketio_eventlog.changes import Pruned
from socketio_eventlog.errors import NothingChanged, StoreNotUsable
from socketio_eventlog.segment import SEGMENT_LENGTH
from socketio_eventlog.sqlite import check, copies
from socketio_eventlog.sqlite.backup import back_up
from socketio_eventlog.sqlite.compact import compact_stopped
from socketio_eventlog.sqlite.restore import REPLACED, RESTORING, restore
from support.new_databases import create_database
from support.small_disks import fill, small_disk
from support.storing import commit, event, joined, left, open_and_write, opened, session

KILLS = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with events in a segment on disk, attachments, a session and its memberships."""
    path = tmp_path_factory.mktemp("made") / "events.db"
    create_database(path)

    async def write() -> None:
        async with opened(path) as log:
            await commit(log, [session(), joined("a"), joined("b")])
            await commit(log, [event(rooms=("a",)) for _ in range(SEGMENT_LENGTH)])
            await commit(log, [event("x" * 900, rooms=("a",), attachments=(b"1", b"2")), left("b")])
            await commit(log, [event(), Pruned(7)])

    asyncio.run(write())
    return path


@pytest.fixture
def database(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    (tmp_path / "data").mkdir()
    return Path(shutil.copy(made, tmp_path / "data"))


def problems(path: Path) -> list[str]:
    with copies.snapshot_or_copy(path) as connection:
        return check.check(connection).problems


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


# Checks ---------------------------------------------------------------------------------------------

DROP = "DROP TRIGGER {}"
DAMAGES = {
    "a lost event": ("DELETE FROM events WHERE offset = 4097", "offsets: event 4097 is gone without a note"),
    "a pruned event": ("UPDATE log_state SET pruned_through = 9", "events: event 8 is there, although"),
    "a size": ("UPDATE events SET size_bytes = 1 WHERE offset = 4097", "events: event 4097 has another size"),
    "a payload": ('UPDATE events SET payload = \'["messagx","hello"]\' WHERE offset = 9', "events: event 9"),
    "rooms": ("UPDATE events SET rooms = '{}' WHERE offset = 4098", "events: event 4098 has rooms"),
    "an attachment": ("DELETE FROM attachments WHERE num = 0", "attachments: event 4097 has not"),
    "an orphan": ("INSERT INTO attachments VALUES (5, 0, x'00')", "attachments: there are attachments of ev"),
    "an epoch": ("UPDATE boots SET began_after = 9999", "offsets: events 4099 to 9999 are gone without a"),
    "a session": ("UPDATE sessions SET confirmed = 99999", "sessions: session s1 of / has a start"),
    "data": ("UPDATE sessions SET data = '[]'", "sessions: session s1 has data that are no JSON object"),
    "no session": ("DELETE FROM sessions", "memberships: room a has a member s1 of /, whose session"),
    "a membership": ("UPDATE rooms SET joined_after = 99999", "memberships: the membership of room a of s1"),
    "two at a time": ("INSERT INTO rooms VALUES ('/', 's1', 'a', 9, 12)", "memberships: room a has two mem"),
    "the index": ("UPDATE events SET rooms = '[\"c\"]' WHERE offset = 100", "index: the segment 0 "),
    "a trigger": (DROP.format("events_updated"), "schema: the trigger events_updated is missing"),
    "another program": ("PRAGMA application_id = 1", "schema: this is a database of another program"),
    "a newer schema": ("UPDATE alembic_version SET version_num = '9999'", "schema: revision 9999 is newer"),
}


@pytest.mark.parametrize(("statement", "expected"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found(database: Path, statement: str, expected: str) -> None:
    """Each broken promise has a sentence; changes past the triggers included."""
    assert problems(database) == []
    if "events" in statement and "TRIGGER" not in statement:
        change(database, DROP.format("events_updated"))
        change(database, DROP.format("events_deleted"))
    change(database, statement)
    assert any(problem.startswith(expected) for problem in problems(database)), problems(database)


async def test_deep_payloads_are_sound(path: Path) -> None:
    """A payload that Python does not parse is compared by its name, also one with a comma."""
    deep = "[" * 100_000 + "]" * 100_000
    async with opened(path) as log:
        await commit(
            log, [event()._replace(name=name, payload=f'["{name}",{deep}]') for name in ("a", "a,b")]
        )
        assert problems(path) == []


def test_noted_change_is_no_problem(database: Path) -> None:
    """A change that the server notices breaks no promise: the report only mentions it."""
    change(database, "DELETE FROM events WHERE offset = 4098")
    with copies.snapshot(database) as connection:
        report = check.check(connection)
    assert report.is_sound and report.notes[0].startswith("event 4098 changed or lost without the server")


def test_damaged_page_is_found(database: Path) -> None:
    """A page that cannot be read is a problem, and the other checks go on."""
    with database.open("r+b") as file:
        file.seek(database.stat().st_size // 2)
        file.write(b"\xff" * 4096)
    assert any(problem.startswith("pages: ") for problem in problems(database))


# Backups --------------------------------------------------------------------------------------------


def test_backup(database: Path, tmp_path: Path) -> None:
    """One file of mode 0600, complete and sound; only a force replaces an existing one."""
    target = tmp_path / "copy.db"
    report = back_up(database, target)
    assert report is not None and report.head == SEGMENT_LENGTH + 2 and problems(target) == []
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir() if file.name != "data"] == ["copy.db"]
    before = target.stat().st_ino
    with pytest.raises(NothingChanged, match=r"copy\.db exists; --force replaces it"):
        back_up(database, target)
    assert target.stat().st_ino == before
    back_up(database, target, replaces=True)
    assert target.stat().st_ino != before


@pytest.mark.parametrize("name", ["events.db", "events.db-wal", "events.db-lock", "events.db-api", "link"])
def test_backup_over_the_database(database: Path, name: str) -> None:
    """No backup takes the place of the database or a file that belongs to it."""
    target = database.with_name(name)
    if name == "link":
        target.symlink_to(database)
    with pytest.raises(NothingChanged, match="is a file of the database itself"):
        back_up(database, target, replaces=True)
    assert problems(database) == []


def test_backup_to_a_pipe(database: Path, tmp_path: Path) -> None:
    """What is no regular file, such as /dev/null, is never replaced."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NothingChanged, match="pipe is no regular file"):
        back_up(database, tmp_path / "pipe", replaces=True)


def test_backup_of_a_damaged_database(database: Path, tmp_path: Path) -> None:
    """A damaged database has no backup that looks sound; it can be copied as it is."""
    change(database, DROP.format("events_deleted"))
    with pytest.raises(NothingChanged, match=r"The copy is not sound.*events_deleted is missing"):
        back_up(database, tmp_path / "copy.db")
    assert not list(tmp_path.glob("copy.db*"))
    assert back_up(database, tmp_path / "copy.db", is_checked=False) is None


def test_backup_to_a_full_disk(database: Path, tmp_path: Path) -> None:
    """Nothing of an incomplete backup stays, and a former one is still whole."""
    with small_disk(disk := tmp_path / "disk", "tmpfs", 1_000_000):
        target = disk / "copy.db"
        back_up(database, target)
        fill(disk / "ballast")
        with pytest.raises(NothingChanged, match=r"cannot be copied .*(full|No space|disk I/O)"):
            back_up(database, target, replaces=True)
        assert problems(target) == [] and {file.name for file in disk.iterdir()} == {"copy.db", "ballast"}


# Restores -------------------------------------------------------------------------------------------


def test_restore(database: Path, tmp_path: Path) -> None:
    """The database has the state of the backup; the former one is beside it; nothing else stays."""
    backup = tmp_path / "copy.db"
    back_up(database, backup)
    backup.chmod(0o644)
    assert open_and_write(database) == SEGMENT_LENGTH + 3
    restored = restore(backup, database)
    assert restored.report.head == SEGMENT_LENGTH + 2 and backup.exists()
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    assert restored.replaced is not None and problems(restored.replaced) == []
    names = {file.name for file in database.parent.iterdir()}
    assert names == {"events.db", "events.db-replaced", "events.db-reserve"}
    assert open_and_write(database) == SEGMENT_LENGTH + 3


def test_restore_beside_a_lonely_wal(database: Path, tmp_path: Path) -> None:
    """The WAL of a database that was deleted by hand is not applied to the restored one."""
    back_up(database, backup := tmp_path / "copy.db")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("UPDATE sessions SET data = '[]'")
        connection.commit()
        wal = database.with_name("events.db-wal").read_bytes()
    for file in database.parent.iterdir():
        file.unlink()
    database.with_name("events.db-wal").write_bytes(wal)
    assert restore(backup, database).replaced is None
    assert problems(database) == [] and [file.name for file in database.parent.iterdir()] == ["events.db"]


REFUSED = {
    "no file": (lambda file: file.unlink(), "There is no backup"),
    "text": (lambda file: file.write_text("no database" * 99), "is no SQLite database"),
    "half": (lambda file: os.truncate(file, 50_000), "cannot be restored|not sound"),
    "newer": (lambda file: change(file, DAMAGES["a newer schema"][0]), "revision 9999 is newer"),
    "other": (lambda file: change(file, DAMAGES["another program"][0]), "database of another program"),
    "wal": (lambda file: file.with_name(f"{file.name}-wal").write_text("x"), "has a WAL beside it"),
}


@pytest.mark.parametrize(("spoil", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused_backups(database: Path, tmp_path: Path, spoil: object, expected: str) -> None:
    """What is no sound backup is named, and the database stays as it is."""
    backup = tmp_path / "copy.db"
    back_up(database, backup)
    with closing(sqlite3.connect(backup)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    assert callable(spoil)
    spoil(backup)
    before = {file.name: file.stat().st_ino for file in database.parent.iterdir()}
    with pytest.raises(NothingChanged, match=expected):
        restore(backup, database)
    assert {file.name: file.stat().st_ino for file in database.parent.iterdir()} == before
    assert problems(database) == []


@pytest.mark.parametrize("suffix", [REPLACED, RESTORING])
def test_restore_of_its_own_files(database: Path, suffix: str) -> None:
    """An undo never deletes its source: a file with such a name is to be renamed before."""
    backup = database.with_name(database.name + suffix)
    back_up(database, backup)
    with pytest.raises(NothingChanged, match=f"{suffix} has a name that restore gives .* rename it"):
        restore(backup, database)
    assert problems(backup) == [] and problems(database) == []
    restore(backup.rename(database.with_name("undo.db")), database)


def test_restore_without_hard_links(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of the former database is on disk before the database is replaced."""
    back_up(database, backup := tmp_path / "copy.db")
    former, synced, sync = database.stat().st_ino, list[str](), os.fsync

    def link(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no hard links")

    def noted(handle: int) -> None:
        if database.stat().st_ino == former:
            synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        sync(handle)

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "fsync", noted)
    restored = restore(backup, database)
    assert "events.db-replaced" in synced
    assert restored.replaced is not None and problems(restored.replaced) == []


async def test_restore_of_a_database_in_use(database: Path, tmp_path: Path) -> None:
    back_up(database, backup := tmp_path / "copy.db")
    async with opened(database) as log:
        with pytest.raises(NothingChanged, match="A server or another command uses"):
            restore(backup, database)
        await commit(log, [event()])


def test_restore_to_a_full_disk(database: Path, tmp_path: Path) -> None:
    """The present database stays."""
    back_up(database, backup := tmp_path / "copy.db")
    with small_disk(disk := tmp_path / "disk", "tmpfs", 1_000_000):
        shutil.copy(database, present := disk / "events.db")
        fill(disk / "ballast")
        with pytest.raises(NothingChanged, match="cannot be restored"):
            restore(backup, present)
        assert problems(present) == []


# Compactions ----------------------------------------------------------------------------------------


async def test_compact_a_running_log(path: Path) -> None:
    """The file shrinks, and no row counts as changed by another program; too much content is refused."""
    async with opened(path) as log:
        await commit(log, [event("x" * 1000, rooms=("a",)) for _ in range(3000)])
        await commit(log, [Pruned(2900)])
        with pytest.raises(NothingChanged, match=r"bytes of content, and no commit .* --force"):
            await log.compact(1000)
        done = await log.compact(None)
        assert done.after_bytes < done.before_bytes // 4
        await commit(log, [event()])
        summary = await log.summarise_missed("/", [], 2900, log.head, max_events=9, max_bytes=9)
        assert not summary.is_incomplete
        assert problems(path) == []
    async with opened(path) as log:
        assert log.head == 3001


def test_compact_a_stopped_log(database: Path) -> None:
    change(database, "UPDATE log_state SET pruned_through = 4000")
    change(database, "DELETE FROM events WHERE offset <= 4000")
    done = compact_stopped(database)
    assert done.after_bytes < done.before_bytes and problems(database) == []


def test_compact_without_room(database: Path, tmp_path: Path) -> None:
    with small_disk(disk := tmp_path / "disk", "tmpfs", 4_000_000):
        shutil.copy(database, present := disk / "events.db")
        with pytest.raises(NothingChanged, match=r"bytes left, and .* are needed"):
            compact_stopped(present)
        assert problems(present) == []


# Kills ----------------------------------------------------------------------------------------------

ACTIONS = {
    "backup": "from socketio_eventlog.sqlite.backup import back_up; back_up(database, copy, replaces=True)",
    "restore": "from socketio_eventlog.sqlite.restore import restore; restore(copy, database)",
    "compact": "from socketio_eventlog.sqlite.compact import compact_stopped; compact_stopped(database)",
}
CODE = """
import sys
from pathlib import Path
database, copy = map(Path, sys.argv[1:])
import socketio_eventlog.sqlite.restore
print("ready", flush=True)
while True:
    {}
"""


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_kill_at_any_moment(database: Path, tmp_path: Path, action: str) -> None:
    """kill -9 leaves a sound database and a sound backup, and the next command works."""
    back_up(database, copy := tmp_path / "copy.db")
    command = (sys.executable, "-c", CODE.format(action), str(database), str(copy))
    for _ in range(KILLS):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            time.sleep(random.uniform(0, 0.1))  # the moment of the kill, not a synchronisation
            process.send_signal(signal.SIGKILL)
        assert problems(copy) == [] and problems(database) == []
    back_up(database, copy, replaces=True)
    restore(copy, database)
    assert open_and_write(database) == SEGMENT_LENGTH + 3


def test_foreign_wal_is_not_read(database: Path, tmp_path: Path) -> None:
    """A WAL of another database beside this one is refused, as at a start."""
    back_up(database, tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    shutil.copy(tmp_path / "copy.db", database)
    database.with_name("events.db-wal").write_bytes(b"x" * 99)
    with pytest.raises(StoreNotUsable, match=r"whose events\.db-wal is still there"):
        back_up(database, tmp_path / "other.db")
