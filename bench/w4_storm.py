"""W4, reconnect storm: everybody is back at once and has missed a hundred events, the same for all."""

from __future__ import annotations

from bench.away import fill, settle_in
from bench.client import EVENT, Client
from bench.crowd import Crowd
from bench.machine import Meter, settle
from bench.results import Row
from bench.servers import BUN, FULL, MEMORY, NORMAL, Kind, Server
from bench.session import Bench

MISSED = 100
ROOM = "everybody"


def storm(bench: Bench, server: Server, crowd: Crowd, clients: list[Client], case: str) -> None:
    """Reconnect all clients and check that each has what it missed, once."""
    with Meter(server.pids) as meter:
        crowd.connect(clients, missed=MISSED)
    settle(server.pids)
    crowd.until(lambda: True)
    recovered = [client for client in clients if client.recovered]
    exact = sum(1 for client in recovered if client.buffer.count(EVENT) == MISSED)
    bench.note_load(f"W4 {case}, {server.kind.label}", meter)
    bench.results.add(
        case,
        server.kind.name,
        cpu_per_client=meter.server_cpu / len(clients) * 1000,
        wall=meter.wall,
        recovered=len(recovered) / len(clients) * 100,
        exact=exact / len(clients) * 100,
    )


def measure(bench: Bench, server: Server, size: int) -> None:
    """One storm on one server."""
    with Crowd(server.port) as crowd:
        control, clients = Client(), [Client() for _ in range(size)]
        crowd.connect([control])
        settle_in(crowd, control, clients, ROOM)
        crowd.drop(clients)
        settle(server.pids)
        fill(crowd, control, MISSED, ROOM, MISSED)
        storm(bench, server, crowd, clients, case_of(size))


def case_of(size: int) -> str:
    """The name of a case."""
    return f"storm of {size} clients"


def run(bench: Bench) -> None:
    """All of W4."""
    sizes = bench.pick((1000, 5000), (300,))
    kinds = bench.servers(MEMORY, BUN, NORMAL, FULL)
    for size, kind in bench.interleaved(sizes, kinds):
        with bench.start(kind) as server:
            measure(bench, server, size)
    for size in sizes:
        for kind in kinds:
            if kind.synchronous:
                _compare(bench, case_of(size), kind)


def _compare(bench: Bench, case: str, kind: Kind) -> None:
    name = kind.name
    rows = (
        Row("W4", case, "cpu_per_client", "ms", name, MEMORY.name, required="≤ 1×, aim 0.5×"),
        Row("W4", case, "cpu_per_client", "ms", name, BUN.name),
        Row("W4", case, "wall", "s", name, MEMORY.name),
        Row("W4", case, "wall", "s", name, BUN.name),
        Row("W4", case, "exact", "%", name, MEMORY.name, more_is_better=True, required="100 %"),
        Row("W4", case, "exact", "%", name, BUN.name, more_is_better=True, required="100 %"),
    )
    for row in rows:
        bench.results.compare(row)
