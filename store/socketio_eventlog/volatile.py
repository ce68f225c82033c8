"""Positions without storage, for a server whose recovery is disabled: the same order, nothing kept."""

from __future__ import annotations

from collections.abc import Sequence

from socketio_eventlog.errors import OffsetUnknown
from socketio_eventlog.records import Change, Event, LoggedEvent, Membership, Missed, Offset


class VolatileLog:
    """Counts events and stores nothing; the disabled twin of ``EventLog``."""

    def __init__(self) -> None:
        self.epoch = "volatile"
        self.head = 0
        self.pruned_through = 0

    def offset_at(self, sequence: int) -> Offset:
        """The place of a number; no client is ever told."""
        return Offset(self.epoch, sequence)

    def locate(self, offset: str) -> Offset:
        """No offset was ever given out. Raises OffsetUnknown."""
        raise OffsetUnknown

    def precedes_epoch(self, earlier: str, later: str) -> bool:
        """There is one start only."""
        return False

    async def commit(self, changes: Sequence[Change]) -> list[int]:
        """Give every event its number; return the position after each change."""
        positions = []
        for change in changes:
            if isinstance(change, Event):
                self.head += 1
            positions.append(self.head)
        return positions

    def missed_in_memory(
        self, namespace: str, memberships: Sequence[Membership], after: int, through: int
    ) -> Missed | None:
        """Nothing: what is not in the dispatcher's tail is gone."""
        return Missed((), 0)

    async def missed(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed:
        """Nothing, as above."""
        return Missed((), 0)

    async def read(self, sequences: Sequence[int], limit_bytes: int) -> list[LoggedEvent]:
        """Nothing, as above."""
        return []

    def offset_of(self, sequence: int) -> Offset:
        """As ``place``."""
        return self.offset_at(sequence)

    async def acknowledgement(self, namespace: str, name: str, identity: str, key: str) -> str | None:
        """Nothing is remembered."""
        return None

    async def close(self) -> None:
        """There is nothing to close."""
