"""The compared servers, as separate processes on the servers' core."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import bun, machine, postgres
from bench.checkout import Checkout

BENCH = Path(__file__).resolve().parent
PROJECT = BENCH.parent
START_SECONDS = 60.0
HOUR_SECONDS = 3600.0


CONFIG = """
[server]
port = {port}
handlers = "bench.handlers"
ping_interval = 300.0                 # no heartbeat falls into a measurement

[connection_state_recovery]
max_disconnection_duration = {away}

[store]
synchronous = "{synchronous}"
{url}
"""


@dataclass(frozen=True)
class Kind:
    """A server with a setting."""

    name: str
    label: str
    synchronous: str = ""
    """For our log; empty for other servers."""
    appendfsync: str = ""
    """For Redis; empty for servers without Redis."""
    is_postgres: bool = False
    """Whether the server uses PostgreSQL: our log, or the adapter of the reference."""
    source: Path | None = None
    """Another checkout of our server."""


FULL = Kind("ours-full", "eventstore, full", synchronous="full")
POSTGRES = Kind("ours-postgres", "eventstore, PostgreSQL", synchronous="full", is_postgres=True)
NORMAL = Kind("ours-normal", "eventstore, normal", synchronous="normal")
MEMORY = Kind("node-memory", "Node, memory")
BUN = Kind("bun-memory", "Bun, memory")
REDIS_ALWAYS = Kind("node-redis-always", "Node, Redis fsync always", appendfsync="always")
NODE_POSTGRES = Kind("node-postgres", "Node, postgres-adapter", is_postgres=True)
REDIS_NO = Kind("node-redis-no", "Node, Redis no fsync", appendfsync="no")
STOCK = Kind("stock", "python-socketio")


def redis_server() -> str | None:
    """The Redis server of the machine, or the server named by REDIS_SERVER."""
    return os.environ.get("REDIS_SERVER") or shutil.which("redis-server")


def free_port() -> int:
    """A free port, outside of the ports that the system gives to thousands of clients meanwhile."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class Server:
    """A context manager around a server; ``folder`` has the data and the output."""

    kind: Kind
    folder: Path
    source: Path = PROJECT
    """The checkout of our server, unless the kind names another checkout."""
    away_seconds: float = 120.0
    """The time that away sessions are kept."""
    config: str = CONFIG
    """The configuration of ours, with places for port, away and synchronous."""
    url: str = ""
    """A PostgreSQL or Redis started by another server."""
    port: int = field(default_factory=free_port)
    start_seconds: float = 0.0
    """How long the last start took, until the port was open."""
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def pids(self) -> list[int]:
        """The processes of the server, Redis included."""
        return [process.pid for process in self._processes]

    @property
    def pid(self) -> int:
        """The serving process."""
        return self._processes[-1].pid

    @property
    def database(self) -> Path:
        """The place of our log."""
        return self.folder / "data" / "events.db"

    def start(self) -> None:
        """Start the server; returns when the port is open. Raises RuntimeError with the end of the output."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.kind.appendfsync and not self.url:
            port = free_port()
            self._spawn(_redis_command(self.kind, self.folder, port), {})
            self._await_port(port)
            self.url = f"redis://127.0.0.1:{port}"
        if self.kind.is_postgres and not self.url:
            port = free_port()
            postgres.prepare(self.folder / "postgres")
            self._spawn(postgres.command(self.folder / "postgres", port), {})
            self._await_port(port)
            self.url = postgres.url(port)
        self._start_server()

    def restart(self) -> None:
        """SIGKILL and restart the server; Redis lives on."""
        server = self._processes.pop()
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        self._start_server()

    def _start_server(self) -> None:
        begun = time.perf_counter()
        command, environment = self._command()
        self._spawn(command, environment)
        self._await_port(self.port)
        self.start_seconds = time.perf_counter() - begun

    def kill(self) -> None:
        """SIGKILL all processes."""
        for process in reversed(self._processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            ended = bool(self._processes) and self._processes[-1].poll() is not None
            error.add_note(f"{self.kind.label} {'has ended' if ended else 'runs'}:\n{self._output()}")
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        kind = self.kind
        if kind.synchronous:
            config = self.folder / "config.toml"
            config.write_text(
                self.config.format(
                    port=self.port,
                    away=self.away_seconds,
                    synchronous=kind.synchronous,
                    url=f'url = "{self.url}"' if self.url else "",  # older checkouts do not know the key
                )
            )
            checkout = Checkout(kind.source or self.source)
            paths = [*checkout.import_paths(self.folder / "links"), PROJECT, PROJECT / "tests"]
            return checkout.command(config), {"PYTHONPATH": os.pathsep.join(map(str, paths))}
        if kind is STOCK:
            return [sys.executable, str(BENCH / "peers" / "stock.py"), str(self.port)], {
                "PYTHONPATH": str(PROJECT)
            }
        if kind is BUN:
            program = bun.program()
            assert program is not None, "asked for before"
            arguments = [str(self.port), str(int(self.away_seconds * 1000))]
            return [str(program), str(BENCH / "peers" / "bun.mjs"), *arguments], {"NODE_ENV": "production"}
        storage = "redis" if kind.appendfsync else "postgres" if kind.is_postgres else "memory"
        arguments = [str(self.port), storage, str(int(self.away_seconds * 1000)), self.url]
        command = ["node", "--expose-gc", str(BENCH / "peers" / "reference.mjs"), *arguments]
        return command, {"NODE_ENV": "production"}

    def _spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        with (self.folder / "output.log").open("ab") as output:
            process = subprocess.Popen(
                ["taskset", "--cpu-list", str(machine.SERVER_CORE), *command],
                cwd=self.folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)

    def _await_port(self, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if self._processes[-1].poll() is not None:
                break
            time.sleep(0.005)
        raise RuntimeError(f"{self.kind.label} did not start:\n{self._output()}")

    def _output(self) -> str:
        return (self.folder / "output.log").read_text(errors="replace")[-2000:]


def _redis_command(kind: Kind, folder: Path, port: int) -> Sequence[str]:
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": kind.appendfsync,
    }
    program = redis_server()
    assert program is not None, "asked for before"
    return [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
