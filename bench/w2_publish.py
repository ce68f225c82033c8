"""W2, publish: from a client's event to the acknowledgement and the delivery, one at a time and 64 at a time.

A publication is complete when the publisher has both the acknowledgement and the event itself: Redis is asked
before the event is delivered, but a handler of the reference cannot wait for Redis before the
acknowledgement.
"""

from __future__ import annotations

import re
import select
import time

from bench import wire
from bench.client import EVENT, Client
from bench.crowd import Crowd
from bench.handlers import TEXT, summary_ms
from bench.machine import Meter
from bench.results import Row
from bench.servers import BUN, FULL, MEMORY, NORMAL, REDIS_ALWAYS, REDIS_NO, STOCK, Server
from bench.session import Bench

_ACK = re.compile(rb"\x81.43", re.DOTALL)
_OVERLAP = 12
_READ_BYTES = 1 << 18
PATIENCE_SECONDS = 30.0


class Publisher:
    """A publishing client, on a separate socket."""

    def __init__(self, client: Client) -> None:
        self._sock = client.sock
        self._sock.setblocking(True)
        self._sock.settimeout(PATIENCE_SECONDS)
        self._tail = b""
        self.sent = self.acknowledged = self.delivered = 0

    @property
    def complete(self) -> int:
        """Complete publications."""
        return min(self.acknowledged, self.delivered)

    def call(self, name: str, argument: str) -> None:
        """Send an event and wait for the acknowledgement."""
        self._sock.sendall(wire.event(name, argument, ack=0))
        before = self.acknowledged
        while self.acknowledged == before:
            self.receive()
        self.acknowledged = before

    def publish(self, frames: bytes, count: int) -> None:
        """Send so many publications."""
        self._sock.sendall(frames)
        self.sent += count

    def receive(self) -> None:
        """Wait for bytes and count publications. Raises TimeoutError, ConnectionError."""
        data = self._sock.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("The server has closed the connection.")
        # Matches that end in the overlap were counted before; no match is longer than the overlap.
        text = self._tail + data
        self.delivered += text.count(EVENT) - self._tail.count(EVENT)
        self.acknowledged += len(_ACK.findall(text)) - len(_ACK.findall(self._tail))
        self._tail = text[-_OVERLAP:]


def publication(number: int) -> bytes:
    """A publication as a frame."""
    return wire.event("publish", {"n": 100_000 + number, "text": TEXT}, ack=number)


def closed_loop(publisher: Publisher, window: int, seconds: float) -> float:
    """Keep so many publications under way; how many were complete in a second."""
    stock = [publication(number) for number in range(1000, 1000 + 4 * window)]
    begun = time.perf_counter()
    start, end = publisher.complete, begun + seconds
    while time.perf_counter() < end:
        free = window - (publisher.sent - publisher.complete)
        if free:
            publisher.publish(b"".join(stock[:free]), free)
        publisher.receive()
    rate = (publisher.complete - start) / (time.perf_counter() - begun)
    while publisher.complete < publisher.sent:
        publisher.receive()
    return rate


def one_by_one(publisher: Publisher, seconds: float) -> list[float]:
    """Publish one after the other; return the durations in seconds."""
    frame = publication(1000)
    durations = []
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        publisher.publish(frame, 1)
        while publisher.complete < publisher.sent:
            publisher.receive()
        durations.append(time.perf_counter() - begun)
    return durations


def measure(bench: Bench, server: Server, seconds: float) -> None:
    """Both windows on a server."""
    name = server.kind.name
    with Crowd(server.port) as crowd:
        client = Client()
        crowd.connect([client])
        select.select([], [client.sock], [], 1)
        publisher = Publisher(client)
        publisher.call("join", "news")
        one_by_one(publisher, seconds / 4)  # warm-up
        with Meter(server.pids) as meter:
            durations = one_by_one(publisher, seconds)
        p50, p99 = summary_ms(durations)
        bench.results.add("publish, window 1", name, p50=p50, p99=p99)
        bench.results.spend("publish, window 1", name, meter.server_cpu, len(durations))
        closed_loop(publisher, 64, seconds / 4)  # warm-up
        before = publisher.complete
        with Meter(server.pids) as meter:
            rate = closed_loop(publisher, 64, seconds)
        bench.note_load(f"W2 publish, window 64, {server.kind.label}", meter, saturated=True)
        per_cpu = rate * meter.wall / meter.server_cpu
        bench.results.add("publish, window 64", name, rate=rate, rate_per_cpu=per_cpu)
        bench.results.spend("publish, window 64", name, meter.server_cpu, publisher.complete - before)


def run(bench: Bench) -> None:
    """All of W2."""
    kinds = bench.servers(MEMORY, BUN, NORMAL, FULL, REDIS_NO, REDIS_ALWAYS, STOCK)
    for _, kind in bench.interleaved(["publish"], kinds):
        with bench.start(kind) as server:
            measure(bench, server, bench.pick(3.0, 0.6))
    for kind in kinds:
        if not kind.synchronous:
            continue
        peer, required = (REDIS_ALWAYS, "≥ 1.5×, aim 3×") if kind.synchronous == "full" else (REDIS_NO, "")
        for reference, needed in ((peer, required), (MEMORY, ""), (BUN, ""), (STOCK, "")):
            bench.results.compare(
                Row(
                    "W2",
                    "publish, window 64",
                    "rate",
                    "events/s",
                    kind.name,
                    reference.name,
                    more_is_better=True,
                    required=needed,
                )
            )
        for reference, needed in ((peer, "≤ 1×, aim 0.5×"), (MEMORY, ""), (BUN, ""), (STOCK, "")):
            bench.results.compare(
                Row("W2", "publish, window 1", "p50", "ms", kind.name, reference.name, required=needed)
            )
