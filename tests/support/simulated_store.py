"""A log on a disk that may lose writes, and the events of the clients' twins. No I/O, no threads.

It keeps what the store promises (DESIGN.md, section 3) in the simplest way that could be right, so that
the core above it can be tried in thousands of histories; that the real store keeps the same promises is
tested elsewhere (test_power_loss.py, test_store_crashes.py).
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from socketio_eventlog.errors import StoreError, StoreRejected
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.records import (
    Change,
    DataSaved,
    Event,
    IdentityRevoked,
    LoggedEvent,
    Membership,
    Missed,
    Offset,
    Room,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionAway,
    SessionEnded,
    SessionOpened,
    SessionResumed,
    StoredSession,
)

SessionKey = tuple[str, str]
"""Namespace and sid."""


REJECTED = "rejected"
"""The name of the events that this store rejects."""


@dataclass(frozen=True)
class Transaction:
    """Changes, each with the log's position right after it."""

    changes: tuple[tuple[int, Change], ...]


@dataclass(frozen=True)
class EpochBegan:
    """The beginning of an epoch: a start of the server."""

    epoch: str
    began_after: int


@dataclass(frozen=True)
class Pruned:
    """Events up to this one are deleted."""

    through: int


@dataclass(frozen=True)
class Heartbeat:
    """The uptime of all servers on this disk, in seconds."""

    uptime: float


Entry = Transaction | EpochBegan | Pruned | Heartbeat


@dataclass
class Disk:
    """A disk that keeps the synced entries over a crash, and any number of later entries."""

    entries: list[Entry] = field(default_factory=list)
    synced: int = 0
    """The number of entries that survive every crash."""
    uncertain: Transaction | None = None
    """A transaction whose COMMIT failed and which a crash may find committed all the same."""

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
        return [change for entry in lost if isinstance(entry, Transaction) for _, change in entry.changes]

    @property
    def epochs(self) -> list[EpochBegan]:
        return [entry for entry in self.entries if isinstance(entry, EpochBegan)]

    @property
    def uptime(self) -> float:
        return max((entry.uptime for entry in self.entries if isinstance(entry, Heartbeat)), default=0.0)

    @property
    def pruned_through(self) -> int:
        return max((entry.through for entry in self.entries if isinstance(entry, Pruned)), default=0)

    def changes(self) -> list[tuple[int, Change]]:
        return [
            change for entry in self.entries if isinstance(entry, Transaction) for change in entry.changes
        ]


class Twins:
    """The events of clients that never disconnect, computed from the promise, change by change.

    It has no intervals, cursors and states: a member of a room at an event receives the event.
    """

    def __init__(self, changes: Sequence[tuple[int, Change]] = ()) -> None:
        self.received: dict[SessionKey, list[tuple[int, Event]]] = {}
        """The events of each session since it was opened, ended sessions included."""
        self.present: dict[SessionKey, set[Room]] = {}
        """The rooms of the sessions that have not ended."""
        self.data: dict[SessionKey, str] = {}
        for position, change in changes:
            self.add(position, change)

    def add(self, position: int, change: Change) -> None:
        match change:
            case Event():
                self._deliver(position, change)
            case SessionOpened(namespace, sid):
                self.present[namespace, sid] = {sid}
                self.received[namespace, sid] = []
                self.data[namespace, sid] = "{}"
            case SessionEnded(namespace, sid):
                self.present.pop((namespace, sid), None)
            case RoomJoined(namespace, sid, room) if (namespace, sid) in self.present:
                self.present[namespace, sid].add(room)
            case RoomLeft(namespace, sid, room) if (namespace, sid) in self.present:
                self.present[namespace, sid].discard(room)
            case RoomClosed(namespace, room):
                self._empty(namespace, room)
            case DataSaved(namespace, sid, data):
                self.data[namespace, sid] = data
            case _:
                pass

    def _deliver(self, position: int, event: Event) -> None:
        for (namespace, sid), rooms in self.present.items():
            addressed = event.rooms is None or not rooms.isdisjoint(event.rooms)
            if namespace == event.namespace and addressed and sid not in event.skip:
                self.received[namespace, sid].append((position, event))

    def _empty(self, namespace: str, room: Room) -> None:
        for (other, _), rooms in self.present.items():
            if other == namespace:
                rooms.discard(room)


