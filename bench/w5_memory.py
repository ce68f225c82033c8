"""W5, memory: of an idle client, and of a hundred thousand events in the log."""

from __future__ import annotations

from bench.away import fill
from bench.client import Client
from bench.crowd import Crowd
from bench.machine import resident_bytes, settle
from bench.results import Row
from bench.servers import HOUR_SECONDS, MEMORY, NORMAL, STOCK, Server
from bench.session import Bench

WARM_UP_CLIENTS = 200
CLIENTS = "an idle client"
EVENTS = "100k events in the log"


def memory(crowd: Crowd, control: Client, server: Server) -> int:
    """Resident bytes of a quiet server after garbage collection."""
    settle(server.pids)
    control.buffer.clear()
    crowd.ask([control], "gc")
    return resident_bytes(server.pid)


def measure(bench: Bench, server: Server, clients: int, events: int) -> None:
    """Both on a server."""
    name = server.kind.name
    with Crowd(server.port) as crowd:
        control = Client()
        crowd.connect([control])
        crowd.connect([Client() for _ in range(WARM_UP_CLIENTS)], at_once=200)
        before = memory(crowd, control, server)
        idle = [Client() for _ in range(clients)]
        crowd.connect(idle, at_once=200)
        after = memory(crowd, control, server)
        bench.results.add(CLIENTS, name, memory=(after - before) / clients / 1024)
        if server.kind is not STOCK:
            fill(crowd, control, events, "nobody", 1)
            before = memory(crowd, control, server)
            fill(crowd, control, events, "nobody", 1)
            after = memory(crowd, control, server)
            bench.results.add(EVENTS, name, memory=(after - before) / events * 100_000 / 1e6)


def run(bench: Bench) -> None:
    """All of W5."""
    kinds = bench.servers(MEMORY, NORMAL, STOCK)
    for _, kind in bench.interleaved(["memory"], kinds):
        with bench.start(kind, away_seconds=HOUR_SECONDS) as server:
            measure(bench, server, bench.pick(5000, 500), bench.pick(100_000, 20_000))
    for kind in kinds:
        if kind.synchronous:
            for reference, required in ((MEMORY, "≤ 25 KiB, aim 18"), (STOCK, "")):
                row = Row("W5", CLIENTS, "memory", "KiB", kind.name, reference.name, required=required)
                bench.results.compare(row)
            bench.results.compare(
                Row("W5", EVENTS, "memory", "MB", kind.name, MEMORY.name, required="≤ 5 MB")
            )
