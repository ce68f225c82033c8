"""The start and the end of the program: handlers, port, store, platform and signals."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest

from support.command_line import assert_refused, run, running, script, write_program_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_program_folder(tmp_path)


def test_missing_handlers(folder: Path) -> None:
    """The error for a missing module of handlers has the module's name."""
    (folder / "handlers.py").unlink()
    result = run(folder, "check-config")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("socketio-eventstore: ") and "handlers" in line


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_failing_handlers(folder: Path, command: str) -> None:
    """The error for failing handlers has the file, the line and the exception."""
    (folder / "handlers.py").write_text("def register(sio):\n    sio.no_such_thing()\n")
    result = run(folder, command)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("socketio-eventstore: ") and "handlers.py:2" in line and "no_such_thing" in line


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "socketio_eventstore.server.chat",
            "the address of this module has changed; write 'socketio_eventstore.chat'",
        ),
        *(
            (name, f"the address has changed; there is no package {name.rpartition('.')[0]} any more")
            for name in (
                "socketio_eventstore.server.app",
                "socketio_eventstore.store.sqlite",
                "socketio_eventstore.migrations.env",
            )
        ),
    ],
)
@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_former_address_of_handlers(folder: Path, command: str, name: str, reason: str) -> None:
    """The error for a former address of handlers says that the address has changed."""
    (folder / "config.toml").write_text(f'[server]\nport = 0\nhandlers = "{name}"\n')
    assert_refused(run(folder, command), f"handlers = {name!r}: {reason}")


NOT_POSIX = """
import os, sys

os.name = "other"
sys.modules["fcntl"] = None
from socketio_eventstore.__main__ import main

main()
"""


@pytest.mark.parametrize("command", ["serve", "verify"])
def test_not_posix(folder: Path, command: str) -> None:
    """Without POSIX, serve and verify end with one line."""
    result = script(folder, NOT_POSIX, command)
    assert_refused(result, f"{command} needs a POSIX system, for example Linux or macOS")


def test_port_in_use(folder: Path) -> None:
    """The error for a port in use has the port."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run(folder, "serve", "--port", str(port))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("socketio-eventstore: ") and str(port) in line and "in use" in line


def test_migrate(folder: Path) -> None:
    """migrate creates the database with its tables."""
    result = run(folder, "migrate")
    assert (result.returncode, result.stderr) == (0, "")
    database = folder / "data" / "events.db"
    assert str(database) in result.stdout
    with sqlite3.connect(database) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    connection.close()
    assert {"events", "sessions"} <= tables


def test_store_is_not_a_database(folder: Path) -> None:
    """The error for a store that is not a database has the file's name."""
    (folder / "data").mkdir()
    (folder / "data" / "events.db").write_bytes(b"something else entirely" * 1000)
    for command in ("migrate", "check-config", "serve"):
        result = run(folder, command)
        assert result.returncode == 2, command
        (line,) = result.stderr.splitlines()
        assert line.startswith("socketio-eventstore: ") and "events.db" in line


WITHOUT_TIMEOUT = """
from socketio_eventstore.__main__ import main
from socketio_eventlog.sqlite import schema

schema.OPENING_TIMEOUT_SECONDS = 0.0
main()
"""


def test_store_in_use(folder: Path) -> None:
    """The error for a store in use by another server has the file's name."""
    with running(folder, "serve") as (server, _):
        for command in ("serve", "migrate"):
            other = script(folder, WITHOUT_TIMEOUT, command)
            database = folder / "data" / "events.db"
            (line,) = other.stderr.splitlines()
            assert "The event store cannot be opened." in line
            assert f"{database} is in use by another server." in line
            assert (other.returncode, other.stdout) == (2, "")
        server.kill()
        server.wait()
        assert run(folder, "migrate").returncode == 0


def test_banner_says_what_to_open(folder: Path) -> None:
    """The banner ends with the address for a browser, where there is a page, and with Ctrl-C."""
    with running(folder, "serve") as (process, _):
        assert last_line(process) == "Ctrl-C stops the server.\n"
    (folder / "pages").mkdir()
    (folder / "handlers.py").write_text("PAGES = 'pages'\n\ndef register(sio):\n    pass\n")
    with running(folder, "serve", "--host", "0.0.0.0") as (process, address):
        port = address.rpartition(":")[2]
        assert last_line(process) == f"Open http://127.0.0.1:{port} in a browser. Ctrl-C stops the server.\n"


def last_line(process: subprocess.Popen[str]) -> str:
    """The end of the banner of a server with a store."""
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(4)][-1]
