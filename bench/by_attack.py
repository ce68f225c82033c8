"""The latencies of honest clients during each of the attacks."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator

from bench.handlers import summary_ms

ROUND = "round"
"""The output of attackers when all attacks have run once."""
_BEGIN = re.compile(r"^(\d+\.\d+) (\w+)$", re.MULTILINE)


def rounds(output: str) -> int:
    """How often all attacks have run, by the output of the attackers."""
    return sum(name == ROUND for _, name in _begins(output))


def table(output: str, latencies: Iterable[tuple[float, float]], quiet_p99: float) -> Iterator[str]:
    """Yield the lines of a table with the measurements in each attack.

    ``latencies``: the sending time of each event, by the wall clock, and the latency, both in seconds;
    ``quiet_p99``: without attacks, in milliseconds.
    """
    begins = _begins(output)
    by_name: dict[str, list[float]] = defaultdict(list)
    for sent_at, seconds in latencies:
        if number := bisect_right(begins, sent_at, key=lambda begin: begin[0]):
            by_name[begins[number - 1][1]].append(seconds)
    yield f"{'attack':28}  received  p50 ms  p99 ms  longest ms  p99 / without attack"
    for name in dict.fromkeys(name for _, name in begins):
        if measured := by_name.get(name):
            p50, p99 = summary_ms(measured)
            ratio, longest = p99 / quiet_p99, max(measured) * 1e3
            yield f"{name:28}{len(measured):10}{p50:8.1f}{p99:8.1f}{longest:12.1f}{ratio:22.1f}"


def _begins(output: str) -> list[tuple[float, str]]:
    return [(float(time), name) for time, name in _BEGIN.findall(output)]
