"""W7, mass disconnection: all clients leave at once; processor time until the server is quiet again."""

from __future__ import annotations

from bench.away import settle_in
from bench.client import Client
from bench.crowd import Crowd
from bench.machine import Meter, settle
from bench.results import Row
from bench.servers import FULL, MEMORY, NORMAL, STOCK, Server
from bench.session import Bench
from bench.w4_storm import ROOM


def measure(bench: Bench, server: Server, size: int) -> None:
    """A mass disconnection."""
    with Crowd(server.port) as crowd:
        control, clients = Client(), [Client() for _ in range(size)]
        crowd.connect([control])
        settle_in(crowd, control, clients, ROOM)
        settle(server.pids)
        with Meter(server.pids) as meter:
            crowd.drop(clients)
            settle(server.pids)
        cpu = meter.server_cpu / size * 1000
        bench.results.add(case_of(size), server.kind.name, cpu_per_thousand=cpu)
        bench.results.spend(case_of(size), server.kind.name, meter.server_cpu, size)


def case_of(size: int) -> str:
    """The name of a case."""
    return f"{size} clients drop at once"


def run(bench: Bench) -> None:
    """All of W7."""
    size = bench.pick(5000, 500)
    kinds = bench.servers(MEMORY, NORMAL, FULL, STOCK)
    for _, kind in bench.interleaved([case_of(size)], kinds):
        with bench.start(kind) as server:
            measure(bench, server, size)
    for kind in kinds:
        if kind.synchronous:
            for reference in (MEMORY.name, STOCK.name):
                bench.results.compare(
                    Row("W7", case_of(size), "cpu_per_thousand", "s", kind.name, reference, required="< 1 s")
                )
