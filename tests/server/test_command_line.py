from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "socketio_eventstore")
MINIMAL = '[server]\nport = 0\nhandlers = "handlers"\n[connection_state_recovery]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the program is started: a config file, and its handlers beside it."""
    (tmp_path / "config.toml").write_text(MINIMAL)
    (tmp_path / "handlers.py").write_text("def register(sio):\n    pass\n")
    return tmp_path


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*COMMAND, *arguments),
        cwd=folder,
        env=environment(environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def running(folder: Path, *arguments: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the address on which it says that it listens."""
    log = folder / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            (*COMMAND, *arguments),
            cwd=folder,
            env=environment(environ),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            found = re.search(r"Listening on (\S+)", process.stdout.readline())
            assert found, log.read_text()
            yield process, found[1]
        finally:
            process.kill()


def environment(changes: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("EVENTSTORE_")} | changes


def assert_refused(result: subprocess.CompletedProcess[str], *lines: str) -> None:
    """One line for each reason, the program's name before it, and nothing else."""
    assert result.stderr.splitlines() == [f"socketio-eventstore: {line}" for line in lines]
    assert (result.returncode, result.stdout) == (2, "")


def test_help_lists_the_commands(folder: Path) -> None:
    result = run(folder, "--help")
    assert result.returncode == 0
    for command in ("serve", "check-config", "migrate", "verify"):
        assert re.search(rf"^  {command}  +\w", result.stdout, re.MULTILINE)


def test_the_version_is_the_installed_one(folder: Path) -> None:
    result = run(folder, "--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"socketio-eventstore \d+\.\d+\.\d+\n", result.stdout)


def test_an_unknown_command_is_refused_with_its_name(folder: Path) -> None:
    result = run(folder, "sevre")
    assert result.returncode == 2
    assert "sevre" in result.stderr and "Traceback" not in result.stderr


def test_without_a_config_file_it_says_how_to_make_one(tmp_path: Path) -> None:
    result = run(tmp_path, "serve")
    assert_refused(
        result,
        f"there is no config.toml in {tmp_path}; name a file with --config, or make one: "
        "echo '[connection_state_recovery]' >config.toml",
    )
    advice = result.stderr.split("make one: ")[1]
    subprocess.run(advice, shell=True, cwd=tmp_path, check=True)
    assert run(tmp_path, "check-config", EVENTSTORE_SERVER__PORT="0").returncode == 0


def test_a_config_file_that_was_named_and_is_missing_is_said(folder: Path) -> None:
    assert_refused(run(folder, "serve", "--config", "other.toml"), "other.toml: there is no such file")


@pytest.mark.parametrize("command", ["serve", "check-config", "migrate"])
def test_every_mistake_in_the_configuration_is_a_line(folder: Path, command: str) -> None:
    (folder / "config.toml").write_text('[server]\nprot = 1\nhost = ""\n')
    assert_refused(
        run(folder, command, EVENTSTORE_STORE__PATHS="x"),
        'config.toml, line 3: [server] host = "": expected a host name or an address',
        "config.toml, line 2: [server] has no key 'prot'; the nearest is 'port'",
        "EVENTSTORE_STORE__PATHS: there is no such setting; the nearest is 'EVENTSTORE_STORE__PATH'",
    )


def test_a_flag_out_of_range_is_named(folder: Path) -> None:
    assert_refused(
        run(folder, "serve", "--port", "65536"), "--port = 65536: expected a whole number from 0 to 65535"
    )


def test_a_configuration_in_order_is_confirmed_and_nothing_is_made(folder: Path) -> None:
    before = set(folder.iterdir())
    result = run(folder, "check-config")
    assert (result.returncode, result.stdout, result.stderr) == (0, "config.toml is in order\n", "")
    assert {path for path in folder.iterdir() if path.name != "__pycache__"} == before


def test_handlers_that_are_missing_are_said(folder: Path) -> None:
    (folder / "handlers.py").unlink()
    result = run(folder, "check-config")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("socketio-eventstore: ") and "handlers" in line


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_handlers_that_fail_are_said_with_their_place(folder: Path, command: str) -> None:
    (folder / "handlers.py").write_text("def register(sio):\n    sio.no_such_thing()\n")
    result = run(folder, command)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("socketio-eventstore: ") and "handlers.py:2" in line and "no_such_thing" in line


def test_a_port_that_is_taken_is_said(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run(folder, "serve", "--port", str(port))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("socketio-eventstore: ") and str(port) in line and "in use" in line


def test_migrate_makes_the_database(folder: Path) -> None:
    result = run(folder, "migrate")
    assert (result.returncode, result.stderr) == (0, "")
    database = folder / "data" / "events.db"
    assert str(database) in result.stdout
    with sqlite3.connect(database) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    connection.close()
    assert {"events", "sessions"} <= tables


def test_a_file_that_is_no_database_is_said(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "events.db").write_bytes(b"something else entirely" * 1000)
    for command in ("migrate", "check-config", "serve"):
        result = run(folder, command)
        assert result.returncode == 2, command
        (line,) = result.stderr.splitlines()
        assert line.startswith("socketio-eventstore: ") and "events.db" in line


IMPATIENT = """
from socketio_eventstore.__main__ import main
from socketio_eventlog.sqlite import schema

schema.OPENING_TIMEOUT_SECONDS = 0.0
main()
"""


def test_a_database_that_a_server_uses_is_said(folder: Path) -> None:
    with running(folder, "serve") as (server, _):
        for command in ("serve", "migrate"):
            other = subprocess.run(
                (sys.executable, "-c", IMPATIENT, command),
                cwd=folder,
                env=environment({}),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            database = folder / "data" / "events.db"
            expected = f"The event store cannot be opened. {database} is in use by another server."
            assert_refused(other, expected)
        server.kill()
        server.wait()
        assert run(folder, "migrate").returncode == 0


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_serving_ends_in_order(folder: Path, by: signal.Signals) -> None:
    with running(folder, "serve") as (process, _):
        process.send_signal(by)
        assert process.wait(timeout=30) == 0
    assert "Traceback" not in (folder / "log").read_text()


def test_flags_go_before_the_environment_and_that_before_the_file(folder: Path) -> None:
    with running(folder, "serve", "--host", "127.0.0.2", EVENTSTORE_SERVER__HOST="127.0.0.3") as (_, address):
        assert address.startswith("http://127.0.0.2:")
    with running(folder, "serve", EVENTSTORE_SERVER__HOST="127.0.0.3") as (_, address):
        assert address.startswith("http://127.0.0.3:")


def test_ctrl_c_during_the_start_leaves_no_traceback(folder: Path) -> None:
    (folder / "handlers.py").write_text(
        "import asyncio, os, signal\n\n"
        "async def register(sio):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    await asyncio.sleep(60)\n"
    )
    result = run(folder, "serve")
    assert result.returncode == 130
    assert "Traceback" not in result.stderr
