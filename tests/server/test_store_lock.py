"""The lock limits the writers of a database to one process at a time."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from socketio_eventlog.errors import StoreNotUsable
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite import schema
from socketio_eventlog.sqlite.lock import Lock
from socketio_eventlog.sqlite.log import EventLog
from support.embedded import until
from support.storing import BEAT, commit, event, opened, python, sqlite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "OPENING_TIMEOUT_SECONDS", 0.0)


@pytest.mark.usefixtures("no_timeout")
async def test_a_second_server_does_not_start(path: Path) -> None:
    """A second server does not start, and the first server continues."""
    async with opened(path) as first:
        with pytest.raises(StoreNotUsable) as refusal:
            await EventLog.open(StoreOptions(path=path))
        assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
        assert await commit(first, [event()]) == [1]
        await commit(first, [BEAT])
        # The first server still has SQLite's locks: without them the sqlite3 program would remove the WAL.
        with pytest.raises(subprocess.CalledProcessError):
            sqlite(path, "PRAGMA journal_mode = DELETE")
        assert sqlite(path, "SELECT count(*) FROM boots") == "1\n"
    async with opened(path) as second:
        assert second.head == 1


@pytest.mark.usefixtures("no_timeout")
async def test_a_symbolic_link_meets_the_same_lock(path: Path) -> None:
    link = path.with_name("link.db")
    async with opened(path):
        link.symlink_to(path)
        with pytest.raises(StoreNotUsable, match="in use"):
            await EventLog.open(StoreOptions(path=link))


@pytest.mark.usefixtures("no_timeout")
def test_a_failed_opening_releases_the_lock(path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 100)
    for _ in range(2):
        with pytest.raises(StoreNotUsable, match="not a database"):
            asyncio.run(EventLog.open(StoreOptions(path=path)))


async def test_a_start_waits_for_a_server_in_shutdown(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with opened(path) as first:
        opening = asyncio.create_task(EventLog.open(StoreOptions(path=path)))
        await until(lambda: "waiting" in caplog.text)
        assert await commit(first, [event()]) == [1]
    second = await opening
    assert second.head == 1
    await second.close()


HOLDS = """
import asyncio, os, signal, sys
from pathlib import Path
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog

async def main():
    await EventLog.open(StoreOptions(path=Path(sys.argv[1])))
    print("open", flush=True)
    lives, says = os.pipe()
    if sys.argv[2] == "fork":
        if os.fork() == 0:
            os.write(says, b"!")
            sys.stdin.read()
            os._exit(0)
        os.read(lives, 1)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.mark.usefixtures("no_timeout")
@pytest.mark.parametrize("heir", ["nobody", "fork"])
async def test_a_killed_server_leaves_no_lock(path: Path, heir: str) -> None:
    with python(HOLDS, path, heir, stdin=subprocess.PIPE) as server:
        assert server.stdout is not None and server.stdout.readline() == "open\n"
        assert server.wait(timeout=60) == -signal.SIGKILL
        async with opened(path) as log:  # while the forked process lives on
            assert await commit(log, [event()]) == [1]
    assert not path.with_name("events.db-lock").exists()


def test_the_lock_has_one_owner_at_a_time(path: Path) -> None:
    inside: list[int] = []
    crowds: list[int] = []

    def come_and_go() -> None:
        for _ in range(50):
            lock = Lock(path, timeout_seconds=60.0)
            inside.append(1)
            crowds.append(len(inside))
            inside.pop()
            lock.release()
            lock.release()

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert crowds == [1] * 200


WITHOUT_FCNTL = """
import asyncio, sys
sys.modules["fcntl"] = None
from pathlib import Path
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog

async def main():
    for _ in range(2):
        await EventLog.open(StoreOptions(path=Path(sys.argv[1])))
    print("open", flush=True)

asyncio.run(main())
"""


def test_a_server_starts_without_locks(path: Path) -> None:
    """A server starts on a platform without file locks."""
    with python(WITHOUT_FCNTL, path) as server:
        assert server.communicate(timeout=60)[0] == "open\n" and server.returncode == 0
