"""W1, fan-out: deliveries a second, latency at half the reference's rate, processor time."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

from bench import wire
from bench.client import Client
from bench.crowd import Crowd
from bench.handlers import TEXT, summary_ms
from bench.machine import Meter
from bench.results import Row
from bench.servers import BUN, FULL, MEMORY, NORMAL, STOCK, Kind, Server
from bench.session import Bench

WINDOW = 64
"""Emits under way at a time."""
AHEAD = 1024
"""The most events by which the server may be ahead of the last client."""
CONFIRM_EVERY = 64
SAMPLED = 10
"""Clients with a measured latency, the first and the last client included."""
STEADY_RATE = 10.0

_NUMBER = re.compile(rb'"n":(\d+)')
_SENT = re.compile(rb'"t":(\d+)')
_ACK = re.compile(rb"43\d+")

REQUIRED = {100: "≥ 8×, aim 10×", 1000: "≥ 15×, aim 40×"}


class OutOfOrder(AssertionError):
    """A client received events in another order than emitted."""


@dataclass
class FanOut:
    """The control client's side of a run at full rate."""

    events: int = 0
    size_bytes: int = 0
    answer: dict[str, Any] | None = None

    def __call__(self, client: Client, payload: bytes, size: int) -> None:
        """Handle a frame: an event of the run, or the server's note of the end."""
        if _ACK.match(payload):
            self.answer = json.loads(payload[payload.index(b"[") :])[0]
            return
        match = _NUMBER.search(payload)
        if match is None or int(match[1]) != 100_000 + self.events:
            raise OutOfOrder(f"event {self.events} of the run is {payload[:60]!r}")
        self.events += 1
        self.size_bytes += size
        if self.events % CONFIRM_EVERY == 0:
            client.send(wire.event("seen", self.events))


def fan_out(crowd: Crowd, control: Client, others: int, seconds: float) -> tuple[float, dict[str, Any]]:
    """Let the server emit at full rate; return deliveries a second, and the report of the server.

    Every client has received every event at the return. Raises OutOfOrder, TimeoutError.
    """
    run = FanOut()
    crowd.watch(control, run)
    crowd.counted_bytes = 0
    begun = time.perf_counter()
    order = {"seconds": seconds, "window": WINDOW, "ahead": AHEAD}
    control.send(wire.event("fan", order, ack=1))
    crowd.until(
        lambda: (
            run.answer is not None
            and run.events == run.answer["count"]
            and crowd.counted_bytes == others * run.size_bytes
        )
    )
    taken = time.perf_counter() - begun
    assert run.answer is not None
    return run.events * (others + 1) / taken, run.answer


@dataclass
class Sampler:
    """Notes the latency of events."""

    latencies: list[float] = field(default_factory=list)

    def __call__(self, client: Client, payload: bytes, size: int) -> None:
        """Take a frame."""
        if match := _SENT.search(payload):
            self.latencies.append(time.monotonic() - int(match[1]) / 1e6)


def paced(crowd: Crowd, control: Client, sampled: list[Client], rate: float, seconds: float) -> list[float]:
    """Publish at a steady rate; from the control's sending to each sampled client's receiving, in seconds."""
    sampler = Sampler()
    for client in {*sampled, control}:
        crowd.watch(client, sampler)
    count = max(1, round(rate * seconds))
    begun = time.monotonic()
    for number in range(count):
        while (wait := begun + number / rate - time.monotonic()) > 0:
            crowd.step(wait)
        data = {"n": 100_000 + number, "t": round(time.monotonic() * 1e6), "text": TEXT[:50]}
        control.send(wire.event("say", data))
    receivers = len({*sampled, control})
    crowd.until(lambda: len(sampler.latencies) == count * receivers)
    return sampler.latencies


def gather(server: Server, clients: int) -> tuple[Crowd, list[Client]]:
    """So many clients, the last of which is the control; the others are counted."""
    crowd = Crowd(server.port)
    crowd_clients = [Client() for _ in range(clients)]
    crowd.connect(crowd_clients, at_once=100)
    crowd.count(crowd_clients[:-1])
    return crowd, crowd_clients


