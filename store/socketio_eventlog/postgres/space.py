"""The size of the stored events, and the limit.

PostgreSQL's files keep the space of deleted rows, so the size of the files does not help. Each node adds the
sizes of appended events, and subtracts deleted events. All nodes count alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from socketio_eventlog.free_space import FreeSpace
from socketio_eventlog.postgres.connection import Connection

ROW_BYTES: Final = 150
"""The approximate size of an event besides payload and attachments."""
OVERSHOOT: Final = 8
"""The events may exceed the limit by 1/OVERSHOOT, until all deletable events are deleted."""
_PARTS: Final = 256
"""The events are counted in about so many parts, each of which is deleted as a whole."""

_COUNT: Final = """
SELECT max("offset"), sum(taken) FROM (
  SELECT "offset", size_bytes + %s AS taken, sum(size_bytes + %s) OVER (ORDER BY "offset") AS through
  FROM eventstore.events WHERE "offset" <= %s) AS e
GROUP BY div(through, %s) ORDER BY 1
"""


async def count(connection: Connection, head: int, max_size: int) -> list[tuple[int, int]]:
    """Return the parts of the events up to a sequence: last sequence and bytes of each part."""
    parameters = (ROW_BYTES, ROW_BYTES, head, max_size // _PARTS)
    rows: list[Any] = await (await connection.execute(_COUNT, parameters)).fetchall()
    return [(last, int(size_bytes)) for last, size_bytes in rows]


class EventSpace:
    """Counts the events, and reports the limit to the free space of the log."""

    def __init__(self, max_size: int, free_space: FreeSpace) -> None:
        """``max_size``: the limit in bytes."""
        self._max_size = max_size
        self._free_space = free_space
        self._parts: deque[tuple[int, int]] = deque()
        self._used_bytes = 0
        self._pruned_through = 0
        self._reported: tuple[bool, str | None] = (False, None)

    @property
    def refusal(self) -> str | None:
        """The reason for the refusal of new events; None when new events are accepted."""
        over = self._used_bytes - self._max_size
        if over <= 0 or (over <= self._max_size // OVERSHOOT and not self._free_space.is_pruned):
            return None
        return f"The events have reached max_size = {self._max_size} bytes."

    def counted(self, parts: Sequence[tuple[int, int]]) -> None:
        """Add the events from before this node."""
        for last, size_bytes in reversed(parts):
            if last > self._pruned_through:
                self._parts.appendleft((last, size_bytes))
                self._used_bytes += size_bytes
        self._report()

    def add(self, last: int, events: int, size_bytes: int) -> None:
        """Add the events of a batch: the last sequence, the number of events, and the bytes."""
        size_bytes += events * ROW_BYTES
        self._used_bytes += size_bytes
        if self._parts and self._parts[-1][1] + size_bytes <= self._max_size // _PARTS:
            size_bytes += self._parts.pop()[1]
        self._parts.append((last, size_bytes))
        self._report()

    def pruned(self, through: int) -> None:
        """Take off the events up to a sequence."""
        self._pruned_through = through
        while self._parts and self._parts[0][0] <= through:
            self._used_bytes -= self._parts.popleft()[1]
        self._report()

    def _report(self) -> None:
        self._free_space.used_bytes = self._used_bytes
        report = (self._used_bytes > self._max_size, self.refusal)
        if report != self._reported:
            self._reported = report
            self._free_space.report(is_scarce=report[0], refusal=report[1])
