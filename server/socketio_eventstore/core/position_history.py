"""The positions of the log at earlier times, for pruning and recovery."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

POSITIONS_KEPT: Final = 64


class PositionHistory:
    """The position at earlier times on the uptime clock.

    The events carry the wall-clock time of their emit, but the wall clock may have been set meanwhile. Events
    from before the first noted position count from then on.
    """

    def __init__(self, reach_seconds: float, noted: Iterable[tuple[float, int]] = ()) -> None:
        """``reach_seconds``: the age at which ``passed`` looks. ``noted``: earlier positions, ascending."""
        self._reach_seconds = reach_seconds
        self._noted = deque(noted)

    def is_due(self, now: float, position: int) -> bool:
        """Whether a position is worth a note: the position is new, and the last note is old enough."""
        if not self._noted:
            return True
        at, last = self._noted[-1]
        return position > last and now - at >= self._reach_seconds / POSITIONS_KEPT

    def note(self, now: float, position: int) -> None:
        """Record the position at an uptime in seconds."""
        self._noted.append((now, position))
        while len(self._noted) > 1 and self._noted[1][0] <= now - self._reach_seconds:
            self._noted.popleft()

    def passed(self, now: float) -> int:
        """Return a sequence up to which every event is older than the reach; 0 when none is known."""
        for at, position in reversed(self._noted):
            if at <= now - self._reach_seconds:
                return position
        return 0
