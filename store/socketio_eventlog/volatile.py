"""A log without storage, for a server whose recovery is disabled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from socketio_eventlog.errors import OffsetUnknown
from socketio_eventlog.records import Change, Event, LoggedEvent, Membership, Missed, Offset, StoredSession


class VolatileLog:
    """A ``Log`` that counts events and stores nothing."""

    is_durable: Final = False
    uptime_at_open: Final = 0.0

    def __init__(self) -> None:
        self.epoch = "volatile"
        self.head = 0
        self.pruned_through = 0

    def offset_at(self, sequence: int) -> Offset:
        """Return an offset for use inside the server only; no client receives the offset."""
        return Offset(self.epoch, sequence)

    def offset_of(self, sequence: int) -> Offset:
        return Offset(self.epoch, sequence)

    def locate(self, offset: str) -> Offset:
        """Refuse every offset, since no client ever received one. Raises OffsetUnknown."""
        raise OffsetUnknown

    def precedes_epoch(self, earlier: str, later: str) -> bool:
        """Return False: a volatile log has one epoch only."""
        return False

    async def load_sessions(self) -> list[StoredSession]:
        return []

    async def commit(self, changes: Sequence[Change]) -> list[int]:
        heads = []
        for change in changes:
            if isinstance(change, Event):
                self.head += 1
            heads.append(self.head)
        return heads

    async def missed(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed:
        return Missed((), 0)

    def missed_in_memory(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed | None:
        return Missed((), 0)

    async def read(self, sequences: Sequence[int], limit_bytes: int | None = None) -> list[LoggedEvent]:
        return []

    async def unreadable(self, first: int, last: int, is_readable: Callable[[str, int], bool]) -> list[int]:
        return []

    async def prune(self, *, through: int, emitted_before: float, limit: int = 1000) -> int:
        return 0

    async def acknowledgement(self, namespace: str, name: str, identity: str, key: str) -> str | None:
        return None

    async def prune_idempotency_keys(self, handled_before: float, limit: int = 1000) -> int:
        return 0

    async def heartbeat(self, uptime: float) -> None:
        pass

    async def counts(self) -> tuple[int, int]:
        return 0, 0

    def abandon(self) -> None:
        pass

    async def close(self) -> None:
        pass
