"""The command line: help, version, configuration and flags."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.command_line import assert_refused, run, running, script, write_program_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_program_folder(tmp_path)


def test_help_lists_the_commands(folder: Path) -> None:
    """--help lists the commands."""
    result = run(folder, "--help")
    assert result.returncode == 0
    for command in ("init", "serve", "check-config", "migrate", "backup", "restore", "check-store", "verify"):
        assert re.search(rf"^  {command}  +\w", result.stdout, re.MULTILINE)


HOSTS = 'a host name or an address, "unix:/path", or a list of them'
NOT_FOR_HELP = (
    "aiohttp",
    "aiosqlite",
    "alembic",
    "asyncio",
    "engineio",
    "pydantic",
    "socketio",
    "sqlalchemy",
)
"""Modules that cost most of the start, and so must not be imported for ``--help``."""

IMPORTED = """
import sys
from socketio_eventstore.__main__ import main

sys.argv = ["socketio-eventstore", *sys.argv[1:]]
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["verify", "--help"], ["--version"]])
def test_help_imports(folder: Path, arguments: list[str]) -> None:
    """--help and --version import none of the large dependencies."""
    result = script(folder, IMPORTED, *arguments)
    assert result.returncode == 0
    imported = set(result.stderr.split())
    assert "socketio_eventstore.program.cli" in imported
    assert imported.isdisjoint(NOT_FOR_HELP)


def test_version(folder: Path) -> None:
    """--version prints the installed version."""
    result = run(folder, "--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"socketio-eventstore \d+\.\d+\.\d+\n", result.stdout)


def test_unknown_command(folder: Path) -> None:
    """An unknown command is refused with its name."""
    result = run(folder, "sevre")
    assert result.returncode == 2
    assert "sevre" in result.stderr and "Traceback" not in result.stderr


def test_no_config_file(tmp_path: Path) -> None:
    """Without a config file the error contains a working command that creates the file."""
    result = run(tmp_path, "serve")
    assert_refused(
        result,
        f"there is no config.toml in {tmp_path}; name a file with --config, or create one: "
        "socketio-eventstore init",
    )
    _, *arguments = result.stderr.split("create one: ")[1].split()
    assert run(tmp_path, *arguments).returncode == 0
    assert run(tmp_path, "check-config").returncode == 0


def test_missing_config_file(folder: Path) -> None:
    """The error for a missing --config file has the file's name."""
    assert_refused(run(folder, "serve", "--config", "other.toml"), "other.toml: there is no such file")


@pytest.mark.parametrize("command", ["serve", "check-config", "migrate"])
def test_invalid_configuration(folder: Path, command: str) -> None:
    """Each error of the configuration is one line."""
    (folder / "config.toml").write_text('[server]\nprot = 1\nhost = ""\n')
    assert_refused(
        run(folder, command, EVENTSTORE_STORE__PATHS="x"),
        f'config.toml, line 3: [server] host = "": expected {HOSTS}',
        "config.toml, line 2: [server] has no key 'prot'; the nearest is 'port'",
        "EVENTSTORE_STORE__PATHS: there is no such setting; the nearest is 'EVENTSTORE_STORE__PATH'",
    )


def test_invalid_flag(folder: Path) -> None:
    """The error for an invalid flag has the flag's name."""
    assert_refused(
        run(folder, "serve", "--port", "65536"), "--port = 65536: expected a whole number from 0 to 65535"
    )


def test_check_config(folder: Path) -> None:
    """check-config confirms a valid configuration and creates no file."""
    before = set(folder.iterdir())
    result = run(folder, "check-config")
    assert (result.returncode, result.stdout, result.stderr) == (0, "config.toml is valid\n", "")
    assert {path for path in folder.iterdir() if path.name != "__pycache__"} == before


def test_precedence_of_sources(folder: Path) -> None:
    """Flags override the environment, and the environment overrides the file."""
    with running(folder, "serve", "--host", "127.0.0.2", EVENTSTORE_SERVER__HOST="127.0.0.3") as (_, address):
        assert address.startswith("http://127.0.0.2:")
    with running(folder, "serve", EVENTSTORE_SERVER__HOST="127.0.0.3") as (_, address):
        assert address.startswith("http://127.0.0.3:")


def test_init(tmp_path: Path) -> None:
    """init writes the commented config file, and changes no file that exists."""
    shipped = (Path(__file__).parents[2] / "config.toml").read_text()
    result = run(tmp_path, "init")
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "config.toml").read_text() == shipped
    assert run(tmp_path, "check-config").returncode == 0
    (tmp_path / "config.toml").write_text("mine")
    assert_refused(run(tmp_path, "init"), "config.toml exists; init does not change it")
    assert (tmp_path / "config.toml").read_text() == "mine"
    assert run(tmp_path, "init", "--config", "other.toml").returncode == 0
    assert (tmp_path / "other.toml").read_text() == shipped
    nowhere = run(tmp_path, "init", "--config", "nowhere/other.toml")
    assert_refused(nowhere, "cannot write nowhere/other.toml: No such file or directory")
