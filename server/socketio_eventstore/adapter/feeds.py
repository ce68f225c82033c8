"""The log as pages with cursors, and as a feed."""

from __future__ import annotations

from dataclasses import dataclass

from socketio_eventlog.errors import OffsetRefused, StoreClosed
from socketio_eventlog.events import LoggedEvent
from socketio_eventstore.adapter.catching_up import locate
from socketio_eventstore.adapter.history import StoredEvent, stored_event
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.tail import Follower


@dataclass(frozen=True, slots=True)
class History:
    """A page of stored events."""

    events: list[StoredEvent]
    """The newest event is last."""
    older: str | None
    """The ``before`` of the previous page; None at the beginning of the log."""
    newer: str | None
    """The ``after`` of the next page, which may be empty; None without recovery."""


class CursorRefused(ValueError):
    """A cursor is not of this log. ``field`` is the name of the argument."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class Feed:
    """Stored events as they take effect."""

    def __init__(self, runtime: Runtime, follower: Follower) -> None:
        self._runtime = runtime
        self._follower = follower

    @property
    def cursor(self) -> str | None:
        """Where to go on after an interruption."""
        return cursor(self._runtime, self._follower.reached)

    async def grown(self) -> None:
        """Wait until the log has more. A cancelled call loses nothing. Raises StoreClosed."""
        if self._runtime.is_over:
            raise StoreClosed
        await self._follower.grown()

    async def next(self) -> list[LoggedEvent]:
        """Return the next events of the filter; perhaps none. Raises EventsDeleted, StoreError."""
        return await self._follower.next()

    def offset_of(self, logged: LoggedEvent) -> str:
        """Return the offset of an event of the feed."""
        return str(self._runtime.log.offset_of(logged.sequence))

    def stored(self, logged: LoggedEvent) -> StoredEvent:
        """Return an event of the feed with decoded arguments."""
        return stored_event(self._runtime, logged)


async def located(runtime: Runtime, field: str, offset: str | None) -> int | None:
    """Return the sequence of the argument ``field``, an offset. Raises CursorRefused, StoreError."""
    if offset is None:
        return None
    try:
        return await locate(runtime, offset)
    except OffsetRefused as error:
        raise CursorRefused(field, str(error)) from None


def cursor(runtime: Runtime, sequence: int | None) -> str | None:
    """Return a sequence as a cursor; None without recovery."""
    if sequence is None or not runtime.is_enabled:
        return None
    return str(runtime.log.offset_of(sequence))
