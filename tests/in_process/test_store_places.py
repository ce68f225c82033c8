"""Places where no database can be: check-config says so, also to root, and so does the store."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from socketio_eventlog.errors import StoreNotUsable
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.program.check import check_store
from socketio_eventstore.program.config import StoreSettings

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these file systems")


def problems(path: Path) -> list[str]:
    return list(check_store(StoreSettings(path=path)))


@linux
@pytest.mark.parametrize(
    "path",
    [
        "/proc/events.db",
        "/proc/missing/folder/events.db",
        "/proc/self/events.db",
        "/proc/self/mem",
        "/proc/version",
        "/sys/events.db",
        "/sys/kernel/missing/events.db",
        "/dev/events.db",
        "/dev/fd/events.db",
        "/dev/null",
    ],
)
def test_file_systems_without_files(path: str, tmp_path: Path) -> None:
    """A store on a file system of the kernel is reported, behind a symbolic link as well."""
    if not Path(path).parents[-2].is_mount():
        pytest.skip(f"{path} is on an ordinary file system here")
    (link := tmp_path / "events.db").symlink_to(path)
    for place in (Path(path), link):
        (problem,) = problems(place)
        assert problem.startswith(f"cannot use the store {place}: ") and "keeps no files" in problem


def test_what_is_no_place_for_a_file(tmp_path: Path) -> None:
    """A parent that is a file, names that are too long, pipes and sockets are reported."""
    file, pipe, listening = tmp_path / "file", tmp_path / "pipe", tmp_path / "socket"
    file.write_text("x")
    os.mkfifo(pipe)
    expected = {
        file / "events.db": f"cannot create {file / 'events.db'}: {file} is not a folder",
        file / "a" / "b" / "events.db": f"cannot create {file / 'a/b/events.db'}: {file} is not a folder",
        pipe: f"{pipe} is not a file, but a device, a pipe or a socket",
        listening: f"{listening} is not a file, but a device, a pipe or a socket",
        tmp_path / ("x" * 250): f"cannot create {tmp_path / ('x' * 250)}: a name in it is too long, "
        "with -reserve at its end",
    }
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listening))
        assert {place: problems(place) for place in expected} == {
            place: [line] for place, line in expected.items()
        }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe", "socket"]


async def test_symbolic_links_in_a_circle(tmp_path: Path) -> None:
    """Links that lead to themselves are an error with one line, for check-config and for the store."""
    (loop := tmp_path / "loop").symlink_to(loop)
    for place in (loop, loop / "events.db"):
        with pytest.raises(StoreNotUsable) as refused:
            await EventLog.open(StoreOptions(path=place))
        assert str(refused.value).endswith(f"The symbolic links of {place} lead in a circle.")
        assert problems(place) == [str(refused.value)]


async def test_a_pipe_is_no_database(tmp_path: Path) -> None:
    """The store says what a pipe is not, instead of an error of the disk."""
    os.mkfifo(pipe := tmp_path / "events.db")
    with pytest.raises(StoreNotUsable, match="is not a file"):
        await EventLog.open(StoreOptions(path=pipe))


async def test_a_link_to_a_new_file(tmp_path: Path) -> None:
    """A symbolic link may lead to a database that is not there yet."""
    target, link = tmp_path / "disk" / "new.db", tmp_path / "events.db"
    link.symlink_to(target)
    assert problems(link) == []
    await (await EventLog.open(StoreOptions(path=link))).close()
    assert target.is_file() and link.is_symlink()
    assert problems(link) == []
