"""check-config beside a running server, and the configurations that cannot work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from socketio_eventstore.program.check import check_store
from socketio_eventstore.program.config import StoreSettings
from support.command_line import MINIMAL, assert_refused, run, running, script, write_program_folder
from support.processes import free_port

EMITTING = """
async def register(sio):
    await sio.start()
    await sio.emit("started", {"by": "register"})
    await sio.emit("to a room", to="room")
"""
OLD_SQLITE = """
import sqlite3
from socketio_eventstore.__main__ import main

sqlite3.sqlite_version, sqlite3.sqlite_version_info = "3.34.1", (3, 34, 1)
main()
"""


@contextmanager
def other_user() -> Iterator[None]:
    """Root may write everywhere, so the tests of root go on as another user."""
    if os.getuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_program_folder(tmp_path)


def content(folder: Path) -> dict[str, tuple[int, int]]:
    """All files below a folder with size and time of the last change; the server changes its own files."""
    files = [path for path in folder.rglob("*") if "data" not in path.parts and path.name != "log"]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_nothing_is_written(folder: Path) -> None:
    """check-config writes nothing, also when register emits."""
    (folder / "handlers.py").write_text(EMITTING)
    before = content(folder)
    result = run(folder, "check-config")
    assert (result.returncode, result.stdout, result.stderr) == (0, "config.toml is valid\n", "")
    assert content(folder) == before and not (folder / "data").exists()


def test_beside_the_running_server(folder: Path) -> None:
    """check-config accepts the configuration of the running server, and adds no event to its store."""
    (folder / "handlers.py").write_text(EMITTING)
    (folder / "config.toml").write_text(MINIMAL.replace("port = 0", f"port = {free_port()}"))
    with running(folder, "serve"):
        data = {path.name: path.read_bytes() for path in (folder / "data").iterdir() if "-" not in path.name}
        before = content(folder)
        result = run(folder, "check-config")
        assert (result.returncode, result.stdout, result.stderr) == (0, "config.toml is valid\n", "")
        assert content(folder) == before
        for name, bytes_before in data.items():
            assert (folder / "data" / name).read_bytes() == bytes_before


def test_address_of_another_machine(folder: Path) -> None:
    """An address that this machine does not have is reported."""
    result = run(folder, "check-config", EVENTSTORE_SERVER__HOST="192.0.2.1")
    assert_refused(result, "cannot listen on 192.0.2.1 port 0: Cannot assign requested address")


@pytest.mark.parametrize(
    ("host", "listen", "problem"),
    [
        ('["127.0.0.1", "127.0.0.1"]', "", "cannot listen on 127.0.0.1: 127.0.0.1 takes the same address"),
        ('["0.0.0.0", "127.0.0.2"]', "", "cannot listen on 127.0.0.2: 0.0.0.0 takes the same address"),
        ('["unix:a", "unix:a"]', "", "cannot listen on unix:a: unix:a takes the same address"),
        ('"127.0.0.1"', "127.0.0.1:{port}", "cannot listen on 127.0.0.1: 127.0.0.1 takes the same address"),
        ('"unix:nothing/a"', "", "cannot listen on unix:nothing/a: there is no folder {folder}/nothing"),
        (f'"unix:{"a" * 107}"', "", f"cannot listen on unix:{'a' * 107}: the path has more than 107 bytes"),
    ],
)
def test_addresses_that_cannot_work(folder: Path, host: str, listen: str, problem: str) -> None:
    """An address that is configured twice, and a path that is no place for a socket, are reported."""
    port = free_port()
    keys = f'{{ a = "sha256:{"0" * 64}" }}'
    (folder / "config.toml").write_text(
        MINIMAL.replace("port = 0", f"port = {port}\nhost = {host}")
        + f'\n[http]\nlisten = "{listen.format(port=port)}"\napi_keys = {keys}\n'
    )
    expected = problem.format(folder=folder)
    assert_refused(run(folder, "check-config"), expected)


@pytest.mark.parametrize("host", ['["0.0.0.0", "::"]', '["127.0.0.1", "::1"]', '["127.0.0.1", "127.0.0.2"]'])
def test_addresses_that_can_work(folder: Path, host: str) -> None:
    """Different addresses share a port, and both kinds of all interfaces do."""
    config = MINIMAL.replace("port = 0", f"port = 0\nhost = {host}")
    (folder / "config.toml").write_text(config + '\n[http]\nlisten = "127.0.0.1:0"\n')
    assert run(folder, "check-config").returncode == 0


@pytest.mark.parametrize("host", ['["127.0.0.1", "127.0.0.1"]', '["127.0.0.1", "0.0.0.0"]'])
def test_serve_with_one_address_twice(folder: Path, host: str) -> None:
    """Two listeners of one address are one line at the start, and no traceback."""
    (folder / "config.toml").write_text(MINIMAL.replace("port = 0", f"port = {free_port()}\nhost = {host}"))
    result = run(folder, "serve")
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert "cannot listen on " in result.stderr and "Address already in use" in result.stderr


def test_retention_without_recovery(folder: Path) -> None:
    """Without recovery nothing is stored, and a short retention is no fault."""
    (folder / "config.toml").write_text('[server]\nport = 0\nhandlers = "handlers"\n[store]\nretention = 5\n')
    result = run(folder, "check-config")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("path", [":memory:", "file:events.db?mode=memory"])
def test_names_of_sqlite_are_no_files(folder: Path, path: str) -> None:
    """A name that SQLite takes for a database in memory is no path of a file."""
    result = run(folder, "check-config", EVENTSTORE_STORE__PATH=path)
    assert result.returncode == 2 and "expected the path of a file" in result.stderr


@pytest.mark.parametrize("exists", [True, False])
def test_unwritable_folder(exists: bool) -> None:
    """A folder in which the store cannot write is reported."""
    with TemporaryDirectory() as name:  # the folders of pytest are closed to other users
        folder = Path(name)
        folder.chmod(0o755)
        closed = folder / "closed"
        closed.mkdir()
        database = closed / "events.db"
        if exists:
            database.touch()
            database.chmod(0o666)
        closed.chmod(0o555)
        with other_user():
            problems = list(check_store(StoreSettings(path=database)))
        assert problems == [f"cannot use the store {database}: the folder {closed} is not writable"]
        assert list(check_store(StoreSettings(path=folder / "open" / "events.db"))) == []
        assert [path.name for path in closed.iterdir()] == (["events.db"] if exists else [])
        assert {path.name for path in folder.iterdir()} == {"closed"}


@pytest.mark.parametrize("command", ["serve", "migrate", "check-config"])
def test_old_sqlite(folder: Path, command: str) -> None:
    """A SQLite library without STRICT tables is reported."""
    result = script(folder, OLD_SQLITE, command)
    assert_refused(
        result,
        "The event store cannot be opened. SQLite 3.34.1 is too old: 3.37 or newer is needed.",
    )


def test_milliseconds_and_all_other_problems(folder: Path) -> None:
    """Durations in milliseconds are reported, together with every other problem."""
    (folder / "config.toml").write_text(
        '[server]\nport = 0\nhandlers = "nothing"\nping_interval = 25000\nping_timeout = 20000\n'
        "connect_timeout = 45000\nshutdown_grace = 10000\ndrain = 30000\n"
        "[connection_state_recovery]\nmax_disconnection_duration = 120000\n"
        '[store]\nprune_interval = 10000\nretention = 86400000\npath = "handlers.py"\n'
    )
    hint = "hours; durations are in seconds"
    assert_refused(
        run(folder, "check-config"),
        f"[server] ping_interval = 25000 is 6.9 {hint}: 25?",
        f"[server] ping_timeout = 20000 is 5.6 {hint}: 20?",
        f"[server] connect_timeout = 45000 is 12.5 {hint}: 45?",
        f"[server] shutdown_grace = 10000 is 2.8 {hint}: 10?",
        f"[server] drain = 30000 is 8.3 {hint}: 30?",
        f"[store] prune_interval = 10000 is 2.8 {hint}: 10?",
        f"[store] retention = 86400000 is 24000.0 {hint}: 86400?",
        f"[connection_state_recovery] max_disconnection_duration = 120000 is 33.3 {hint}: 120?",
        f"handlers = 'nothing': there is no such module, neither installed nor in {folder}",
        f"{folder / 'handlers.py'} is not a SQLite database",
    )
