"""The statistics of pairs: a ratio, and the confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

# The 97.5 % quantiles of Student's t, from one degree of freedom on.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio with the 95 % confidence interval."""

    ratio: float
    low: float
    high: float


def estimate(ours: Sequence[float], other: Sequence[float]) -> Estimate:
    """The geometric mean of ours / other over the pairs, with the t interval of the logarithm.

    Raises ValueError for sequences of unequal length, and for fewer than two pairs.
    """
    logs = [math.log(a / b) for a, b in zip(ours, other, strict=True)]
    if len(logs) < 2:
        raise ValueError("An interval needs two pairs or more.")
    mean = fmean(logs)
    margin = student_t(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return Estimate(math.exp(mean), math.exp(mean - margin), math.exp(mean + margin))


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; beyond the table an approximation, right to 0.003."""
    return _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.4 / freedom
