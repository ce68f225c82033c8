"""The contract of an event log, for the server above every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from socketio_eventlog.changes import Batch, Change
from socketio_eventlog.events import LoggedEvent, Missed, MissedSummary, Offset, Publication
from socketio_eventlog.snapshot import Membership, Snapshot

if TYPE_CHECKING:
    import asyncio

    from socketio_eventlog.history import SessionHistory
    from socketio_eventlog.maintenance import Compacted
    from socketio_eventlog.room import Room
    from socketio_eventlog.search import Found, Search

HEARTBEAT_SECONDS: Final = 2.0
"""The time between two heartbeats of a node. A step of the uptime clock counts at most two of them."""
LEASE_SECONDS: Final = 10.0
"""The uptime after which other nodes may declare a node dead that has written nothing."""


class Log(Protocol):
    """An ordered log of events and of all other changes, and the sessions that the changes make.

    An event gets its place when it is appended; it takes effect, everywhere, in that order, when it is
    durable. ``append`` therefore gives a place and has no effect: what takes effect, of this node and of all
    others, comes out of ``batches``.

    One event loop uses a log. Sequences are positive integers. Uptimes are seconds on the uptime clock
    (see ``Batch.uptime``); wall-clock times are seconds since the Unix epoch.
    """

    @property
    def node(self) -> str:
        """The id of this node: one life of the process, from ``join`` on."""
        ...

    @property
    def contact_at(self) -> float:
        """The time of the last contact with the log, on ``time.monotonic``, in seconds.

        This is when the newest of the own batches that have come back was sent. Until ``LEASE_SECONDS`` later
        no other node declares this one dead. A log that only this node writes is always in contact.
        """
        ...

    @property
    def is_durable(self) -> bool:
        """Whether offsets can be given to clients: recovery is enabled."""
        ...

    @property
    def room(self) -> Room:
        """The room that is left for events."""
        ...

    @property
    def index_memory_bytes(self) -> int:
        """An estimate of the memory of the index of events by room."""
        ...

    @property
    def head(self) -> int:
        """The sequence of the last event in all batches so far, those included that wait for their reader.

        It is 0 before the first event.
        """
        ...

    @property
    def pruned_through(self) -> int:
        """The sequence of the last deleted event; 0 before the first deletion."""
        ...

    def offset_at(self, sequence: int) -> Offset:
        """Return the offset of a sequence in the epoch of the last batch that ``batches`` has given out."""
        ...

    def offset_text(self, sequence: int) -> str:
        """Return ``offset_at`` as the text that clients see; asked for each event."""
        ...

    def offset_of(self, sequence: int) -> Offset:
        """Return the offset that an event received at its emit, perhaps in an earlier epoch."""
        ...

    def locate(self, offset: str) -> Offset:
        """Parse a client's offset and check the offset against the log.

        Raises OffsetMalformed for a text of another form, OffsetUnknown for an epoch that the database
        does not record, OffsetRolledBack for a sequence outside of the epoch's range in this database. The
        present epoch ends at ``head``: the offset of an event that only another node has applied so far is
        refused, too. It is known when a later change of this node has taken effect, such as a claim.
        """
        ...

    def precedes_epoch(self, earlier: str, later: str) -> bool:
        """Return whether epoch ``earlier`` began before epoch ``later``.

        Raises OffsetUnknown for an epoch that the database does not record.
        """
        ...

    async def join(self) -> Snapshot:
        """Join the log as a node; return the state at one point of the order. Called once, first.

        Sessions of nodes that are gone are away. Raises StoreUnavailable, StoreClosed.
        """
        ...

    def append(self, changes: Sequence[Change]) -> asyncio.Future[int]:
        """Append the changes to the order, in one batch, all of them or none; they have no effect yet.

        The future gives the number of the batch. After an error nothing was appended; where a crash may find
        the events all the same, no later event receives their sequences. A cancelled future does not stop the
        append. The call itself raises StoreClosed after ``close``; all other errors are the future's:

        StoreBusy when another program writes (a retry may succeed), StoreUnavailable when the disk is full
        or broken, its subclass LogFull when there is no room for events and the changes contain one (see
        ``room.GROWING``), StoreRejected when one of the changes is invalid, and its subclass ConditionFailed
        when a change must not be stored here (see ``EventHandled``).

        NodeFenced and HistoryLost, both StoreUnavailable, are the end of this node: all later calls fail in
        the same way. The node then closes all transports without a packet, closes this log, opens another one
        and joins anew.
        """
        ...

    def batches(self) -> AsyncIterator[Batch]:
        """Give out the batches after the snapshot, of all nodes, in order, each once.

        A batch is durable at the configured level when it is given out. The iterator ends after ``close``.
        Raises NodeFenced or HistoryLost as ``append`` does, after the batches from before.
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

    async def summarise_missed(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        max_events: int,
        max_bytes: int,
    ) -> MissedSummary:
        """Summarise the events that ``missed`` would find, at a cost that does not depend on their number.

        Raises StoreUnavailable, StoreClosed.
        """
        ...

    async def read(self, sequences: Sequence[int], limit_bytes: int | None = None) -> list[LoggedEvent]:
        """Read the events with these sequences, ascending, each once; absent events are left out.

        With ``limit_bytes`` the read stops after the event that exceeds the limit. Raises
        StoreUnavailable, StoreClosed.
        """
        ...

    async def emission_times(self, sequences: Sequence[int]) -> list[tuple[int, float]]:
        """Return these sequences, ascending, each with the wall-clock time at which its event was emitted.

        Absent events are left out. The events themselves are not read. Raises StoreUnavailable, StoreClosed.
        """
        ...

    async def search(self, question: Search) -> Found:
        """Search a range of the log, with a bound for the work. Raises StoreUnavailable, StoreClosed."""
        ...

    async def unreadable(self, first: int, last: int, is_readable: Callable[[str, int], bool]) -> list[int]:
        """Return the sequences from ``first`` to ``last`` whose events fail the check, ascending.

        ``is_readable`` takes the payload and the number of attachments, and runs on another thread.
        """
        ...

    async def acknowledgement(self, namespace: str, name: str, identity: str, key: str) -> str | None:
        """Return the stored acknowledgement of a client's event, a JSON array; None for a new key.

        Raises StoreUnavailable, StoreClosed.
        """
        ...

    async def publication(self, publisher: str, key: str) -> Publication | None:
        """Return what was published under an idempotency key; None for a new key (see ``Published``).

        Raises StoreUnavailable, StoreClosed.
        """
        ...

    async def prune_idempotency_keys(self, handled_before: float, limit: int = 1000) -> int:
        """Delete at most ``limit`` idempotency keys older than an uptime, of clients and of publishers each.

        Return the number deleted, of those kind of which more were deleted.

        Raises StoreBusy, StoreUnavailable, StoreClosed.
        """
        ...

    async def session_history(self, namespace: str, sid: str) -> SessionHistory | None:
        """Return the newest entries of a session, also of one that is over; None when there are none.

        The entries are those of committed changes. Raises StoreUnavailable, StoreClosed.
        """
        ...

    async def prune_session_history(self, before: float, limit: int = 1000) -> bool:
        """Delete at most ``limit`` entries of histories from before an uptime in seconds, and surplus ones.

        Surplus are the oldest entries of a session beyond ``history.ENTRIES_KEPT``, and those beyond the
        total that the engine keeps. Return whether there is more to delete. Raises StoreBusy,
        StoreUnavailable, StoreClosed.
        """
        ...

    async def compact(self, max_bytes: int | None) -> Compacted:
        """Give the space of deleted events back to the disk; no commit is possible meanwhile.

        Raises NothingChanged when the content has more than ``max_bytes``, or the disk has no room;
        StoreBusy, StoreUnavailable, StoreClosed.
        """
        ...

    async def scrub(self) -> bool:
        """Take what ``Redacted`` has replaced out of the files, as far as the engine can.

        Return False while a reader of the log still needs it: a later call may succeed. Raises
        StoreUnavailable, StoreClosed.
        """
        ...

    async def counts(self) -> tuple[int, int]:
        """Return the number of sessions and the number of events. Raises StoreUnavailable, StoreClosed."""
        ...

    def abandon(self) -> None:
        """Close the log after the end of its event loop; blocking, called on another event loop."""
        ...

    async def close(self) -> None:
        """Finish the submitted work, leave the log and close it. A second call does nothing."""
        ...
