"""The program as a process, for the tests of the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

COMMAND = (sys.executable, "-m", "socketio_eventstore")
MINIMAL = '[server]\nport = 0\nhandlers = "handlers"\n[connection_state_recovery]\n'


def write_program_folder(folder: Path) -> Path:
    """Write a config file and a module of handlers. Returns the folder."""
    (folder / "config.toml").write_text(MINIMAL)
    (folder / "handlers.py").write_text("def register(sio):\n    pass\n")
    return folder


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return completed(folder, (*COMMAND, *arguments), environ)


def script(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return completed(folder, (sys.executable, "-c", code, *arguments), {})


def completed(
    folder: Path, command: Sequence[str], environ: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def running(folder: Path, *arguments: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the program. Yields the process and the printed address."""
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
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSTORE_")}
    return inherited | {"EVENTSTORE_LOG__FORMAT": "text"} | changes


def assert_refused(result: subprocess.CompletedProcess[str], *lines: str) -> None:
    """Check for exit code 2, a line per reason with the program's name, and no other output."""
    assert result.stderr.splitlines() == [f"socketio-eventstore: {line}" for line in lines]
    assert (result.returncode, result.stdout) == (2, "")
