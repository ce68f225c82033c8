"""The commands that look after a store, on a running server and on a stopped one."""

from __future__ import annotations

import json
import os
import pty
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from socketio_eventstore.program.cli import commands
from support.command_line import COMMAND, environment
from support.processes import ServerProcess

PROGRAM = Path(sys.executable).with_name("socketio-eventstore")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(autouse=True)
def in_its_folder(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(server.folder)


def command(*arguments: str, code: int = 0) -> str:
    """The output of a command in this process, where the imports cost nothing."""
    done = CliRunner().invoke(commands, arguments)
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def refused(*arguments: str) -> str:
    return command(*arguments, code=2)


def look_after(server: ServerProcess, name: str) -> None:
    """All commands but restore; each does the same whether the server runs or not."""
    offset = command("emit", "personal", "Ann").strip()
    assert command("redact", offset, "[1]", "--event", name) == (
        f"the event at offset {offset} is {name!r} now\n"
    )
    (event,) = command("events", "--event", name, "--json").splitlines()
    assert json.loads(event)["args"] == [[1]]
    assert json.loads(command("prune", "--json"))["events"] == 0
    assert json.loads(command("compact", "--json"))["after_bytes"] > 0
    text = command("backup", f"{name}.db")
    assert text.startswith(f"{name}.db is a backup of {server.database}: ") and "checked, up to event" in text
    assert stat.S_IMODE((server.folder / f"{name}.db").stat().st_mode) == 0o600
    assert b"Ann" not in (server.folder / f"{name}.db").read_bytes()
    text = command("check-store")
    assert "Rows" in text and "events" in text and text.endswith(f"{server.database} is sound\n")
    report = json.loads(command("check-store", f"{name}.db", "--json"))
    assert report["is_sound"] and report["tables"]["events"]["rows"] == report["head"] > 0


def test_running_and_stopped(server: ServerProcess) -> None:
    look_after(server, "running")
    reason = f"a server runs on {server.database}; stop it first"
    assert refused("restore", "running.db") == f"socketio-eventstore: {reason}\n"
    assert server.terminate().code == 0
    look_after(server, "stopped")
    assert "the state of running.db, up to event 1\n" in command("restore", "running.db")
    server.start()
    assert len(command("events", "--json").splitlines()) == 1


def test_refusals(server: ServerProcess) -> None:
    """An error names the value and what was expected, in one line."""
    database, begin = server.database, "socketio-eventstore: Nothing was changed. "
    text = f"{begin}{database} is a file of the database itself.\n"
    assert refused("backup", str(database), "--force") == text
    assert refused("backup", "nowhere/copy.db") == f"{begin}There is no folder nowhere.\n"
    assert refused("check-store", "nothing.db") == f"{begin}There is no database nothing.db.\n"
    assert "The text is 'nonsense'." in refused("redact", "nonsense")
    assert "The epoch is '-aaaaaaa'." in refused("redact", "-aaaaaaa.1", "-1.5", "--event", "x")


def test_database_of_an_application(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a config file, the commands about files take the database as an option."""
    monkeypatch.chdir(tmp_path)
    assert json.loads(command("backup", "copy.db", "--database", str(server.database), "--json"))[
        "is_checked"
    ]
    assert json.loads(command("restore", "copy.db", "--database", "app.db", "--json"))["replaced"] is None
    assert command("check-store", "app.db").endswith("app.db is sound\n")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["app.db", "copy.db"]


def test_store_with_problems(server: ServerProcess) -> None:
    """The exit code is 1, and each problem has a line."""
    command("backup", "damaged.db")
    with closing(sqlite3.connect(server.folder / "damaged.db")) as connection, connection:
        connection.execute("DROP TRIGGER events_deleted")
    *_, problem, verdict = command("check-store", "damaged.db", code=1).splitlines()
    assert problem.startswith("problem: schema: the trigger events_deleted is missing")
    assert verdict == "damaged.db is NOT sound"


def test_bars_on_a_terminal(server: ServerProcess) -> None:
    """A person sees the progress; a pipe has nothing of it, as the other tests show."""
    terminal, end = pty.openpty()
    arguments = (*COMMAND, "backup", "seen.db")
    subprocess.run(
        arguments,
        cwd=server.folder,
        env=environment({"TERM": "xterm"}),
        stderr=end,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    os.close(end)
    assert b"copy" in os.read(terminal, 100_000)
    os.close(terminal)


COMPLETE = """
eval "$(_SOCKETIO_EVENTSTORE_COMPLETE=bash_source socketio-eventstore)"
COMP_WORDS=(socketio-eventstore check-); COMP_CWORD=1
_socketio_eventstore_completion socketio-eventstore
echo "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.skipif(not PROGRAM.exists(), reason="needs the installed program")
def test_completion() -> None:
    """The documented line loads in bash, and completes the name of a command."""
    line = COMPLETE.splitlines()[1]
    assert line in (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    paths = os.pathsep.join((str(PROGRAM.parent), os.environ["PATH"]))
    done = subprocess.run(
        ("bash", "-c", COMPLETE), env=os.environ | {"PATH": paths}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "check-config check-store\n"
