"""W10, PostgreSQL: one server against a file, and two servers with a shared log.

PostgreSQL has the core of the servers, as Redis has. Servers connect through TCP.
"""

from __future__ import annotations

import select
import time

from bench import wire
from bench.client import Client
from bench.crowd import Crowd
from bench.handlers import TEXT, summary_ms
from bench.machine import Meter
from bench.results import Row
from bench.servers import FULL, POSTGRES, Server
from bench.session import Bench
from bench.w1_fanout import Sampler, fan_out, gather
from bench.w2_publish import Publisher, closed_loop, one_by_one

CLIENTS = 100
RATE = 500.0
"""Events in a second, emitted by one server and delivered by the other."""
FAN_OUT, ONE, MANY = "fan-out, one server", "publish, window 1, one server", "publish, window 64, one server"
SAME, OTHER = "emit to the same server", "emit to another server"


def publish(bench: Bench, server: Server, seconds: float) -> None:
    """Let a client publish and receive its own events."""
    with Crowd(server.port) as crowd:
        client = Client()
        crowd.connect([client])
        select.select([], [client.sock], [], 1)
        publisher = Publisher(client)
        publisher.call("join", "news")
        one_by_one(publisher, seconds / 4)  # warm-up
        p50, p99 = summary_ms(one_by_one(publisher, seconds))
        bench.results.add(ONE, server.kind.name, p50=p50, p99=p99)
        closed_loop(publisher, 64, seconds / 4)  # warm-up
        with Meter([server.pid]) as meter:
            rate = closed_loop(publisher, 64, seconds)
        bench.results.add(MANY, server.kind.name, rate=rate)
        bench.results.spend(MANY, server.kind.name, meter.server_cpu, max(1, round(rate * seconds)))


def deliver(bench: Bench, server: Server, seconds: float) -> None:
    """Emit to many clients at full rate."""
    crowd, clients = gather(server, CLIENTS)
    with crowd:
        fan_out(crowd, clients[-1], CLIENTS - 1, seconds / 3)  # warm-up
        rate, _ = fan_out(crowd, clients[-1], CLIENTS - 1, seconds)
        bench.results.add(FAN_OUT, server.kind.name, rate=rate)


def across(
    bench: Bench, emitting: Server, receiving: Server, case: str, seconds: float, rate: float = RATE
) -> None:
    """Emit on one server at a steady rate, and note each latency at a client of another server."""
    with Crowd(emitting.port) as here, Crowd(receiving.port) as there:
        emitter, receiver, sampler = Client(), Client(), Sampler()
        here.connect([emitter])
        there.connect([receiver])
        here.count([emitter])
        there.watch(receiver, sampler)
        count, begun = round(rate * seconds), time.monotonic()
        with Meter([receiving.pid]) as meter:
            for number in range(count):
                while (wait := begun + number / rate - time.monotonic()) > 0:
                    there.step(wait)
                data = {"n": 100_000 + number, "t": round(time.monotonic() * 1e6), "text": TEXT[:50]}
                emitter.send(wire.event("say", data))
                here.step(0)
            there.until(lambda: len(sampler.latencies) == count)
    p50, p99 = summary_ms(sampler.latencies)
    bench.results.add(case, receiving.kind.name, p50=p50, p99=p99)
    bench.results.spend(case, receiving.kind.name, meter.server_cpu, count)


def run(bench: Bench) -> None:
    """All of W10."""
    seconds = bench.pick(3.0, 0.6)
    kinds = [kind for kind in bench.servers(FULL, POSTGRES) if kind in (FULL, POSTGRES)]
    if POSTGRES not in kinds:
        return
    for _, kind in bench.interleaved(["one server"], kinds):
        with bench.start(kind) as server:
            publish(bench, server, seconds)
            deliver(bench, server, seconds)
            if kind is POSTGRES:
                with bench.start(kind, url=server.url) as other:
                    across(bench, server, server, SAME, seconds)
                    across(bench, server, other, OTHER, seconds)
    ours, file, deliveries = POSTGRES.name, FULL.name, "deliveries/s"
    for row in (
        Row("W10", FAN_OUT, "rate", deliveries, ours, file, more_is_better=True, required="≥ 0.8×, aim 1×"),
        Row("W10", MANY, "rate", "events/s", ours, file, more_is_better=True, required="≥ 0.5×, aim 0.8×"),
        Row("W10", ONE, "p50", "ms", ours, file),
        Row("W10", OTHER, "p50", "ms", ours, ours, reference_case=SAME),
        Row("W10", OTHER, "p99", "ms", ours, ours, reference_case=SAME),
    ):
        bench.results.compare(row)
