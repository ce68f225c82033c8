"""W11, nodes: the cost of a node's sessions and events on another node, and the death of a node.

The nodes share a log in PostgreSQL. The clients of the dead node go to the two other nodes, half to each.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from bench.away import fill, settle_in
from bench.client import EVENT, Client
from bench.crowd import Crowd
from bench.machine import Meter, settle
from bench.results import CPU, Row
from bench.servers import POSTGRES, Server
from bench.session import Bench
from bench.w4_storm import MISSED, ROOM
from bench.w5_memory import memory

WARM_UP = 500
SESSION, EVENT_ELSEWHERE = "a session of another node", "an event of another node, for nobody here"


def cost(bench: Bench, busy: Server, idle: Server, sessions: int, events: int) -> None:
    """Measure the memory and the processor time of an idle node beside a busy node."""
    with Crowd(busy.port) as there, Crowd(idle.port) as here:
        emitter, control = Client(), Client()
        there.connect([emitter])
        here.connect([control])
        there.connect([Client() for _ in range(WARM_UP)], at_once=200)
        before = memory(here, control, idle)
        there.connect([Client() for _ in range(sessions)], at_once=200)
        after = memory(here, control, idle)
        bench.results.add(SESSION, idle.kind.name, memory=(after - before) / sessions / 1024)
        fill(there, emitter, events // 4, "nobody", 1)
        settle(idle.pids)
        begun = time.monotonic()
        with Meter([idle.pid]) as meter:
            fill(there, emitter, events, "nobody", 1)
            settle([idle.pid])
        share = meter.server_cpu / (time.monotonic() - begun)
        bench.say(f"  an idle node used {share:.0%} of a core")
        bench.results.spend(EVENT_ELSEWHERE, idle.kind.name, meter.server_cpu, events)


def die(bench: Bench, dying: Server, others: list[Server], size: int) -> None:
    """Kill a node with clients; the clients go to the other nodes and get the missed events."""
    clients = [Client() for _ in range(size)]
    with Crowd(dying.port) as crowd:
        control = Client()
        crowd.connect([control])
        settle_in(crowd, control, clients, ROOM)
        dying.kill()
    with ExitStack() as stack:
        crowds = [stack.enter_context(Crowd(server.port)) for server in others]
        control = Client()
        crowds[0].connect([control])
        fill(crowds[0], control, MISSED, ROOM, MISSED)
        begun = time.monotonic()
        for number, crowd in enumerate(crowds):
            crowd.begin(clients[number :: len(crowds)], missed=MISSED)
        while any(crowd.is_connecting for crowd in crowds):
            for crowd in crowds:
                crowd.step(0.002)
        wall = time.monotonic() - begun
        for server, crowd in zip(others, crowds, strict=True):
            settle([server.pid])
            crowd.until(lambda: True)
    exact = sum(client.recovered and client.buffer.count(EVENT) == MISSED for client in clients)
    bench.results.add(case_of(size), dying.kind.name, wall=wall, exact=exact / size * 100)


def case_of(size: int) -> str:
    """The name of a case."""
    return f"kill -9 of a node with {size} clients"


def run(bench: Bench) -> None:
    """All of W11."""
    sessions, events, size = bench.pick(5000, 1000), bench.pick(100_000, 20_000), bench.pick(2000, 300)
    kinds = [kind for kind in bench.servers(POSTGRES) if kind is POSTGRES]
    for _, kind in bench.interleaved(["nodes"], kinds):
        with (
            bench.start(kind) as first,
            bench.start(kind, url=first.url) as second,
            bench.start(kind, url=first.url) as third,
        ):
            cost(bench, third, second, sessions, events)
            die(bench, third, [first, second], size)
    for row in (
        Row("W11", SESSION, "memory", "KiB", POSTGRES.name, required="≤ 2 KiB, aim 1.2"),
        Row("W11", EVENT_ELSEWHERE, CPU, "µs", POSTGRES.name, required="≤ 5 µs, aim 2.5"),
        Row("W11", case_of(size), "exact", "%", POSTGRES.name, more_is_better=True, required="100 %"),
        Row("W11", case_of(size), "wall", "s", POSTGRES.name, required="≤ 2 s"),
    ):
        bench.results.compare(row)
