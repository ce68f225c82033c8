"""The contract of an event log, for the server above every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from socketio_eventlog.changed_sessions import ChangedSessions
from socketio_eventlog.changes import Batch, Change
from socketio_eventlog.events import LoggedEvent, Missed, MissedSummary, Offset, Publication
from socketio_eventlog.snapshot import Membership, Snapshot

if TYPE_CHECKING:
    import asyncio

    from socketio_eventlog.free_space import FreeSpace
    from socketio_eventlog.history import SessionHistory
    from socketio_eventlog.maintenance import Compacted
    from socketio_eventlog.search import Found, Search

HEARTBEAT_SECONDS: Final = 2.0
"""The time between two heartbeats of a node. A step of the uptime clock counts at most two heartbeats."""
LEASE_SECONDS: Final = 10.0
"""The uptime without a write after which other nodes may declare a node dead."""


class Log(Protocol):
    """An ordered log of events and of all other changes, and the sessions made by the changes.

    ``append`` gives a change a place in the order. A durable change takes effect on every node, in the order
    of the places. ``append`` itself therefore has no effect: all effective changes, of the own node and of
    all others, come out of ``batches``.

    One event loop uses a log. Sequences are positive integers. Uptimes are seconds on the uptime clock (see
    ``Batch.uptime``); wall-clock times are seconds since the Unix epoch.
    """

    @property
    def node(self) -> str:
        """The id of the own node: a life of the process, from ``join`` on."""
        ...

    @property
    def contact_at(self) -> float:
        """The time of the last contact with the log, on ``time.monotonic``, in seconds.

        The time is the sending time of the newest own batch that has come out of ``batches``. Until
        ``LEASE_SECONDS`` later no other node declares the own node dead. A log with a single writer is always
        in contact.
        """
        ...

    @property
    def is_durable(self) -> bool:
        """Whether offsets can be given to clients: recovery is enabled."""
        ...

    @property
    def free_space(self) -> FreeSpace:
        """The free space for events."""
        ...

    @property
    def changed_sessions(self) -> ChangedSessions | None:
        """The sessions that recent changes concern; None where the process alone writes the log."""
        ...

    @property
    def index_memory_bytes(self) -> int:
        """An estimate of the memory of the index of events by room."""
        ...

    @property
    def head(self) -> int:
        """The sequence of the last event in all batches so far, waiting batches included.

        0 before the first event.
        """
        ...

    @property
    def pruned_through(self) -> int:
        """The sequence of the last deleted event; 0 before the first deletion."""
        ...

    def offset_at(self, sequence: int) -> Offset:
        """Return the offset of a sequence in the epoch of the last batch out of ``batches``."""
        ...

    def offset_text(self, sequence: int) -> str:
        """Return ``offset_at`` as text for clients; called for each event."""
        ...

    def offset_of(self, sequence: int) -> Offset:
        """Return the offset of an event from the event's emit, perhaps in an earlier epoch."""
        ...

    def locate(self, offset: str) -> Offset:
        """Parse a client's offset and check the offset against the log.

        Raises OffsetMalformed for a text of another form, OffsetUnknown for an epoch without a record in the
        database, OffsetRolledBack for a sequence outside of the epoch's range in the database. The present
        epoch ends at ``head``: the offset of an event that has taken effect only on another node is refused,
        too. The offset becomes valid with the next effective change of the own node, such as a claim.
        """
        ...

    def precedes_epoch(self, earlier: str, later: str) -> bool:
        """Return whether epoch ``earlier`` began before epoch ``later``.

        Raises OffsetUnknown for an epoch without a record in the database.
        """
        ...

    async def join(self) -> Snapshot:
        """Join the log as a node; return the state at one point of the order. Called once, first.

        Sessions of dead nodes are away. Raises StoreUnavailable, StoreClosed.
        """
        ...

    def append(self, changes: Sequence[Change]) -> asyncio.Future[int]:
        """Append the changes to the order in one batch, all or none; the effects come later.

        The future gives the number of the batch. After an error nothing was appended; where a crash may find
        the events all the same, no later event receives their sequences. A cancelled future does not stop the
        append. The call itself raises StoreClosed after ``close``; all other errors are the future's:

        StoreBusy when another program writes (a retry may succeed), StoreUnavailable when the disk is full or
        broken, its subclass LogFull when there is no space for events and the changes contain one (see
        ``free_space.GROWING``), StoreRejected when a change is invalid, and its subclass ConditionFailed
        when a change must not be stored here (see ``EventHandled``).

        NodeFenced and HistoryLost, both StoreUnavailable, are the end of the node: all later calls fail in
        the same way. The node then closes all transports without a packet, closes the log, opens a new log
        and joins anew.
        """
        ...

    def batches(self) -> AsyncIterator[Batch]:
        """Give out the batches after the snapshot, of all nodes, in order, each once.

        Each batch is durable at the configured level. The iterator ends after ``close``. Raises NodeFenced or
        HistoryLost as ``append`` does, after the earlier batches.
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
        """Summarise the events that ``missed`` would find, at a cost independent of the number of events.

        Raises StoreUnavailable, StoreClosed.
        """
        ...

    async def read(self, sequences: Sequence[int], limit_bytes: int | None = None) -> list[LoggedEvent]:
        """Read the events with the sequences, ascending, each once; absent events are left out.

        With ``limit_bytes`` the read stops after the first event beyond the limit. Raises StoreUnavailable,
        StoreClosed.
        """
        ...

    async def emission_times(self, sequences: Sequence[int]) -> list[tuple[int, float]]:
        """Return the sequences, ascending, each with the wall-clock time of the event's emit.

        Absent events are left out. Payloads are not read. Raises StoreUnavailable, StoreClosed.
        """
        ...

    async def search(self, question: Search) -> Found:
        """Search a range of the log, with a bound for the work. Raises StoreUnavailable, StoreClosed."""
        ...

    async def unreadable(self, first: int, last: int, is_readable: Callable[[str, int], bool]) -> list[int]:
        """Return the sequences of the events from ``first`` to ``last`` that fail the check, ascending.

        ``is_readable`` takes the payload and the number of attachments, and runs on another thread.
        """
        ...

    async def acknowledgement(self, namespace: str, name: str, identity: str, key: str) -> str | None:
        """Return the stored acknowledgement of a client's event, a JSON array; None for a new key.

        Raises StoreUnavailable, StoreClosed.
        """
        ...

    async def publication(self, publisher: str, key: str) -> Publication | None:
        """Return the publication under an idempotency key; None for a new key (see ``Published``).

        Raises StoreUnavailable, StoreClosed.
        """
        ...

    async def prune_idempotency_keys(self, handled_before: float, limit: int = 1000) -> int:
        """Delete at most ``limit`` idempotency keys older than an uptime, of clients and of publishers each.

        Return the larger of the two numbers of deleted keys.

        Raises StoreBusy, StoreUnavailable, StoreClosed.
        """
        ...

    async def session_history(self, namespace: str, sid: str) -> SessionHistory | None:
        """Return the newest entries of a session, ended or not; None without an entry.

        Only committed changes have entries. Raises StoreUnavailable, StoreClosed.
        """
        ...

    async def prune_session_history(self, before: float, limit: int = 1000) -> bool:
        """Delete at most ``limit`` history entries: older than an uptime in seconds, or surplus.

        Surplus are the oldest entries of a session beyond ``history.ENTRIES_KEPT``, and the oldest of all
        entries beyond the engine's limit. Return whether there is more to delete. Raises StoreBusy,
        StoreUnavailable, StoreClosed.
        """
        ...

    async def compact(self, max_bytes: int | None) -> Compacted:
        """Give the space of deleted events back to the disk; no commit is possible meanwhile.

        Raises NothingChanged when the content has more than ``max_bytes``, or the disk has no space;
        StoreBusy, StoreUnavailable, StoreClosed.
        """
        ...

    async def scrub(self) -> bool:
        """Remove the former content of redacted events from the files, as far as the engine can.

        Return False while a reader of the log still needs the content: a later call may succeed. Raises
        StoreUnavailable, StoreClosed.
        """
        ...

    async def may_live(self, node: str) -> bool:
        """Return False for a node that has ended, as far as the store knows. Raises StoreError.

        A node may live again for the store, after a moment without a connection.
        """
        ...

    async def counts(self) -> tuple[int, int]:
        """Return the number of sessions and the number of events. Raises StoreUnavailable, StoreClosed."""
        ...

    def abandon(self) -> None:
        """Close the log after the end of the log's event loop; blocking, called on another event loop."""
        ...

    async def close(self) -> None:
        """Finish the submitted work, leave and close the log. A second call does nothing."""
        ...
