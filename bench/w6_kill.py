"""W6, kill -9: the share of a killed server's clients that the next server recovers, with missed events."""

from __future__ import annotations

from bench.away import fill, settle_in
from bench.client import Client
from bench.crowd import Crowd
from bench.results import Row
from bench.servers import FULL, MEMORY, NORMAL, REDIS_NO, Server
from bench.session import Bench
from bench.w4_storm import MISSED, ROOM, storm


def measure(bench: Bench, server: Server, size: int) -> None:
    """Kill a server with clients, and publish on the next server before the clients are back."""
    clients = [Client() for _ in range(size)]
    with Crowd(server.port) as crowd:
        control = Client()
        crowd.connect([control])
        settle_in(crowd, control, clients, ROOM)
        server.restart()
    with Crowd(server.port) as crowd:
        control = Client()
        crowd.connect([control])
        fill(crowd, control, MISSED, ROOM, MISSED)
        storm(bench, server, crowd, clients, case_of(size))


def case_of(size: int) -> str:
    """The name of a case."""
    return f"kill -9 under {size} clients"


def run(bench: Bench) -> None:
    """All of W6."""
    size = bench.pick(1000, 200)
    kinds = bench.servers(MEMORY, NORMAL, FULL, REDIS_NO)
    for _, kind in bench.interleaved([case_of(size)], kinds):
        with bench.start(kind) as server:
            measure(bench, server, size)
    for kind in kinds:
        if kind.synchronous:
            case, name = case_of(size), kind.name
            for reference in (MEMORY.name, REDIS_NO.name):
                bench.results.compare(
                    Row("W6", case, "exact", "%", name, reference, more_is_better=True, required="100 %")
                )
            bench.results.compare(Row("W6", case, "cpu_per_client", "ms", name))
