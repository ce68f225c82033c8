"""Servers as separate processes, which a test can kill."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from support.new_databases import create_database

DEADLINE = 60.0
"""The timeout of every wait; generous, since the machines are noisy."""

HANDLERS = Path(__file__).with_name("handlers_for_tests.py")
NOT_ON_SERVERS = Path(__file__).with_name("not_on_servers")
"""python-socketio imports the packages for its clients if present, for a fifth of a server's start."""
HOST = "127.0.0.1"
PORTS = range(10_000, 32_000)
"""Below the ports of outgoing connections: no program takes a server's port while it is down."""
COVERAGE = "COVERAGE_PROCESS_CONFIG"
"""The variable by which coverage measures a child process."""
MEASURED = 3
"""Coverage measures every third server, since a measured server takes a quarter longer."""

REPORTS = (" more times within ", ": Ended after ")
"""Parts of the lines with the count of a repeated failure, each ten seconds."""

_starts = itertools.count()


def _ports_of_this_worker() -> list[int]:
    """A share of the ports: another worker could take a port between a look at it and the server's start."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = list(PORTS[number :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))])
    random.SystemRandom().shuffle(ports)
    return ports


_unused_ports = _ports_of_this_worker()


def free_port() -> int:
    """A port without a listener. A server keeps the port over restarts: clients return to the same address.

    No port is given twice: the first server may be down at the moment.
    """
    while True:
        port = _unused_ports.pop()
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


@dataclass(frozen=True)
class Termination:
    """The exit code of a process, and the seconds from the signal to the exit."""

    code: int
    duration: float


class ServerCommand:
    """A context manager around any program that serves Socket.IO on ``port``."""

    scheme = "http"
    healthy: tuple[str, int] = ("/nothing", 404)
    """The path of the readiness check, and the status of a ready server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.database = folder / "data" / "events.db"
        self.has_database = False
        """Whether a start finds a database without rows: most tests are not about a first start."""
        self.log_file = folder / "server.log"
        self.environ = {"EVENTSTORE_LOG__FORMAT": "text"}
        """Variables of the process, besides the variables of the tests."""
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}"

    @property
    def log(self) -> str:
        """The output of all starts of the server."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def lines(self) -> list[str]:
        """The lines of the log without the repeated lines of a failure each ten seconds."""
        return [line for line in self.log.splitlines() if not any(part in line for part in REPORTS)]

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when the server is ready; otherwise fails with the output."""
        assert not self.running, "the server runs already"
        if self.has_database:
            create_database(self.database)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSTORE_")}
        if next(_starts) % MEASURED:
            inherited.pop(COVERAGE, None)
        search_path = os.pathsep.join([str(NOT_ON_SERVERS), *filter(None, [inherited.get("PYTHONPATH")])])
        # A file takes any amount of output; a pipe without a reader would stop the server.
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=inherited | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": search_path} | self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL: the process runs no more code."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE)

    def terminate(self, by: signal.Signals = signal.SIGTERM) -> Termination:
        """Sends the signal and waits for the end of the process."""
        assert self._process is not None and self.running, "the server does not run"
        asked = time.monotonic()
        self._process.send_signal(by)
        return Termination(self._process.wait(DEADLINE), time.monotonic() - asked)

    def restart(self) -> None:
        """A crash and a new start."""
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            print(f"--- {self.log_file}\n{self.log}")
            return
        # Otherwise an error swallowed by a task of the server would leave the test green.
        assert "Traceback (most recent call last)" not in self.log, self.log
        assert "never awaited" not in self.log and "never retrieved" not in self.log, self.log

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        give_up = time.monotonic() + DEADLINE
        while time.monotonic() < give_up:
            if process.poll() is not None:
                raise AssertionError(f"the server ended with {process.returncode} at start:\n{self.log}")
            if self._is_ready():
                return
            try:
                process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
        raise AssertionError(f"the server was not ready after {DEADLINE} s:\n{self.log}")

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self.port, timeout=DEADLINE)

    def _is_ready(self) -> bool:
        path, status = self.healthy
        connection = self._connection()
        try:
            connection.request("GET", path)
            return connection.getresponse().status == status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class ServerProcess(ServerCommand):
    """``socketio-eventstore serve`` with a config file in ``folder`` and the handlers for tests beside it.

    ``config`` is either the whole text of the file or, table by table, the differences from the defaults of
    the tests; a table with None is left out.
    """

    healthy = ("/healthz", 200)

    def __init__(
        self,
        folder: Path,
        config: str | Mapping[str, Mapping[str, object] | None] | None = None,
        handlers: Path = HANDLERS,
    ) -> None:
        super().__init__(folder)
        self.config_file = folder / "config.toml"
        shutil.copy(handlers, folder)
        self.config_file.write_text(
            config if isinstance(config, str) else self._config_text(handlers.stem, config or {})
        )
        self.has_database = not isinstance(config, str) and _has_usual_store(config or {})

    def command(self) -> Sequence[str]:
        module = "socketio_eventstore"
        return (sys.executable, "-m", module, "serve", "--config", str(self.config_file))

    def _config_text(self, handlers: str, changes: Mapping[str, Mapping[str, object] | None]) -> str:
        tables: dict[str, dict[str, object] | None] = {
            # Frequent pings confirm the events. The other times are for slow machines: sessions that are
            # away, and the events that a module's server has from its first test, must stay.
            "server": {"port": self.port, "handlers": handlers, "ping_interval": 1.0, "ping_timeout": 20.0},
            "connection_state_recovery": {"max_disconnection_duration": 600.0},
            "store": {"path": "data/events.db"},
        }
        for name, change in changes.items():
            tables[name] = None if change is None else {**(tables.get(name) or {}), **change}
        return "\n".join(
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
            for name, table in tables.items()
            if table is not None
        )


def _has_usual_store(changes: Mapping[str, Mapping[str, object] | None]) -> bool:
    recovery, store = changes.get("connection_state_recovery", {}), changes.get("store", {})
    return recovery is not None and store is not None and "path" not in store


class EmbeddedServer(ServerCommand):
    """An application that embeds the server: a script called with port and database."""

    def __init__(self, folder: Path, script: str) -> None:
        super().__init__(folder)
        self.database.parent.mkdir()
        self.has_database = True
        self.script_file = folder / "application.py"
        self.script_file.write_text(script)
        shutil.copy(HANDLERS, folder)

    def command(self) -> Sequence[str]:
        return (sys.executable, str(self.script_file), str(self.port), str(self.database))


class TlsServer(EmbeddedServer):
    """An application that serves https, with a self-signed certificate."""

    scheme = "https"

    def _connection(self) -> http.client.HTTPConnection:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(HOST, self.port, timeout=DEADLINE, context=context)
