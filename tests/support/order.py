"""The order of the tests: no worker may begin with a long test while the others are done."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import pytest

USUAL_SECONDS = 300.0
"""The default limit of a test, from pyproject.toml."""


def limit_of(item: pytest.Item) -> float:
    """The time limit of a test in seconds, which marks a long test; infinite for none."""
    marker = item.get_closest_marker("timeout")
    return USUAL_SECONDS if marker is None else float(marker.args[0]) or math.inf


def longest_first(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """Return the tests in an order in which each worker begins with a share of the long tests.

    At the start, pytest-xdist gives each worker a part of the list; later an idle worker takes tests from the
    other end of a part.
    """
    long = sorted((item for item in items if limit_of(item) > USUAL_SECONDS), key=limit_of, reverse=True)
    others = [item for item in items if limit_of(item) <= USUAL_SECONDS]
    ordered: list[pytest.Item] = []
    for number in range(workers):
        size = (len(items) - len(ordered)) // (workers - number)
        own = long[number::workers]
        rest = max(0, size - len(own))
        ordered += own + others[:rest]
        del others[:rest]
    return ordered + others


def workers_of_this_run() -> int:
    """The number of workers; 1 without pytest-xdist."""
    return int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def workers_of_this_machine() -> int:
    """Half as many workers again as processors: a third of a test's time is waiting for pings and disks."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors * 3 // 2)
