"""The uptime clock: a property of the log, which runs only while a node writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from socketio_eventlog.log import HEARTBEAT_SECONDS

LONGEST_STEP_SECONDS: Final = 2 * HEARTBEAT_SECONDS
"""The longest time between two batches that counts. In a longer pause no client could come back: the process
was frozen, the disk was full, or the machine was asleep."""


class UptimeClock:
    """Seconds in which nodes wrote, from the beginning of the database on."""

    def __init__(self, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """``seconds``: the uptime at the last batch of the database."""
        self.seconds = seconds
        self._monotonic = monotonic
        self._stepped_at = monotonic()

    def next(self) -> tuple[float, float]:
        """Return the uptime for a batch written now, and the time to pass to ``step`` afterwards."""
        now = self._monotonic()
        passed = min(max(now - self._stepped_at, 0.0), LONGEST_STEP_SECONDS)
        return self.seconds + passed, now

    def step(self, uptime: float, now: float) -> None:
        """Move the clock, since the batch was written. A failed batch moves nothing."""
        self.seconds, self._stepped_at = uptime, now
