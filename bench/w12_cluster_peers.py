"""W12, two servers: ours on PostgreSQL beside the adapters of the reference, in the same run.

Two servers of a kind share a database. A client of the first server emits at a steady rate, and each event is
timed at a client of the second. Redis flushes each write; PostgreSQL has its defaults. The postgres-adapter
stores nothing and flushes nothing: the difference is the price of durability, in flushes of the disk.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

from bench.results import Row
from bench.servers import NODE_POSTGRES, POSTGRES, REDIS_ALWAYS
from bench.session import Bench
from bench.w10_postgres import MANY, ONE, across, publish

RATE = 1000.0
"""Events in a second, emitted by one server and delivered by the other."""
OTHER, WARM_UP = "emit to another server, 1,000 events/s", "warm-up of two servers"
FLUSH, DISK = "one flush", "the disk"
FLUSHES = 200
PAGE_BYTES = 8192


def flush_seconds(folder: Path) -> float:
    """Return the median duration of a flush of a page, on the disk of the databases."""
    durations = []
    descriptor = os.open(folder / "flush", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for number in range(FLUSHES):
            os.pwrite(descriptor, bytes([number]) * PAGE_BYTES, 0)
            begun = time.perf_counter()
            os.fdatasync(descriptor)
            durations.append(time.perf_counter() - begun)
    finally:
        os.close(descriptor)
    return median(durations)


def run(bench: Bench) -> None:
    """All of W12."""
    seconds = bench.pick(5.0, 1.0)
    kinds = bench.servers(POSTGRES, REDIS_ALWAYS, NODE_POSTGRES)
    if POSTGRES not in kinds:
        return
    for _, kind in bench.interleaved(["two servers"], kinds):
        if kind is POSTGRES:
            bench.results.add(FLUSH, DISK, p50=flush_seconds(bench.folder) * 1000)
        with bench.start(kind) as server:
            publish(bench, server, seconds)
            with bench.start(kind, url=server.url) as other:
                across(bench, server, other, WARM_UP, seconds / 5, RATE)
                across(bench, server, other, OTHER, seconds, RATE)
    ours, redis, adapter = POSTGRES.name, REDIS_ALWAYS.name, NODE_POSTGRES.name
    for peer, required in ((redis, "≥ 1×, aim 2×"), (adapter, "")):
        row = Row("W12", MANY, "rate", "events/s", ours, peer, more_is_better=True, required=required)
        bench.results.compare(row)
    for peer in (redis, adapter):
        bench.results.compare(Row("W12", ONE, "p50", "ms", ours, peer))
    for metric in ("p50", "p99"):
        bench.results.compare(Row("W12", OTHER, metric, "ms", ours, redis, required="< 1×"))
        text = "≤ its time + 1.5 flushes"
        bench.results.compare(Row("W12", OTHER, metric, "ms", ours, adapter, required=text))
    bench.results.compare(Row("W12", OTHER, "p50", "ms", ours, DISK, reference_case=FLUSH))
