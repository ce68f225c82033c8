"""W9, attacks: the latency of honest clients before, during and after twenty attacks on the same server.

The attacks are in ``tests/support/twenty_attacks.py``. Attacks run in a separate process, on separate cores
if the machine has more than two. On two cores, the process shares a core with the load generator, at a lower
priority.

Two controls show other costs of the attackers: the same attacks on a second server. On the core of the load
generator, the second server shares caches, kernel and disk with the measured server. On the core of the
measured server, the second server also takes processor time, as any other program would.

A latency begins when the publisher has sent an event, and ends when the kernel has the event for the
receiving client: delays of the load generator do not count.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import by_attack, machine, wire
from bench.client import Client
from bench.crowd import Crowd
from bench.handlers import summary_ms
from bench.machine import Meter
from bench.results import Row
from bench.servers import FULL, NORMAL, PROJECT, Server
from bench.session import Bench

ROOM = "well-behaved"
CLIENTS = 50
RATE = 40.0
"""Events a second."""
LONGEST_SECONDS = 120.0
QUIET, ATTACKED = "honest clients, no attack", "honest clients, twenty attacks"
BESIDE = "honest clients, attacks on a server beside"
SAME_CORE = "honest clients, attacks on a server on the same core"
CONFIG = """
[server]
port = {port}
handlers = "support.handlers_under_attack"
max_payload = 100000
connect_timeout = 2.0                 # the short times let each attack reach its bound
ping_interval = 2.0
ping_timeout = 4.0
websocket_compression = 1000

[connection_state_recovery]
max_disconnection_duration = {away}

[store]
synchronous = "{synchronous}"
prune_interval = 1.0