def run(bench: Bench) -> None:
    """All of W1."""
    sizes = bench.pick((100, 500, 1000), (100, 1000))
    seconds = bench.pick(3.0, 0.6)
    kinds = bench.servers(MEMORY, BUN, NORMAL, FULL, STOCK)
    reference_rates: dict[int, float] = {}
    for size, kind in bench.interleaved(sizes, kinds):
        with bench.start(kind) as server:
            crowd, clients = gather(server, size)
            with crowd:
                fan_out(crowd, clients[-1], size - 1, seconds / 3)  # warm-up
                rate = _full_rate(bench, server, crowd, clients, seconds)
                if kind is MEMORY or size not in reference_rates:
                    reference_rates[size] = rate
                if kind is not STOCK:
                    _half_rate(bench, server, crowd, clients, reference_rates[size] / 2 / size, seconds)
                if size == 1000:
                    _steady(bench, server, crowd, clients, bench.pick(6.0, 2.0))
    _compare(bench, sizes, [kind for kind in kinds if kind.synchronous])


def _full_rate(bench: Bench, server: Server, crowd: Crowd, clients: list[Client], seconds: float) -> float:
    case = f"fan-out, {len(clients)} clients"
    with Meter(server.pids) as meter:
        rate, answer = fan_out(crowd, clients[-1], len(clients) - 1, seconds)
    bench.note_load(f"W1 {case}, {server.kind.label}", meter, saturated=True)
    bench.results.add(case, server.kind.name, rate=rate, rate_per_cpu=rate * meter.wall / meter.server_cpu)
    bench.results.spend(case, server.kind.name, meter.server_cpu, answer["count"])
    for name in ("emit", "commit"):
        if durations := answer.get(f"{name}_ms"):
            p50, p99 = durations
            bench.results.add(case, server.kind.name, **{f"{name}_p50": p50, f"{name}_p99": p99})
    return rate


def _half_rate(
    bench: Bench, server: Server, crowd: Crowd, clients: list[Client], rate: float, seconds: float
) -> None:
    case = f"half rate, {len(clients)} clients"
    sampled = [clients[i * (len(clients) - 1) // (SAMPLED - 1)] for i in range(SAMPLED)]
    paced(crowd, clients[-1], sampled, rate, 0.3)  # warm-up
    with Meter(server.pids) as meter:
        latencies = paced(crowd, clients[-1], sampled, rate, seconds)
    bench.note_load(f"W1 {case}, {server.kind.label}", meter)
    events = len(latencies) // len({*sampled, clients[-1]})
    bench.results.spend(case, server.kind.name, meter.server_cpu, events)
    p50, p99 = summary_ms(latencies)
    bench.results.add(case, server.kind.name, p50=p50, p99=p99)


def _steady(bench: Bench, server: Server, crowd: Crowd, clients: list[Client], seconds: float) -> None:
    with Meter(server.pids) as meter:
        paced(crowd, clients[-1], [], STEADY_RATE, seconds)
    case, events = "10 events/s, 1000 clients", round(STEADY_RATE * seconds)
    cpu = meter.server_cpu / (events * len(clients)) * 1e6
    bench.results.add(case, server.kind.name, cpu_per_delivery=cpu)
    bench.results.spend(case, server.kind.name, meter.server_cpu, events)


def _compare(bench: Bench, sizes: tuple[int, ...], ours: list[Kind]) -> None:
    def row(case: str, metric: str, unit: str, kind: Kind, reference: str = "", **more: Any) -> None:
        bench.results.compare(Row("W1", case, metric, unit, kind.name, reference, **more))

    for size in sizes:
        for kind in ours:
            case = f"fan-out, {size} clients"
            required = REQUIRED.get(size, "")
            row(case, "rate", "deliveries/s", kind, MEMORY.name, more_is_better=True, required=required)
            row(case, "rate_per_cpu", "deliveries/CPU s", kind, MEMORY.name, more_is_better=True)
            row(case, "rate", "deliveries/s", kind, BUN.name, more_is_better=True)
            row(case, "rate", "deliveries/s", kind, STOCK.name, more_is_better=True)
            row(case, "commit_p50", "ms", kind)
            row(case, "commit_p99", "ms", kind, required="≤ 20 ms, aim 5")
            row(case, "emit_p50", "ms", kind)
            row(case, "emit_p99", "ms", kind)
            case = f"half rate, {size} clients"
            row(case, "p50", "ms", kind, MEMORY.name, required="≤ 1×, aim 0.5×")
            row(case, "p99", "ms", kind, MEMORY.name, required="≤ 1×, aim 0.5×")
            row(case, "p50", "ms", kind, BUN.name)
            row(case, "p99", "ms", kind, BUN.name)
    for kind in ours:
        row(
            "10 events/s, 1000 clients",
            "cpu_per_delivery",
            "µs",
            kind,
            STOCK.name,
            required="≤ 0.33×, aim 0.17×",
        )
