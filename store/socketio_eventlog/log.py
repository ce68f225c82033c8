"""The contract of an event log, for the server above every engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from socketio_eventlog.records import Change, LoggedEvent, Membership, Missed, Offset, StoredSession


class Log(Protocol):
    """An ordered log of events, and the sessions beside the events.

    One event loop uses a log. Sequences are positive integers. Uptimes are seconds on the uptime clock
    (see ``SessionAway.away_since``); wall-clock times are seconds since the Unix epoch.
    """

    @property
    def is_durable(self) -> bool:
        """Whether offsets can be given to clients: recovery is enabled."""
        ...

    @property
    def uptime_at_open(self) -> float:
        """Uptime in seconds of all earlier nodes on this database; 0 without a database."""
        ...

    @property
    def head(self) -> int:
        """The sequence of the last committed event; 0 before the first event."""
        ...

    @property
    def pruned_through(self) -> int:
        """The sequence of the last deleted event; 0 before the first deletion."""
        ...

    def offset_at(self, sequence: int) -> Offset:
        """Return the offset of a sequence in the epoch of this node."""
        ...

    def offset_of(self, sequence: int) -> Offset:
        """Return the offset that an event received at its emit, perhaps in an earlier epoch."""
        ...

    def locate(self, offset: str) -> Offset:
        """Parse a client's offset and check the offset against the log.

        Raises OffsetMalformed for a text of another form, OffsetUnknown for an epoch that the database
        does not record, OffsetRolledBack for a sequence outside of the epoch's range in this database.
        """
        ...

    def precedes_epoch(self, earlier: str, later: str) -> bool:
        """Return whether epoch ``earlier`` began before epoch ``later``.

        Raises OffsetUnknown for an epoch that the database does not record.
        """
        ...

    async def load_sessions(self) -> list[StoredSession]:
        """Return all sessions, in the order of their opening. Raises StoreUnavailable, StoreClosed."""
        ...

    async def commit(self, changes: Sequence[Change]) -> list[int]:
        """Write the changes in one transaction, in the given order.

        Returns the head after each change: an event's own sequence, and for any other change the
        sequence of the last event before the change. After an error nothing is stored, and no later
        event receives the sequences of the failed events. A cancelled wait does not stop the commit.

        Raises StoreBusy when another program writes (a retry may succeed), StoreUnavailable when the disk
        is full or broken, StoreRejected when one of the changes is invalid, StoreClosed.
        """
        ...

    async def missed(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed:
        """Find the stored events with sequences in (after, through] that a membership covers.

        With ``at_most`` the search may stop as soon as more than ``at_most`` events are found. Raises
        StoreUnavailable, StoreClosed.
        """
        ...

    def missed_in_memory(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed | None:
        """Do the same as ``missed`` without I/O; return None when the search needs the disk."""
        ...

    async def read(self, sequences: Sequence[int], limit_bytes: int | None = None) -> list[LoggedEvent]:
        """Read the events with these sequences, ascending, each once; absent events are left out.

        With ``limit_bytes`` the read stops after the event that exceeds the limit. Raises
        StoreUnavailable, StoreClosed.
        """
        ...

    async def unreadable(self, first: int, last: int, is_readable: Callable[[str, int], bool]) -> list[int]:
        """Return the sequences from ``first`` to ``last`` whose events fail the check, ascending.

        ``is_readable`` takes the payload and the number of attachments, and runs on another thread.
        """
        ...

    async def prune(self, *, through: int, emitted_before: float, limit: int = 1000) -> int:
        """Delete the oldest events; return the number of deleted events.

        The deletion stops after the sequence ``through``, before the first event whose emit is not
        earlier than the wall-clock time ``emitted_before``, and after ``limit`` events, which go in one
        transaction. Raises StoreBusy, StoreUnavailable, StoreClosed.
        """
        ...

    async def acknowledgement(self, namespace: str, name: str, identity: str, key: str) -> str | None:
        """Return the stored acknowledgement of a client's event, a JSON array; None for a new key.

        Raises StoreUnavailable, StoreClosed.
        """
        ...

    async def prune_idempotency_keys(self, handled_before: float, limit: int = 1000) -> int:
        """Delete at most ``limit`` idempotency keys older than an uptime; return the number deleted.

        Raises StoreBusy, StoreUnavailable, StoreClosed.
        """
        ...

    async def heartbeat(self, uptime: float) -> None:
        """Record that this node is alive, and the uptime of all nodes on this database.

        Raises StoreUnavailable when the database file was deleted or replaced, StoreBusy, StoreClosed.
        """
        ...

    async def counts(self) -> tuple[int, int]:
        """Return the number of sessions and the number of events. Raises StoreUnavailable, StoreClosed."""
        ...

    def abandon(self) -> None:
        """Close the log after the end of its event loop; blocking, called on another event loop."""
        ...

    async def close(self) -> None:
        """Finish the submitted work and close the log. A second call does nothing."""
        ...
