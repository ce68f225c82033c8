"""Facts of the operating system: cores, processor time, memory, limits."""

from __future__ import annotations

import os
import platform
import resource
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

SERVER_CORE = 0
LOAD_CORE = 1
OTHER_CORES = (
    sorted(os.sched_getaffinity(0) - {SERVER_CORE, LOAD_CORE}) if hasattr(os, "sched_getaffinity") else []
)
"""The cores without a server and load generator; called before ``claim_load_core``."""

_CPUCLOCK_SCHED = 2


def claim_load_core() -> None:
    """Put this process, the load generator, on a core, and allow thousands of sockets.

    Raises SystemExit on a machine without two cores.
    """
    cores = os.sched_getaffinity(0)
    if not {SERVER_CORE, LOAD_CORE} <= cores:
        sys.exit(
            f"The benchmark needs the cores {SERVER_CORE} and {LOAD_CORE}; this process may use {cores}."
        )
    os.sched_setaffinity(0, {LOAD_CORE})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def move(pids: Iterable[int], core: int) -> None:
    """Put processes with all their threads on a core."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


def cpu_seconds(pids: Iterable[int]) -> float:
    """The processor time of the processes, user and system, ended threads included."""
    return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    # The process's own clock counts nanoseconds: /proc/<pid>/stat has ticks of 10 ms, and schedstat forgets
    # ended threads. The number is as in clock_getcpuclockid(3), which Python lacks.
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


def resident_bytes(pid: int) -> int:
    """The resident memory of the process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def settle(pids: Iterable[int], quiet_seconds: float = 0.3, longest_seconds: float = 60.0) -> None:
    """Wait until the processes do next to nothing. Raises TimeoutError."""
    pids = list(pids)
    deadline = time.monotonic() + longest_seconds
    before = cpu_seconds(pids)
    while time.monotonic() < deadline:
        time.sleep(quiet_seconds)
        after = cpu_seconds(pids)
        if after - before < 0.02 * quiet_seconds:
            return
        before = after
    raise TimeoutError(f"The server was still busy after {longest_seconds} s.")


@dataclass
class Meter:
    """Time, the server's processor time and the load generator's own, over a ``with`` block."""

    pids: list[int]
    wall: float = 0.0
    server_cpu: float = 0.0
    load_cpu: float = 0.0
    _begun: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), repr=False)

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), cpu_seconds(self.pids), time.process_time()

    def __enter__(self) -> Self:
        self._begun = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        now = self._now()
        self.wall, self.server_cpu, self.load_cpu = (b - a for a, b in zip(self._begun, now, strict=True))

    @property
    def load_share(self) -> float:
        """The load generator's use of its core."""
        return self.load_cpu / self.wall if self.wall else 0.0

    @property
    def server_share(self) -> float:
        """The server's use of its core."""
        return self.server_cpu / self.wall if self.wall else 0.0


def write_microseconds(rounds: int = 200) -> float:
    """The processor time that the kernel takes for a small write to a TCP connection, in microseconds.

    Each server pays this time for each write to a client, which limits the ratios.
    """
    at_once, payload, used = 100, bytes(100), 0.0
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as sender,
        listening.accept()[0] as receiver,
    ):
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(rounds):
            begun = time.process_time()
            for _ in range(at_once):
                sender.send(payload)
            used += time.process_time() - begun
            left = at_once * len(payload)
            while left:
                left -= len(receiver.recv(left))
    return used / (rounds * at_once) * 1e6


def description() -> dict[str, str]:
    """The machine, for readers of the figures."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "a write to a TCP connection": f"{write_microseconds():.1f} µs of processor time",
        "load average at start": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }
