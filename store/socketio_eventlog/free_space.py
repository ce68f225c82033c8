"""The free space of a log, for events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from socketio_eventlog.changes import Change, EventHandled, Published
from socketio_eventlog.events import Event
from socketio_eventlog.session_changes import DataSaved

GROWING: Final = frozenset({Event, EventHandled, Published})
"""The changes refused by a log without free space; DataSaved too, when the data grow.

All other changes are accepted: the ends, claims and returns of sessions, for returning clients, and
heartbeats and deletions, which free space.
"""


def grows(changes: Iterable[Change]) -> bool:
    """Whether a log without free space refuses the changes, independent of the stored data."""
    return any(type(change) in GROWING for change in changes)


def may_grow(changes: Iterable[Change]) -> bool:
    """Whether the changes need more space than the ends and returns of sessions."""
    return any(type(change) in GROWING or type(change) is DataSaved for change in changes)


class FreeSpace:
    """The free space of a log, for use on the event loop.

    A log above the size limit asks for the deletion of old events first. New events are refused only when no
    further event may be deleted. Engines without a limit never report a change.
    """

    def __init__(self) -> None:
        self.refusal: str | None = None
        """The reason for the refusal of new events; None when new events are accepted."""
        self.is_pruned = False
        """Whether all deletable events are deleted and there is still no space. Set by retention."""
        self.used_bytes = 0
        """The size of the log at the last heartbeat: the pages in use and the WAL. Set by the engine."""
        self.wal_bytes = 0
        """The size of the WAL then."""
        self._scarce = asyncio.Event()

    @property
    def is_scarce(self) -> bool:
        """Whether old events should be deleted that only the retention keeps."""
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
