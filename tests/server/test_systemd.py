"""The notes that a server sends to systemd, and the unit of the documentation."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.api import until
from support.processes import DEADLINE, ServerProcess

DOCS = Path(__file__).parents[2] / "docs"
UNIT = DOCS / "deploy" / "socketio-eventstore.service"

BLOCKING = """
import os, pathlib, time

def register(sio):
    pathlib.Path("variables").write_text(" ".join(os.environ))
    async def block(sid):
        time.sleep(3600)
    sio.on("block", block)
"""


class ServiceManager:
    """A socket that takes the notes of a service, as systemd does."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE)
        self.socket.bind(address.replace("@", "\0", 1))
        self.address = address

    def environment(self, watchdog_seconds: float = 0.0) -> dict[str, str]:
        usec = str(int(watchdog_seconds * 1e6))
        return {"NOTIFY_SOCKET": self.address} | ({"WATCHDOG_USEC": usec} if watchdog_seconds else {})

    def note(self) -> dict[str, str]:
        """The next note."""
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServiceManager]:
    name = f"@eventstore-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    manager = ServiceManager(name)
    yield manager
    manager.socket.close()


def until_silent(manager: ServiceManager) -> None:
    """Waits until no note has come for several times the watchdog's time."""
    manager.socket.settimeout(1.0)
    with suppress(TimeoutError):
        while True:
            manager.note()


def serving(folder: Path, manager: ServiceManager, watchdog_seconds: float = 0.0) -> ServerProcess:
    handlers = folder / "blocking.py"
    handlers.write_text(BLOCKING)
    (folder / "server").mkdir()
    config = {"server": {"drain": 5.0, "shutdown_grace": 15.0}}
    server = ServerProcess(folder / "server", config, handlers)
    server.environ |= manager.environment(watchdog_seconds)
    return server


def test_start_and_stop(manager: ServiceManager, tmp_path: Path) -> None:
    """systemd learns when the server listens, when it stops, and how long that may take."""
    with serving(tmp_path, manager) as server:
        assert manager.note() == {"READY": "1", "STATUS": server.url}
        server.terminate()
        assert manager.note() == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "30000000"}


def test_handlers_have_no_variables_of_systemd(manager: ServiceManager, tmp_path: Path) -> None:
    """A program that a handler starts cannot speak for the server."""
    with serving(tmp_path, manager, 1.0) as server:
        variables = (server.folder / "variables").read_text().split()
        assert "PATH" in variables and not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(variables)


def test_watchdog(manager: ServiceManager, tmp_path: Path) -> None:
    """A server whose event loop runs proves it again and again; one that stands still does not."""
    with serving(tmp_path, manager, 0.2) as server:
        assert "READY" in manager.note()
        for _ in range(3):
            assert manager.note() == {"WATCHDOG": "1"}
        os.kill(server.pid, signal.SIGSTOP)
        until_silent(manager)
        os.kill(server.pid, signal.SIGCONT)
        manager.socket.settimeout(DEADLINE)
        assert manager.note() == {"WATCHDOG": "1"}


def test_watchdog_of_another_process(manager: ServiceManager, tmp_path: Path) -> None:
    """A watchdog that belongs to another process gets no proofs."""
    server = serving(tmp_path, manager, 0.2)
    server.environ["WATCHDOG_PID"] = "1"
    with server:
        assert "READY" in manager.note()
        server.terminate()
        assert "STOPPING" in manager.note()


def test_server_without_a_listening_manager(tmp_path: Path) -> None:
    """A socket that is gone is a warning, and the server serves."""
    server = ServerProcess(tmp_path)
    server.environ["NOTIFY_SOCKET"] = str(tmp_path / "nothing")
    with server:
        until(lambda: "systemd could not be told READY=1" in server.log)
        assert server.terminate().code == 0


def test_unit_is_valid(tmp_path: Path) -> None:
    """systemd-analyze finds nothing in the unit and its addition, once program, folder and user exist."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed: apt install systemd")
    text = UNIT.read_text()
    assert "EVENTSTORE_" not in text  # the commands in a shell have no variables of the unit
    filled = text.replace("/srv/eventstore/.venv/bin/socketio-eventstore", sys.executable)
    filled = filled.replace("/srv/eventstore", str(tmp_path)).replace("User=eventstore", "User=root")
    assert filled.count(str(tmp_path)) == 2 and "User=root" in filled
    unit = tmp_path / UNIT.name
    (addition,) = re.findall(r"```ini\n(.*?)```", (DOCS / "deployment.md").read_text(), re.DOTALL)
    unit.write_text(filled + addition)
    command = [analyze, "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_mistakes_in_units_are_found(tmp_path: Path) -> None:
    """systemd-analyze says so when a key of a unit does not exist."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed: apt install systemd")
    unit = tmp_path / "wrong.service"
    unit.write_text(f"[Service]\nExecStart={sys.executable}\nWatchdogSecs=3\n")
    command = [analyze, "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "WatchdogSecs" in done.stderr