[limits]
pending_handshakes = 300
rooms_per_session = 100
namespaces_per_connection = 2000
"""

_ATTACKERS_PLACE = (
    ["taskset", "--cpu-list", ",".join(map(str, machine.OTHER_CORES))]
    if machine.OTHER_CORES
    else ["nice", "-n", "10"]
)
_TOLD = re.compile(rb'42\["told",\{"n":(\d+),"t":(\d+)\}')


@dataclass
class Honest:
    """The clients that receive numbered events, and the received numbers."""

    clients: Sequence[Client]
    sent: int = 0
    received: dict[Client, list[int]] = field(default_factory=dict)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    """The sending time of each event, by the wall clock, and the latency, both in seconds."""

    def __call__(self, client: Client, payload: bytes, size: int) -> None:
        """Take a frame: an event, a heartbeat or an acknowledgement."""
        if payload == b"2":
            client.send(wire.text_frame("3"))
        elif match := _TOLD.match(payload):
            sent_at = int(match[2]) / 1e6
            latency_seconds = client.arrived_at - sent_at
            if latency_seconds < 0:
                raise RuntimeError(
                    f"The kernel noted that event {int(match[1])} had arrived at {client.arrived_at} s, "
                    f"{-latency_seconds} s before it was sent."
                )
            self.received[client].append(int(match[1]))
            self.latencies.append((sent_at, latency_seconds))

    @property
    def wrong(self) -> int:
        """The number of events that a client has not received, or received out of order or more than once."""
        expected = list(range(1, self.sent + 1))
        return sum(
            abs(len(numbers) - self.sent) or sum(a != b for a, b in zip(numbers, expected, strict=True))
            for numbers in self.received.values()
        )

    def join(self, crowd: Crowd) -> None:
        """Connect, join the room and begin to receive."""
        crowd.connect(self.clients, at_once=10)
        for client in self.clients:
            client.buffer.clear()
            client.send(wire.event("join", ROOM, ack=0))
        for client in self.clients:
            crowd.until(lambda buffer=client.buffer: b'430["joined"]' in buffer)  # type: ignore[misc]
            self.received[client] = []
            crowd.watch(client, self)
        crowd.note_arrivals(self.clients)

    def send(self, crowd: Crowd, seconds: float) -> None:
        """Publish at a steady rate, and serve the clients meanwhile."""
        begun = time.monotonic()
        for number in range(max(1, round(RATE * seconds))):
            while (wait := begun + number / RATE - time.monotonic()) > 0:
                crowd.step(wait)
            self.sent += 1
            data = {"n": self.sent, "t": round(time.time() * 1e6)}
            self.clients[0].send(wire.event("tell", data))

    def take_latencies(self, crowd: Crowd) -> list[tuple[float, float]]:
        """Wait for the events on the way; return all latencies since the last call."""
        crowd.until(lambda: all(len(numbers) >= self.sent for numbers in self.received.values()))
        latencies, self.latencies = self.latencies, []
        return latencies


class Attackers:
    """The attacking process."""

    def __init__(self, output: Path) -> None:
        self._output = output

    @property
    def said(self) -> str:
        """The output of the process. Raises RuntimeError once the process has ended."""
        text = self._output.read_text()
        if self._process.poll() is not None:
            raise RuntimeError(f"The attackers have ended:\n{text[-2000:]}")
        return text

    @contextmanager
    def attacking(self, port: int) -> Iterator[None]:
        """Run the process."""
        paths = [PROJECT / name for name in ("tests", "server", "store", "migrations")]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*_ATTACKERS_PLACE, sys.executable, "-m", "support.twenty_attacks", str(port)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield
        finally:
            self._process.kill()
            self._process.wait()


def measure(bench: Bench, server: Server, other: Server, rounds: int, quiet_seconds: float) -> None:
    """The latencies on a server: before and during attacks, during attacks on ``other``, and afterwards."""
    name = server.kind.name
    latencies: dict[str, list[tuple[float, float]]] = {}
    during = ""
    with Crowd(server.port) as crowd:
        honest = Honest([Client() for _ in range(CLIENTS)])
        honest.join(crowd)
        honest.send(crowd, 1.0)  # warm-up
        honest.take_latencies(crowd)
        with Meter(server.pids) as calm:
            honest.send(crowd, quiet_seconds / 2)
            quiet = honest.take_latencies(crowd)
        bench.results.spend(QUIET, name, calm.server_cpu, len(quiet) // CLIENTS)
        for case, attacked, core in (
            (ATTACKED, server, None),
            (BESIDE, other, machine.LOAD_CORE),
            (SAME_CORE, other, machine.SERVER_CORE),
        ):
            if core is not None:
                machine.move(attacked.pids, core)
            with Meter(server.pids) as meter:
                latencies[case], said = _under_attack(honest, crowd, attacked, rounds)
            bench.results.spend(case, name, meter.server_cpu, len(latencies[case]) // CLIENTS)
            if case == ATTACKED:
                bench.note_load(f"W9 {case}, {server.kind.label}", meter)
                during = said
        honest.send(crowd, quiet_seconds / 2)
        quiet += honest.take_latencies(crowd)
        honest.send(crowd, 0.5)
        honest.take_latencies(crowd)
    for case, measured in ((QUIET, quiet), *latencies.items()):
        p50, p99 = summary_ms([seconds for _, seconds in measured])
        bench.results.add(case, name, p50=p50, p99=p99)
    bench.results.add(ATTACKED, name, wrong=float(honest.wrong))
    quiet_p99 = summary_ms([seconds for _, seconds in quiet])[1]
    bench.say("\n".join([server.kind.label, *by_attack.table(during, latencies[ATTACKED], quiet_p99)]))


def _under_attack(
    honest: Honest, crowd: Crowd, attacked: Server, rounds: int
) -> tuple[list[tuple[float, float]], str]:
    """The latencies while the measured or another server is attacked, and the output of the attackers."""
    attackers = Attackers(attacked.folder / "attackers.log")
    with attackers.attacking(attacked.port):
        deadline = time.monotonic() + LONGEST_SECONDS
        while by_attack.rounds(said := attackers.said) < rounds and time.monotonic() < deadline:
            honest.send(crowd, 0.5)
    if (finished := by_attack.rounds(said)) < rounds:
        raise TimeoutError(f"The attacks have run {finished} times within {LONGEST_SECONDS:g} s.")
    return honest.take_latencies(crowd), said


def run(bench: Bench) -> None:
    """All of W9."""
    rounds, quiet_seconds = bench.pick((3, 20.0), (1, 4.0))
    kinds = bench.servers(FULL, NORMAL)
    for _, kind in bench.interleaved([ATTACKED], kinds):
        with (
            bench.start(kind, away_seconds=3.0, config=CONFIG) as server,
            bench.start(kind, away_seconds=3.0, config=CONFIG) as other,
        ):
            measure(bench, server, other, rounds, quiet_seconds)
    for kind in kinds:
        name = kind.name
        for case, p99 in ((ATTACKED, "≤ 3×"), (BESIDE, ""), (SAME_CORE, "")):
            for metric, required in (("p50", ""), ("p99", p99)):
                row = Row("W9", case, metric, "ms", name, name, reference_case=QUIET, required=required)
                bench.results.compare(row)
        for control in (BESIDE, SAME_CORE):
            row = Row("W9", ATTACKED, "p99", "ms", name, name, reference_case=control)
            bench.results.compare(row)
        bench.results.compare(Row("W9", ATTACKED, "wrong", "events", kind.name, required="0"))
