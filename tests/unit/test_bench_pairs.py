"""The confidence intervals of ``python -m bench --pair``."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest

from bench.ratios import estimate, student_t


def test_geometric_mean() -> None:
    """Twice and half is the same, not a quarter more."""
    assert estimate([2.0, 1.0], [1.0, 2.0]).ratio == pytest.approx(1.0)


def test_scale_cancels() -> None:
    """Only what differs within a pair counts, not how fast the machine was."""
    result = estimate([11.0, 22.0, 55.0], [10.0, 20.0, 50.0])
    assert (result.low, result.ratio, result.high) == pytest.approx((1.1, 1.1, 1.1))


def test_interval_by_hand() -> None:
    """The mean of 0 and 0.2 is 0.1, the standard error is 0.1, and t of one degree of freedom 12.706."""
    result = estimate([1.0, math.exp(0.2)], [1.0, 1.0])
    assert math.log(result.low) == pytest.approx(0.1 - 1.2706)
    assert math.log(result.high) == pytest.approx(0.1 + 1.2706)


def test_swap_inverts() -> None:
    ours, other = [1.0, 1.2, 1.1], [2.0, 1.9, 2.2]
    one, two = estimate(ours, other), estimate(other, ours)
    assert (one.ratio, one.low, one.high) == pytest.approx((1 / two.ratio, 1 / two.high, 1 / two.low))


def test_coverage() -> None:
    """An interval of ten noisy pairs contains the true ratio 95 times in 100."""
    chance = random.Random(1)
    inside = 0
    for _ in range(2000):
        ours = [0.9 * math.exp(chance.gauss(0, 0.1)) for _ in range(10)]
        other = [math.exp(chance.gauss(0, 0.1)) for _ in range(10)]
        result = estimate(ours, other)
        inside += result.low <= 0.9 <= result.high
    assert 0.93 < inside / 2000 < 0.97


def test_student_t() -> None:
    """The quantile falls with every degree of freedom, across the table's end too, to that of the normal."""
    quantiles = [student_t(freedom) for freedom in range(1, 200)]
    assert quantiles == sorted(quantiles, reverse=True)
    assert student_t(10_000) == pytest.approx(NormalDist().inv_cdf(0.975), abs=0.001)
    assert student_t(40) == pytest.approx(2.021, abs=0.003)


@pytest.mark.parametrize(("ours", "other"), [([1.0], [1.0]), ([], []), ([1.0, 2.0], [1.0])])
def test_too_few(ours: list[float], other: list[float]) -> None:
    """One pair has no interval, and half a pair is a mistake."""
    with pytest.raises(ValueError):
        estimate(ours, other)
