"""Histograms as plain numbers: written at a measurement, and read at a scrape."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

DURATIONS_SECONDS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.5,
    2.5,
    10.0,
)
"""Upper bounds for the duration of a commit or of a pruning."""
SIZES: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)
"""Upper bounds for a number of things."""


class Histogram:
    """The number of measured values up to each of some bounds, and the sum of the values.

    One measurement costs a quarter of a microsecond. Measure once for each commit, not for each event.
    """

    __slots__ = ("bounds", "sum", "values")

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds``: the upper bounds, ascending; a bound belongs to the range below."""
        self.bounds = bounds
        self.values = [0] * (len(bounds) + 1)
        """The number of values in each range; the last range has no upper bound."""
        self.sum = 0.0
        """The sum of all values."""

    def measured(self, value: float) -> None:
        """Count a value."""
        self.values[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Iterate over the bounds, each with the number of values up to the bound; infinity comes last."""
        return zip((*self.bounds, float("inf")), accumulate(self.values), strict=True)
