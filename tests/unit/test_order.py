from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from support.order import longest_first


def item(number: int, limit: float | None) -> Any:
    marker = None if limit is None else pytest.mark.timeout(limit).mark
    return SimpleNamespace(name=number, get_closest_marker=lambda _: marker)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_each_worker_begins_with_a_long_test(workers: int) -> None:
    """The parts that pytest-xdist makes begin with the longest tests, and no test is lost."""
    limits: list[float | None] = [600, None, 0, None, *[None] * 16, 900, 900, None]
    items = [item(number, limit) for number, limit in enumerate(limits)]
    ordered: list[Any] = [*longest_first(items, workers)]
    numbers: list[int] = [one.name for one in ordered]
    assert sorted(numbers) == list(range(len(items)))
    assert numbers[0] == 2  # without a limit
    begins, left = [], list(numbers)
    for number in range(workers):  # as pytest-xdist does
        size = len(left) // (workers - number)
        begins.append(left[0])
        del left[:size]
    assert begins[:4] == [2, 20, 21, 0][:workers]
    usual = [number for number in numbers if limits[number] is None]
    assert usual == sorted(usual)
