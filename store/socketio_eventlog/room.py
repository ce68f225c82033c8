"""The room that a log has left for events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from socketio_eventlog.changes import Change, EventHandled, Published
from socketio_eventlog.events import Event
from socketio_eventlog.session_changes import DataSaved

GROWING: Final = frozenset({Event, EventHandled, Published})
"""The changes that a log without room refuses, and DataSaved when the data grow.

All others go through: the ends, claims and returns of sessions, so that clients come back, and heartbeats
and deletions, which make room.
"""


def grows(changes: Iterable[Change]) -> bool:
    """Whether a log without room refuses the changes, whatever is stored."""
    return any(type(change) in GROWING for change in changes)


def may_grow(changes: Iterable[Change]) -> bool:
    """Whether the changes need more room than the ends and returns of sessions."""
    return any(type(change) in GROWING or type(change) is DataSaved for change in changes)


class Room:
    """The room of a log, as the event loop sees it.

    A log that is too large asks for the deletion of old events first, and refuses new ones only when no
    event may go any more. Engines without a limit leave it as it is.
    """

    def __init__(self) -> None:
        self.refusal: str | None = None
        """Why new events are refused; None when they are not."""
        self.is_pruned = False
        """Whether every event that may go has gone, although there is no room. Set by retention."""
        self.used_bytes = 0
        """The size of the log at the last heartbeat: the pages in use and the WAL. Set by the engine."""
        self.wal_bytes = 0
        """The size of the WAL then."""
        self._scarce = asyncio.Event()

    @property
    def is_scarce(self) -> bool:
        """Whether old events should go that are kept for a retention only."""
        return self._scarce.is_set()

    async def until_scarce(self) -> None:
        """Wait until old events should go."""
        await self._scarce.wait()

    def report(self, *, is_scarce: bool, refusal: str | None) -> None:
        """Take note of a change, on the event loop; called by the engine."""
        self.refusal = refusal
        if is_scarce:
            self._scarce.set()
        else:
            self._scarce.clear()
            self.is_pruned = False
