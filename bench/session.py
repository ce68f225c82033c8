"""The arguments of every workload: servers, rounds, and a place for results."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench import bun, postgres
from bench.machine import Meter
from bench.results import Results
from bench.servers import BUN, CONFIG, PROJECT, Kind, Server, redis_server

T = TypeVar("T")


@dataclass
class Bench:
    """A run of the benchmark."""

    folder: Path
    rounds: int
    quick: bool
    only_ours: bool = False
    """For work on our own server: without the peers."""
    source: Path = PROJECT
    """The measured checkout."""
    other: Path | None = None
    """Another checkout, for comparison."""
    results: Results = field(default_factory=Results)
    _count: int = 0

    def servers(self, *kinds: Kind) -> list[Kind]:
        """The runnable kinds, and the other checkout."""
        chosen = []
        for kind in kinds:
            if (kind.appendfsync and redis_server() is None) or (kind is BUN and bun.program() is None):
                continue
            if kind.is_postgres and postgres.programs() is None:
                continue
            if kind.synchronous or not self.only_ours:
                chosen.append(kind)
            if kind.synchronous and self.other is not None and not kind.is_postgres:
                level = kind.synchronous
                chosen.append(Kind(f"other-{level}", f"other, {level}", level, source=self.other))
        return chosen

    def start(
        self, kind: Kind, *, away_seconds: float = 120.0, config: str = CONFIG, url: str = ""
    ) -> Server:
        """A server with an empty folder; a context manager."""
        self._count += 1
        folder = self.folder / f"{self._count}-{kind.name}"
        return Server(kind, folder, self.source, away_seconds, config, url)

    def interleaved(self, cases: Iterable[T], kinds: Iterable[Kind]) -> Iterator[tuple[T, Kind]]:
        """Every case with every server, once in each round."""
        cases, kinds = list(cases), list(kinds)
        for number in range(1, self.rounds + 1):
            for case in cases:
                for kind in kinds:
                    self.say(f"round {number} of {self.rounds}  {case}  {kind.label}")
                    yield case, kind

    def pick(self, normal: T, quick: T) -> T:
        """A value for a real run, or for a quick look."""
        return quick if self.quick else normal

    def note_load(self, case: str, meter: Meter, *, saturated: bool = False) -> None:
        """Note the load generator's use of its core, and the server's use if a full core is expected."""
        self.results.load_shares[case].append(meter.load_share)
        if saturated:
            self.results.server_shares[case].append(meter.server_share)

    @staticmethod
    def say(text: str) -> None:
        """Report the progress on stderr; only the result goes to stdout."""
        print(text, file=sys.stderr, flush=True)
