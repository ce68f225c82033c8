"""A point of the order for a run of changes, and the records of effective changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import repeat
from typing import Any, Final, NamedTuple

from socketio_eventlog.changes import Change, Committed
from socketio_eventlog.events import Offset

# In C, without a call of Python for each event, as the constructor of a NamedTuple would be.
_COMMITTED: Final[Callable[[tuple[Any, ...]], Committed]] = partial(tuple.__new__, Committed)


class Point(NamedTuple):
    """The point of the order at which a run of changes is written."""

    node: str
    """The id of the node, and of the node's epoch."""
    position: int
    """The sequence of the last event before the changes."""
    uptime: float
    """The uptime of the batch, in seconds."""
    now: float
    """The wall-clock time of the batch in seconds, for people."""

    @property
    def offset(self) -> Offset:
        """The offset of the last event before the changes."""
        return Offset(self.node, self.position)


def effective(changes: Iterable[Change], positions: Iterable[int], claim: int = 0) -> Iterator[Committed]:
    """Yield the changes with their positions, as effective changes."""
    return map(_COMMITTED, zip(changes, positions, repeat(True), repeat(claim)))
