"""W4, reconnect storm: all clients return at once, with the same hundred missed events.

And the processor time of a connection and of a recovery with few missed events, all clients at once.
"""

from __future__ import annotations

from contextlib import closing

from bench import costs
from bench.away import fill, settle_in
from bench.client import EVENT, Client
from bench.crowd import Crowd
from bench.machine import Meter, settle
from bench.results import CPU, Row
from bench.servers import BUN, FULL, HOUR_SECONDS, MEMORY, NORMAL, Kind, Server
from bench.session import Bench

MISSED = 100
ROOM = "everybody"


def storm(bench: Bench, server: Server, crowd: Crowd, clients: list[Client], case: str) -> None:
    """Reconnect all clients and check that each has each missed event once."""
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
    bench.results.spend(case, server.kind.name, meter.server_cpu, len(clients))


def measure(bench: Bench, server: Server, size: int) -> None:
    """A storm on a server."""
    with Crowd(server.port) as crowd:
        control, clients = Client(), [Client() for _ in range(size)]
        crowd.connect([control])
        settle_in(crowd, control, clients, ROOM)
        crowd.drop(clients)
        settle(server.pids)
        fill(crowd, control, MISSED, ROOM, MISSED)
        storm(bench, server, crowd, clients, case_of(size))


def sessions(bench: Bench, server: Server, size: int) -> None:
    """Connect ``size`` clients at once, and recover all at once after a few events."""
    plan = costs.Plan(slices=1, seconds=0.0, clients=size)
    with closing(costs.sessions(plan, server)) as steps:
        for step in steps:
            settle(server.pids)
            with Meter(server.pids) as meter:
                count = step.run()
                settle(server.pids)  # deferred work of the server is a part of the price
            case = at_once(step.operation, size)
            bench.results.spend(case, server.kind.name, meter.server_cpu, count)


def at_once(operation: str, size: int) -> str:
    """The name of a case of ``sessions``."""
    return f"{operation}, {size} at once"


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
        if size == sizes[-1]:
            with bench.start(kind, away_seconds=HOUR_SECONDS) as server:
                sessions(bench, server, size)
    for size in sizes:
        for kind in kinds:
            if kind.synchronous:
                _compare(bench, case_of(size), kind)
    for kind in kinds:
        if kind.synchronous:
            _compare_sessions(bench, sizes[-1], kind)


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


def _compare_sessions(bench: Bench, size: int, kind: Kind) -> None:
    for operation in (costs.CONNECTION, costs.RECOVERY):
        for reference in (MEMORY, BUN):
            row = Row("W4", at_once(operation, size), CPU, "µs", kind.name, reference.name)
            bench.results.compare(row)
