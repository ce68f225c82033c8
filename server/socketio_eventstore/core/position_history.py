"""The positions of the log at earlier times, as far as pruning and recovery need them."""

from __future__ import annotations

from collections import deque
from typing import Final

POSITIONS_KEPT: Final = 64


class PositionHistory:
    """The position that was reached a certain time ago.

    The events carry the wall-clock time of their emit, but the wall clock may have been set meanwhile.
    Events from before the start of the server count from the start on.
    """

    def __init__(self, reach_seconds: float) -> None:
        """``reach_seconds``: the age, on the uptime clock, at which ``passed`` looks."""
        self._reach_seconds = reach_seconds
        self._noted: deque[tuple[float, int]] = deque()

    def note(self, now: float, position: int) -> None:
        """Record the position at an uptime in seconds. Call this at every heartbeat of the store."""
        if self._noted and now - self._noted[-1][0] < self._reach_seconds / POSITIONS_KEPT:
            return
        self._noted.append((now, position))
        while len(self._noted) > 1 and self._noted[1][0] <= now - self._reach_seconds:
            self._noted.popleft()

    def passed(self, now: float) -> int:
        """Return a sequence up to which every event is older than the reach; 0 when none is known."""
        earlier = (position for at, position in reversed(self._noted) if at <= now - self._reach_seconds)
        return next(earlier, 0)
