"""A log on a disk that may lose writes, and the events of the clients' twins. No I/O, no threads.

The log keeps the promises of the store (DESIGN.md, section 3) in the simplest possible way, to try the core
in thousands of histories; other tests check the same promises of the real store (test_power_loss.py,
test_store_crashes.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from socketio_eventlog.batch_stream import BatchStream
from socketio_eventlog.changes import Batch, Change
from socketio_eventlog.errors import StoreError, StoreRejected
from socketio_eventlog.events import Event, LoggedEvent, Missed, MissedSummary, Offset
from socketio_eventlog.free_space import FreeSpace
from socketio_eventlog.missed_summary import summary_of
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.snapshot import Membership, NodeRecord, Snapshot
from support.simulated_state import LogState, Written
from support.simulated_twins import Twins

REJECTED = "rejected"
"""The name of the rejected events."""


@dataclass(frozen=True)
class EpochBegan:
    """The beginning of an epoch: a start of the server."""

    epoch: str
    began_after: int


Entry = Written | EpochBegan


@dataclass
class Disk:
    """A disk that keeps the synced entries over a crash, and any number of later entries."""

    entries: list[Entry] = field(default_factory=list)
    synced: int = 0
    """The number of crash-safe entries."""
    uncertain: Written | None = None
    """A batch with a failed COMMIT, which may turn out committed after a crash."""

    def append(self, entry: Entry, *, durable: bool) -> None:
        self.uncertain = None
        self.entries.append(entry)
        if durable:
            self.synced = len(self.entries)

    def crash(self, keep: int, *, keep_uncertain: bool) -> list[Change]:
        """Lose the last entries, except at most ``keep`` unsynced ones. Returns the lost changes."""
        left = min(self.synced + keep, len(self.entries))
        lost = self.entries[left:]
        del self.entries[left:]
        if keep_uncertain and self.uncertain is not None and not lost:
            self.entries.append(self.uncertain)
        self.uncertain = None
        self.synced = len(self.entries)
        return [change for entry in lost if isinstance(entry, Written) for change in entry.changes]

    @property
    def epochs(self) -> list[EpochBegan]:
        return [entry for entry in self.entries if isinstance(entry, EpochBegan)]

    def fold(self) -> tuple[LogState, list[Batch]]:
        """The state and the batches of the log on the disk."""
        state, batches = LogState(), []
        for entry in self.entries:
            if isinstance(entry, EpochBegan):
                state.begin_epoch(entry.epoch, entry.began_after)
            else:
                batches.append(state.apply(entry))
        return state, batches


class Gate:
    """A gate; coroutines wait while the gate is closed."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def passed(self) -> None:
        await asyncio.sleep(0)
        await self._open.wait()


class SimulatedReads:
    """The reading part of a log: events of a state in memory."""

    in_memory_events = 4
    """The index of older events is on disk only."""
    state: LogState
    reads: Gate
    head: int
    pruned_through: int
    is_durable = True

    async def may_live(self, node: str) -> bool:
        return True

    def missed_in_memory(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed | None:
        if max(after, self.pruned_through) < self.head - self.in_memory_events:
            return None
        return self._missed(namespace, memberships, after, through)

    async def missed(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed:
        await self.reads.passed()
        return self._missed(namespace, memberships, after, through)

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
        missed = await self.missed(namespace, memberships, after, through)
        return summary_of(missed, max_events, max_bytes)

    def _missed(self, namespace: str, memberships: Sequence[Membership], after: int, through: int) -> Missed:
        found = self.state.missed(namespace, memberships, after, through)
        return Missed(tuple(found), sum(found.values()))

    async def read(self, sequences: Sequence[int], limit_bytes: int) -> list[LoggedEvent]:
        await self.reads.passed()
        logged, events = [], self.state.events
        for sequence in sequences:
            if sequence in events:
                logged.append(LoggedEvent(sequence, events[sequence]))
                limit_bytes -= events[sequence].size_bytes
                if limit_bytes < 0:
                    break
        return logged

    async def prune_idempotency_keys(self, handled_before: float, limit: int) -> int:
        return 0

    async def prune_session_history(self, before: float, limit: int) -> bool:
        return False


class SimulatedLog(SimulatedReads):
    """The log of a start of the server on a disk, for the core of a single server."""

    def __init__(
        self, disk: Disk, twins: Twins, epoch: str, clock: Callable[[], float], *, durable: bool
    ) -> None:
        """``durable``: whether a crash loses nothing ("full"), or possibly the last writes ("normal")."""
        self.node = self.epoch = epoch
        self.free_space = FreeSpace()
        self.disk = disk
        self.twins = twins
        self.durable = durable
        self.commits, self.reads = Gate(), Gate()
        self.failures: deque[tuple[StoreError, bool]] = deque()
        """The errors of the next commits, and whether a crash may find the commits."""
        self.waiting: Written | None = None
        """The batch under commit."""
        before, _ = disk.fold()
        disk.append(EpochBegan(epoch, before.head), durable=True)
        self.state, _ = disk.fold()
        self._last_used = self.state.head
        self._epochs = Epochs((entry.epoch, entry.began_after) for entry in disk.epochs)
        self._clock = clock
        self._stepped_at = clock()
        self._appends = 0
        self._batches = BatchStream()

    @property
    def contact_at(self) -> float:
        return self._clock()

    @property
    def head(self) -> int:  # type: ignore[override]
        return self.state.head

    @property
    def pruned_through(self) -> int:  # type: ignore[override]
        return self.state.pruned_through

    def offset_at(self, sequence: int) -> Offset:
        return Offset(self.epoch, sequence)

    def offset_text(self, sequence: int) -> str:
        return f"{self.epoch}.{sequence}"

    def offset_of(self, sequence: int) -> Offset:
        return Offset(self._epochs.epoch_of(sequence), sequence)

    def locate(self, offset: str) -> Offset:
        epoch, _, sequence = offset.rpartition(".")
        return self._epochs.check(Offset(epoch, int(sequence)), self.head)

    def precedes_epoch(self, earlier: str, later: str) -> bool:
        return self._epochs.precedes(earlier, later)

    def snapshot(self) -> Snapshot:
        """The result of ``join``."""
        state = self.state
        node = NodeRecord(self.node, state.uptime, applied=state.batch, floor=state.pruned_through)
        positions = tuple(state.positions)
        return Snapshot(state.batch, state.head, state.uptime, (node,), positions, state.stored_sessions())

    def append(self, changes: Sequence[Change]) -> asyncio.Future[int]:
        self._appends += 1
        first = self._last_used + 1
        self._last_used += sum(isinstance(change, Event) for change in changes)  # used up even by a failure
        now = self._clock()
        uptime = self.state.next_uptime(now - self._stepped_at)
        written = Written(self.node, self._appends, uptime, first, tuple(changes))
        return asyncio.ensure_future(self._append(written, now))

    async def _append(self, written: Written, now: float) -> int:
        self.waiting = written
        try:
            await self.commits.passed()
            if any(isinstance(change, Event) and change.name == REJECTED for change in written.changes):
                raise StoreRejected
            if self.failures:
                error, may_be_found = self.failures.popleft()
                self.disk.uncertain = written if may_be_found else None
                raise error
        finally:
            self.waiting = None
        self.disk.append(written, durable=self.durable)
        self._stepped_at = now
        batch = self.state.apply(written)
        self.twins.add(batch)
        self._batches.put(batch)
        return batch.number

    def batches(self) -> BatchStream:
        return self._batches