class Gate:
    """A gate at which coroutines wait while it is closed."""

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


class SimulatedLog:
    """The log of one start of the server on a disk, for dispatch, recovery, replay and retention."""

    in_memory_events = 4
    """The index of older events is on disk only."""

    def __init__(self, disk: Disk, twins: Twins, epoch: str, *, durable: bool) -> None:
        """``durable``: whether a crash loses nothing ("full"), or possibly the last writes ("normal")."""
        self.epoch = epoch
        self.disk = disk
        self.twins = twins
        self.durable = durable
        self.commits, self.reads = Gate(), Gate()
        self.failures: deque[tuple[StoreError, bool]] = deque()
        """The errors of the next commits, and whether a crash may find these commits."""
        self.waiting: Transaction | None = None
        """The transaction that is being committed."""
        self.pruned_through = disk.pruned_through
        sequences = [position for position, change in disk.changes() if isinstance(change, Event)]
        began = [epoch.began_after for epoch in disk.epochs]
        self.head = self._last_used = max(0, *sequences, *began, self.pruned_through)
        disk.append(EpochBegan(epoch, self.head), durable=True)
        self._epochs = Epochs((entry.epoch, entry.began_after) for entry in disk.epochs)
        self._events = {n: change for n, change in disk.changes() if isinstance(change, Event)}
        self.uptime_at_open = disk.uptime

    is_durable = True

    def offset_at(self, sequence: int) -> Offset:
        return Offset(self.epoch, sequence)

    def offset_of(self, sequence: int) -> Offset:
        return Offset(self._epochs.epoch_of(sequence), sequence)

    def locate(self, offset: str) -> Offset:
        epoch, _, sequence = offset.rpartition(".")
        return self._epochs.check(Offset(epoch, int(sequence)), self.head)

    def precedes_epoch(self, earlier: str, later: str) -> bool:
        return self._epochs.precedes(earlier, later)

    async def commit(self, changes: Sequence[Change]) -> list[int]:
        positions, head = [], self.head
        for change in changes:
            if isinstance(change, Event):
                self._last_used += 1  # a sequence is used up, even if the commit fails
                head = self._last_used
            positions.append(head)
        transaction = Transaction(tuple(zip(positions, changes, strict=True)))
        self.waiting = transaction
        try:
            await self.commits.passed()
            if any(isinstance(change, Event) and change.name == REJECTED for change in changes):
                raise StoreRejected
            if self.failures:
                error, may_be_found = self.failures.popleft()
                self.disk.uncertain = transaction if may_be_found else None
                raise error
        finally:
            self.waiting = None
        self.disk.append(transaction, durable=self.durable)
        for position, change in transaction.changes:
            self.twins.add(position, change)
            if isinstance(change, Event):
                self._events[position] = change
        self.head = head
        return positions

    def missed_in_memory(
        self, namespace: str, memberships: Sequence[Membership], after: int, through: int
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

    def _missed(self, namespace: str, memberships: Sequence[Membership], after: int, through: int) -> Missed:
        found = {}
        for sequence in range(max(after, self.pruned_through) + 1, through + 1):
            event = self._events.get(sequence)
            if event is not None and event.namespace == namespace:
                rooms = (None,) if event.rooms is None else event.rooms
                if any(m.room in rooms and m.covers(sequence) for m in memberships):
                    found[sequence] = event.size_bytes
        return Missed(tuple(found), sum(found.values()))

    async def read(self, sequences: Sequence[int], limit_bytes: int) -> list[LoggedEvent]:
        await self.reads.passed()
        logged = []
        for sequence in sequences:
            if sequence in self._events and sequence > self.pruned_through:
                logged.append(LoggedEvent(sequence, self._events[sequence]))
                limit_bytes -= self._events[sequence].size_bytes
                if limit_bytes < 0:
                    break
        return logged

    async def heartbeat(self, uptime: float) -> None:
        self.disk.append(Heartbeat(uptime), durable=self.durable)

    async def prune_idempotency_keys(self, handled_before: float, limit: int) -> int:
        return 0

    async def prune(self, *, through: int, emitted_before: float, limit: int) -> int:
        deleted = 0
        for sequence in range(self.pruned_through + 1, through + 1):
            event = self._events.get(sequence)
            if event is not None and (event.emitted_at >= emitted_before or deleted == limit):
                break
            if event is not None:
                deleted += 1
                self.pruned_through = sequence
        if deleted:
            self.disk.append(Pruned(self.pruned_through), durable=self.durable)
        return deleted

    def load_sessions(self) -> list[StoredSession]:
        """The sessions as the tables have them: a missing row is not changed."""
        rows: dict[SessionKey, StoredSession] = {}
        memberships: defaultdict[SessionKey, list[Membership]] = defaultdict(list)
        writers: dict[int, str] = {}
        epoch = ""
        for entry in self.disk.entries:
            if isinstance(entry, EpochBegan):
                epoch = entry.epoch
            elif isinstance(entry, Transaction):
                for position, change in entry.changes:
                    if not isinstance(change, Event):
                        writers[position] = epoch
                        for part in _parts(change, memberships):
                            _apply(part, Offset(epoch, position), rows, memberships)
        return [
            replace(
                row,
                memberships=tuple(
                    m for m in memberships[key] if m.through is None or m.through > self.pruned_through
                ),
            )
            for key, row in rows.items()
        ]


def _parts(change: Change, memberships: dict[SessionKey, list[Membership]]) -> list[Change]:
    """The change as one change for each session."""
    if not isinstance(change, RoomClosed):
        return [change]
    return [
        RoomLeft(namespace, sid, change.room)
        for namespace, sid in memberships
        if namespace == change.namespace
    ]


def _apply(
    change: Change,
    offset: Offset,
    rows: dict[SessionKey, StoredSession],
    memberships: dict[SessionKey, list[Membership]],
) -> None:
    if isinstance(change, SessionOpened):
        rows[change.namespace, change.sid] = StoredSession(
            namespace=change.namespace,
            sid=change.sid,
            pid_hash=change.pid_hash,
            start=offset,
            former_offset=change.former_offset,
            data="{}",
            away_since=None,
            confirmed=offset.sequence,
            memberships=(),
            auth_hash=change.auth_hash,
        )
        return
    assert not isinstance(change, IdentityRevoked), f"the simulated store has no {change}"
    if isinstance(change, Event) or (key := (change.namespace, _sid(change))) not in rows:
        return
    row, intervals = rows[key], memberships[key]
    match change:
        case SessionResumed():
            rows[key] = replace(row, away_since=None, left_by_client=False)
        case SessionAway(away_since=away_since, confirmed=confirmed, left_by_client=left_by_client):
            confirmed = max(row.confirmed, confirmed)
            rows[key] = replace(
                row, away_since=away_since, confirmed=confirmed, left_by_client=left_by_client
            )
        case SessionEnded():
            del rows[key]
            intervals.clear()
        case DataSaved(data=data):
            rows[key] = replace(row, data=data)
        case RoomJoined(room=room):
            if all(m.room != room or m.through is not None for m in intervals):
                intervals.append(Membership(room, offset.sequence, None))
        case RoomLeft(room=room):
            intervals[:] = [
                replace(m, through=offset.sequence) if m.room == room and m.through is None else m
                for m in intervals
            ]
        case _:
            raise AssertionError(f"the simulated store has no {change}")


def _sid(change: Change) -> str:
    sid = getattr(change, "sid", None)
    assert isinstance(sid, str), change
    return sid


def text_of(event: Event) -> str:
    """The text of an event, its last argument."""
    text = json.loads(event.payload)[-1]
    assert isinstance(text, str)
    return text
