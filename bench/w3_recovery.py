"""W3, one recovery with ten missed events, against the size of the log.

Two cases: the client missed the last ten events of a log of a given size; or the client was away while the
log grew from the previous size to the given size, with ten events, evenly spread, for the client.
"""

from __future__ import annotations

from statistics import median

from bench.away import fill, settle_in
from bench.client import Client
from bench.crowd import Crowd
from bench.machine import Meter
from bench.results import Row
from bench.servers import HOUR_SECONDS, MEMORY, NORMAL, REDIS_NO, Kind, Server
from bench.session import Bench

MISSED = 10
LARGEST_WITH_REDIS = 100_000
"""The reference reads the stream at most a hundred times for a recovery, for seconds."""


def label(size: int) -> str:
    """1k, 100k or 1M."""
    return f"{size // 1_000_000}M" if size >= 1_000_000 else f"{size // 1000}k"


def recover(crowd: Crowd, client: Client, server: Server) -> tuple[float, float]:
    """Reconnect a client: ms from CONNECT to the last missed event, and seconds of processor time."""
    with Meter(server.pids) as meter:
        crowd.connect([client], missed=MISSED)
    if not client.recovered:
        raise RuntimeError("the session was not recovered")
    crowd.drop([client])
    return (client.ready_at - client.asked_at) * 1000, meter.server_cpu


def measure(bench: Bench, server: Server, sizes: tuple[int, ...], repetitions: int) -> None:
    """Let the log grow and recover at each size."""
    with Crowd(server.port) as crowd:
        control = Client()
        crowd.connect([control])
        long_away = {size: [Client() for _ in range(repetitions)] for size in sizes}
        for size, clients in long_away.items():
            settle_in(crowd, control, clients, f"long-{size}")
            crowd.drop(clients)
        logged = 0
        for size in sizes:
            fill(crowd, control, size - logged, f"long-{size}", MISSED)
            logged = size
            shortly = []
            for number in range(repetitions):
                client, room = Client(), f"short-{size}-{number}"
                settle_in(crowd, control, [client], room)
                crowd.drop([client])
                fill(crowd, control, MISSED, room, MISSED)
                shortly.append(recover(crowd, client, server))
            _note(bench, f"the last ten of {label(size)}", server, shortly)
            if not (server.kind.appendfsync and size > LARGEST_WITH_REDIS):
                long = [recover(crowd, client, server) for client in long_away[size]]
                _note(bench, f"ten spread over {label(size)}", server, long)


def _note(bench: Bench, case: str, server: Server, recoveries: list[tuple[float, float]]) -> None:
    durations, cpu = zip(*recoveries, strict=True)
    bench.results.add(case, server.kind.name, p50=median(durations))
    bench.results.spend(case, server.kind.name, median(cpu), 1)


def run(bench: Bench) -> None:
    """All of W3."""
    sizes = bench.pick((1000, 100_000, 1_000_000), (1000, 10_000))
    kinds = bench.servers(MEMORY, NORMAL, REDIS_NO)
    for _, kind in bench.interleaved(["recovery"], kinds):
        with bench.start(kind, away_seconds=HOUR_SECONDS) as server:
            measure(bench, server, _sizes_for(kind, sizes), bench.pick(20, 5))
    for case in ("the last ten of", "ten spread over"):
        smallest = f"{case} {label(sizes[0])}"
        for kind in kinds:
            if kind.synchronous:
                _compare(bench, case, smallest, sizes, kind)


def _sizes_for(kind: Kind, sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in sizes if not kind.appendfsync or size <= LARGEST_WITH_REDIS)


def _compare(bench: Bench, case: str, smallest: str, sizes: tuple[int, ...], kind: Kind) -> None:
    for size in sizes:
        here = f"{case} {label(size)}"
        for reference in (MEMORY, REDIS_NO):
            bench.results.compare(
                Row("W3", here, "p50", "ms", kind.name, reference.name, required="≤ 5 ms, aim 3")
            )
        if here != smallest:
            bench.results.compare(
                Row(
                    "W3",
                    here,
                    "p50",
                    "ms",
                    kind.name,
                    kind.name,
                    reference_case=smallest,
                    required="≤ 1.5×",
                )
            )
