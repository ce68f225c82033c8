"""W8, start-up with a full log: until the port is open, after kill -9, against an empty log."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from bench.handlers import TEXT
from bench.machine import resident_bytes
from bench.results import Row
from bench.servers import HOUR_SECONDS, NORMAL
from bench.session import Bench
from bench.w3_recovery import label
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.records import Event
from socketio_eventlog.sqlite.log import EventLog

BATCH = 5000
ROOMS = 1000


async def fill_log(path: Path, size: int) -> None:
    """A log of events to a thousand rooms, as a server would have written it."""
    path.parent.mkdir(parents=True)
    log = await EventLog.open(StoreOptions(path=path, synchronous="normal"))
    now = time.time()
    for start in range(0, size, BATCH):
        await log.commit([_event(number, now) for number in range(start, min(start + BATCH, size))])
    await log.close()


def _event(number: int, now: float) -> Event:
    return Event(
        "/", "news", f'["news",{{"n":{number},"text":"{TEXT}"}}]', (), (f"room-{number % ROOMS}",), (), now
    )


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
            server = bench.start(kind, away_seconds=HOUR_SECONDS)
            if size:
                asyncio.run(fill_log(server.database, size))
            with server:
                for _ in range(bench.rounds):
                    server.restart()
                    memory = resident_bytes(server.pid) / 1e6
                    bench.results.add(case_of(size), kind.name, time=server.start_seconds, memory=memory)
    for size in sizes:
        for metric, unit in (("time", "s"), ("memory", "MB")):
            for kind in kinds:
                row = Row("W8", case_of(size), metric, unit, kind.name)
                empty = replace(row, reference=kind.name, reference_case=case_of(0))
                bench.results.compare(empty if size else row)
