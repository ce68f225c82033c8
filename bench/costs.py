"""The loads of ``--pair``: the work of a server between two readings of the processor time.

A load is a generator. A load prepares clients of a server, then yields a step for each measured operation. A
step is done in slices, so two servers can alternate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from bench.away import enter, fill
from bench.client import EVENT, Client
from bench.crowd import Crowd
from bench.servers import Server
from bench.w1_fanout import fan_out, gather
from bench.w2_publish import publication

WINDOW = 64
"""Publications under way at a time."""
MISSED = 20
ROOM = "everybody"
CONNECTION = "connection"
RECOVERY = f"recovery, {MISSED} missed"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much a load is."""

    slices: int
    seconds: float
    """The length of a slice of events or deliveries."""
    clients: int
    """The number of clients that connect or reconnect at once: a slice of connections or recoveries."""


@dataclass(frozen=True, slots=True)
class Step:
    """An operation, and the function for a slice of the operation."""

    operation: str
    run: Callable[[], int]
    """Returns the number of operations."""


Load = Callable[[Plan, Server], Generator[Step, None, None]]


@dataclass
class Publications:
    """The publisher's side of a run of publications to the room ``news``."""

    sent: int = 0
    acknowledged: int = 0
    delivered: int = 0
    size_bytes: int = 0
    """The size of all bytes sent to each client of the room."""

    @property
    def open(self) -> int:
        """Publications under way."""
        return self.sent - min(self.acknowledged, self.delivered)

    def __call__(self, client: Client, payload: bytes, size: int) -> None:
        """Take a frame: an acknowledgement or an event."""
        if payload.startswith(EVENT):
            self.delivered += 1
            self.size_bytes += size
        elif payload.startswith(b"43"):
            self.acknowledged += 1


def publish(crowd: Crowd, publisher: Client, others: int, seconds: float) -> int:
    """Keep a window of publications under way; return the number of publications.

    Every client has received every event at the return. Raises TimeoutError, ConnectionError.
    """
    frames = [publication(number) for number in range(1000, 1000 + WINDOW)]
    run = Publications()
    crowd.watch(publisher, run)
    crowd.counted_bytes = 0
    end = time.perf_counter() + seconds

    def go_on() -> bool:
        free = WINDOW - run.open
        if free and time.perf_counter() < end:
            publisher.send(b"".join(frames[:free]))
            run.sent += free
        return run.open == 0 and crowd.counted_bytes == others * run.size_bytes

    crowd.until(go_on)
    return run.sent


def events(plan: Plan, server: Server, clients: int) -> Generator[Step, None, None]:
    """A client's event: handler, stored and delivered emit, acknowledgement."""
    everyone = [Client() for _ in range(clients)]
    with Crowd(server.port) as crowd:
        crowd.connect(everyone, at_once=100)
        crowd.ask(everyone, "join", "news")
        crowd.count(everyone[1:])

        def run() -> int:
            return publish(crowd, everyone[0], clients - 1, plan.seconds)

        run()  # warm-up
        yield Step(f"event, {clients} client{'s' if clients > 1 else ''}", run)


def deliveries(plan: Plan, server: Server, clients: int) -> Generator[Step, None, None]:
    """The delivery of an event that the server emits to all clients at full rate."""
    crowd, everyone = gather(server, clients)

    def run() -> int:
        _, answer = fan_out(crowd, everyone[-1], clients - 1, plan.seconds)
        count: int = answer["count"]
        return count * clients

    with crowd:
        run()  # warm-up
        yield Step(f"delivery, {clients} clients", run)


def sessions(plan: Plan, server: Server) -> Generator[Step, None, None]:
    """A new connection, and a recovery; nothing but the missed events is in the log."""
    with Crowd(server.port) as crowd:
        control, everyone = Client(), [Client() for _ in range(plan.slices * plan.clients)]
        slices = [everyone[number :: plan.slices] for number in range(plan.slices)]
        crowd.connect([control])
        warm_up = [Client() for _ in range(250)]
        crowd.connect(warm_up)
        crowd.drop(warm_up)
        yield Step(CONNECTION, _one_by_one(slices, crowd.connect))
        enter(crowd, control, everyone, ROOM)
        crowd.drop(everyone)
        fill(crowd, control, MISSED, ROOM, MISSED)
        yield Step(RECOVERY, _one_by_one(slices, lambda clients: _recover(crowd, clients)))


def _one_by_one(
    slices: Sequence[Sequence[Client]], handle: Callable[[Sequence[Client]], None]
) -> Callable[[], int]:
    left = iter(slices)

    def run() -> int:
        clients = next(left)
        handle(clients)
        return len(clients)

    return run


def _recover(crowd: Crowd, clients: Sequence[Client]) -> None:
    crowd.connect(clients, missed=MISSED)
    exact = sum(client.recovered and client.buffer.count(EVENT) == MISSED for client in clients)
    if exact != len(clients):
        raise RuntimeError(f"only {exact} of {len(clients)} clients have what they missed, once")
