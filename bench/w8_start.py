"""W8, start-up with a full log: until the port is open, after kill -9, against an empty log."""

from __future__ import annotations

from dataclasses import replace

from bench.away import fill
from bench.client import Client
from bench.crowd import Crowd
from bench.machine import cpu_seconds, resident_bytes
from bench.results import Row
from bench.servers import HOUR_SECONDS, NORMAL, Server
from bench.session import Bench
from bench.w3_recovery import label

ROOMS = 1000


def fill_log(server: Server, size: int) -> None:
    """Let the server write a log of events to a thousand rooms."""
    with Crowd(server.port) as crowd:
        control = Client()
        crowd.connect([control])
        fill(crowd, control, size, "nobody", 1, ROOMS)


def case_of(size: int) -> str:
    """The name of a case."""
    return f"start with {label(size)} events" if size else "start with an empty log"


def run(bench: Bench) -> None:
    """All of W8."""
    sizes = bench.pick((0, 100_000, 1_000_000), (0, 10_000))
    kinds = bench.servers(NORMAL)
    for kind in kinds:
        for size in sizes:
            bench.say(f"{case_of(size)}  {kind.label}")
            with bench.start(kind, away_seconds=HOUR_SECONDS) as server:
                if size:
                    fill_log(server, size)
                for _ in range(bench.rounds):
                    server.restart()
                    memory = resident_bytes(server.pid) / 1e6
                    bench.results.add(case_of(size), kind.name, time=server.start_seconds, memory=memory)
                    bench.results.spend(case_of(size), kind.name, cpu_seconds(server.pids), 1)
    for size in sizes:
        for metric, unit in (("time", "s"), ("memory", "MB")):
            for kind in kinds:
                row = Row("W8", case_of(size), metric, unit, kind.name)
                empty = replace(row, reference=kind.name, reference_case=case_of(0))
                bench.results.compare(empty if size else row)
