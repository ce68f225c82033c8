"""Two checkouts side by side: the processor time of both servers per operation, in pairs.

A pair is two new server processes, since two processes of the same code already differ by some percent. The
next pair begins with the other server (A B, B A, A B …).

Both servers work at the same time on one core. The scheduler alternates every few milliseconds, and a machine
that becomes slower or faster does so for both. Where other programs run, seconds of one server beside seconds
of the other do not compare: the cost of an operation then goes up and down by half within a second. With
``--in-turn`` the servers do not share the core: each has slices of a tenth of a second (A B, B A, A B …), and
the intervals are two to three times as wide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench import costs
from bench.checkout import Checkout
from bench.costs import Load, Plan, Step
from bench.machine import cpu_seconds, settle
from bench.ratios import estimate
from bench.report import number
from bench.servers import HOUR_SECONDS, Kind, Server
from bench.session import Bench

TOGETHER = Plan(slices=2, seconds=0.8, clients=2000)
IN_TURN = Plan(slices=16, seconds=0.1, clients=250)
QUICK = Plan(slices=2, seconds=0.1, clients=100)

LOADS: dict[str, Load] = {
    "P1": lambda plan, server: costs.events(plan, server, 1),
    "P2": lambda plan, server: costs.events(plan, server, 100),
    "P3": lambda plan, server: costs.deliveries(plan, server, 100),
    "P4": lambda plan, server: costs.deliveries(plan, server, 1000),
    "P5": costs.sessions,
}


@dataclass
class Pairs:
    """The measurements: for each operation two sequences, with equal indices as a pair."""

    ours: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    other: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, ours: dict[str, float], other: dict[str, float]) -> None:
        """Note a pair."""
        for operation, cost in ours.items():
            self.ours[operation].append(cost)
            self.other[operation].append(other[operation])


def run(
    bench: Bench, other: Path, count: int, only: Sequence[str], *, in_turn: bool = False
) -> tuple[Pairs, list[str]]:
    """Measure a number of pairs of each load; return also the names of failed loads."""
    kinds = [
        Kind("ours-full", "ours", "full", source=bench.source),
        Kind("other-full", "other", "full", source=other),
    ]
    for kind in kinds:
        assert kind.source is not None
        bench.say(f"{kind.label}: {kind.source}, by {Checkout(kind.source).interpreter}")
    pairs, failed = Pairs(), []
    try:
        for number_of_pair in range(count):
            for name in only:
                bench.say(f"pair {number_of_pair + 1} of {count}  {name}")
                order = kinds if number_of_pair % 2 == 0 else kinds[::-1]
                try:
                    measured = _measure(bench, order, LOADS[name], in_turn)
                except (OSError, RuntimeError, AssertionError) as error:
                    notes = " ".join(getattr(error, "__notes__", []))
                    bench.say(f"{name} failed: {type(error).__name__}: {error} {notes}")
                    failed.append(name)
                else:
                    pairs.add(measured["ours"], measured["other"])
    except KeyboardInterrupt:
        bench.say("Interrupted; what follows is what was measured until now.")
        failed.append("the rest")
    return pairs, failed


def _measure(bench: Bench, kinds: Sequence[Kind], load: Load, in_turn: bool) -> dict[str, dict[str, float]]:
    """The processor time of each operation, in microseconds, by the servers' labels."""
    measured: dict[str, dict[str, float]] = {kind.label: {} for kind in kinds}
    plan = bench.pick(IN_TURN if in_turn else TOGETHER, QUICK)
    with ExitStack() as stack:
        servers = [stack.enter_context(bench.start(kind, away_seconds=HOUR_SECONDS)) for kind in kinds]
        loads = [stack.enter_context(closing(load(plan, server))) for server in servers]
        for steps in zip(*loads, strict=True):
            _settle(servers)
            before = [cpu_seconds(server.pids) for server in servers]
            operations = (_take_turns if in_turn else _together)(steps, plan.slices)
            # Deferred work of a server is a part of the price.
            _settle(servers)
            for server, step, count, start in zip(servers, steps, operations, before, strict=True):
                used = cpu_seconds(server.pids) - start
                measured[server.kind.label][step.operation] = used / count * 1e6
    return measured


def _take_turns(steps: Sequence[Step], slices: int) -> list[int]:
    """Do the slices one by one, in alternating order; the number of operations of each step."""
    operations = [0] * len(steps)
    for order in _orders(len(steps), slices):
        for index in order:
            operations[index] += steps[index].run()
    return operations


def _together(steps: Sequence[Step], slices: int) -> list[int]:
    """Do each slice of all steps at the same time; the number of operations of each step."""
    operations = [0] * len(steps)
    with ThreadPoolExecutor(len(steps)) as threads:
        for order in _orders(len(steps), slices):
            for index, count in zip(order, threads.map(lambda index: steps[index].run(), order), strict=True):
                operations[index] += count
    return operations


def _orders(steps: int, slices: int) -> Iterator[Sequence[int]]:
    """A B, B A, A B …: the first to begin has some advantage, at the same time as in turn."""
    order = range(steps)
    for turn in range(slices):
        yield order if turn % 2 == 0 else order[::-1]


def _settle(servers: Sequence[Server]) -> None:
    for server in servers:
        settle(server.pids)


def show(pairs: Pairs, console: Console) -> None:
    """Print a line for each operation."""
    table = Table(title="processor time of the server per operation, both with synchronous = full")
    for heading in ("operation", "ours, µs", "other, µs", "ours / other", "95 %", "pairs", "lowest–highest"):
        table.add_column(heading, justify="left" if heading == "operation" else "right")
    for operation, ours in pairs.ours.items():
        table.add_row(operation, *_cells(ours, pairs.other[operation]))
    console.print(table)
    console.print("µs: medians. ours / other: geometric mean of the pairs' ratios, with its t interval.")


def _cells(ours: Sequence[float], other: Sequence[float]) -> Sequence[str]:
    medians = number(median(ours)), number(median(other))
    if len(ours) < 2:
        return *medians, "", "", str(len(ours)), ""
    result = estimate(ours, other)
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    return (
        *medians,
        f"{result.ratio:.3f}",
        f"{result.low:.3f}–{result.high:.3f}",
        str(len(ours)),
        f"{min(ratios):.2f}–{max(ratios):.2f}",
    )
