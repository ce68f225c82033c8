"""The files of the store have the configured mode, also after a backup was put back."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from socketio_eventlog.errors import StoreNotUsable
from socketio_eventlog.sqlite.lock import Lock
from socketio_eventstore import RecoveryManager
from support.storing import commit, event, open_and_write, opened, put_back, sqlite

NAMES = ["events.db", "events.db-lock", "events.db-reserve", "events.db-shm", "events.db-wal"]

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "events.db"


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


def modes(path: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}


@pytest.mark.parametrize("file_mode", [0o600, 0o640, 0o660], ids=oct)
async def test_files_have_the_configured_mode(path: Path, umask: int, file_mode: int) -> None:
    """The database, WAL, index of the WAL and lock have the mode, whatever the umask."""
    async with opened(path, file_mode=file_mode) as log:
        await commit(log, [event()])
        assert modes(path) == dict.fromkeys(NAMES, file_mode)
    async with opened(path, file_mode=file_mode) as log:
        await commit(log, [event()])
        assert modes(path) == dict.fromkeys(NAMES, file_mode)


@pytest.mark.parametrize("copy", [".backup 'copy.db'", "VACUUM INTO 'copy.db'", "cp"])
async def test_copy_that_was_put_back_is_narrowed(
    path: Path, copy: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that is put back loses the rights beyond the mode, with one line."""
    monkeypatch.chdir(path.parent.parent)
    backup = Path("copy.db")
    async with opened(path) as log:
        await commit(log, [event()])
        if copy != "cp":
            sqlite(path, copy)
    if copy == "cp":
        shutil.copy(path, backup)
    set_mode(backup, 0o644)
    put_back(backup, path)
    set_mode(path, 0o664)
    async with opened(path) as log:
        assert log.head == 1
        await commit(log, [event()])
        assert modes(path) == dict.fromkeys(NAMES, 0o600)
    lines = [record.getMessage() for record in caplog.records if "had the mode" in record.getMessage()]
    assert lines == [f"{path} had the mode 0664, and has 0600 now."]


async def test_left_over_files_are_narrowed(path: Path) -> None:
    """Files beside the database that a crash left are narrowed, too, through a symbolic link as well."""
    link = path.parent.parent / "link.db"
    async with opened(path) as log:
        await commit(log, [event()])
        shutil.copytree(path.parent, path.parent.parent / "crashed")
    copied = path.parent.parent / "crashed" / "events.db"
    for file in copied.parent.iterdir():
        file.chmod(0o666)
    link.symlink_to(copied)
    async with opened(link, file_mode=0o640) as log:
        assert log.head == 1
        assert set(modes(copied).values()) == {0o640}


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-lock", "-reserve"])
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
@pytest.mark.parametrize("exists", [True, False])
async def test_a_link_beside_the_database(path: Path, suffix: str, kind: str, exists: bool) -> None:
    """A link in the place of a side file is refused, and its target keeps mode and content."""
    path.parent.mkdir()
    if exists:
        async with opened(path) as log:
            await commit(log, [event()])
    target, side = path.parent.parent / "other", path.with_name(path.name + suffix)
    target.write_text("content of another program")
    target.chmod(0o644)
    side.unlink(missing_ok=True)
    match kind:
        case "link":
            side.symlink_to(target)
        case "folder":
            side.mkdir(0o755)
        case _:
            os.mkfifo(side, 0o644)
    with pytest.raises(StoreNotUsable, match=f"{side} is not a file, but a link, a folder or a device"):
        async with opened(path):
            pass
    assert target.read_text() == "content of another program"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    if kind != "link":
        assert stat.S_IMODE(side.stat().st_mode) & 0o044 == 0o044


def test_narrower_files_stay(path: Path) -> None:
    """A file with fewer rights than the mode keeps them."""
    open_and_write(path)
    path.chmod(0o600)

    async def open_wider() -> None:
        async with opened(path, file_mode=0o660):
            assert modes(path)["events.db"] == 0o600

    asyncio.run(open_wider())


@pytest.mark.parametrize("mode", [600, 640, 0o400, 0o700, 0o4600, -1, 0])
def test_impossible_mode_is_refused(mode: Any) -> None:
    """A mode without the owner's rights, or a decimal one, is refused at once."""
    with pytest.raises(ValueError, match="octal mode such as 0o600"):
        RecoveryManager("events.db", file_mode=mode)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_lock_of_root(path: Path) -> None:
    """A lock file that root has made, and a kill has left, can be opened by the user of the server."""
    path.parent.mkdir()
    os.chown(path.parent, NOBODY, NOBODY)
    lock = Lock(path, 0.0)
    assert path.with_name(f"{path.name}-lock").stat().st_uid == NOBODY
    lock.release()
