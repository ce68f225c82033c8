"""Where the log was at which time, as far as it matters for who holds up its pruning."""

from __future__ import annotations

from collections import deque

POSITIONS_KEPT = 64


class PositionHistory:
    """What dispatch had reached a certain time ago.

    The events say when they were emitted, but by the wall clock, which somebody may have set meanwhile.
    What the log had before the server started counts from the start on.
    """

    def __init__(self, reach_seconds: float) -> None:
        """``reach_seconds``: how long ago ``passed`` looks."""
        self._reach_seconds = reach_seconds
        self._noted: deque[tuple[float, int]] = deque()

    def note(self, now: float, position: int) -> None:
        """Dispatch is at this position at this service time; to be called now and then."""
        if self._noted and now - self._noted[-1][0] < self._reach_seconds / POSITIONS_KEPT:
            return
        self._noted.append((now, position))
        while len(self._noted) > 1 and self._noted[1][0] <= now - self._reach_seconds:
            self._noted.popleft()

    def passed(self, now: float) -> int:
        """Every event up to this one was dispatched before the reach, perhaps more; 0 if nobody knows."""
        earlier = (position for at, position in reversed(self._noted) if at <= now - self._reach_seconds)
        return next(earlier, 0)
