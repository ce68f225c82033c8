"""The event log in PostgreSQL: connections for writes, reads and maintenance, and the index in memory."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from typing import Final

from socketio_eventlog import offsets
from socketio_eventlog.altered import AlteredRange, AlteredRanges
from socketio_eventlog.batch_stream import BatchStream
from socketio_eventlog.changed_sessions import KINDS, ChangedSessions
from socketio_eventlog.changes import (
    Answered,
    Asked,
    Batch,
    Change,
    Committed,
    Heartbeat,
    NodeDied,
    NodeJoined,
    Pruned,
    Volatile,
)
from socketio_eventlog.errors import (
    BatchNotTaken,
    HistoryLost,
    LogFull,
    NodeFenced,
    NodeOutdated,
    NothingChanged,
    StoreClosed,
    StoreError,
    StoreNotUsable,
)
from socketio_eventlog.events import LoggedEvent, Offset, Publication
from socketio_eventlog.free_space import FreeSpace, grows
from socketio_eventlog.history import SessionHistory
from socketio_eventlog.indexed_log import IndexedLog
from socketio_eventlog.log import LEASE_SECONDS
from socketio_eventlog.maintenance import Compacted
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.postgres import (
    connection,
    events,
    schema,
    search,
    segments,
    space,
    start,
    stored,
    timelines,
)
from socketio_eventlog.postgres.connection import Link
from socketio_eventlog.postgres.lost_history import doubt
from socketio_eventlog.postgres.nudges import Nudges
from socketio_eventlog.postgres.order import Order
from socketio_eventlog.postgres.reads import Reads, abandon_task
from socketio_eventlog.postgres.space import EventSpace
from socketio_eventlog.postgres.tail import Tail
from socketio_eventlog.postgres.timelines import MAX_SIZE_PER_ROW, HistoryPruning
from socketio_eventlog.postgres.writer import Writer
from socketio_eventlog.search import Found, Search
from socketio_eventlog.segment import SEGMENT_LENGTH, Audience, Segment, SegmentChunk
from socketio_eventlog.snapshot import Snapshot

logger = logging.getLogger(__name__)

_OF_NODES: Final = frozenset({NodeJoined, NodeDied, Heartbeat, Pruned})
_UNSTORED: Final = frozenset({Volatile, Asked, Answered})


class PostgresLog(IndexedLog):
    """The durable ``Log`` of one of the nodes on a database."""

    is_durable: Final = True

    def __init__(
        self,
        node: str,
        state: start.InitialState,
        link: Link,
        conninfo: str,
        new_epoch: Callable[[], str],
        clock: Callable[[], float] | None,
        options: StoreOptions,
        lease_seconds: float,
        former: ChangedSessions | None = None,
    ) -> None:
        """Use ``open``."""
        ranges = AlteredRanges(state.altered)
        super().__init__(state.epochs, state.index, ranges, state.head, state.pruned_through)
        self.node = node
        """The random id of this node."""
        self.free_space = FreeSpace()
        self._epoch = state.epoch
        """The epoch of the last batch given out."""
        self._begun: deque[tuple[int, str, int]] = deque()
        """The epochs before their first batch was given out: number of the batch, epoch, sequence before."""
        self._began_after = self._epochs.began_after(state.epoch)
        self._lengths = dict(state.segments)
        """The length of each stored segment, by first sequence."""
        self._batches = BatchStream(self._given_out)
        self._changed_sessions = ChangedSessions(state.begun, state.seen, state.uptime)
        if former is not None and state.shared is not None:
            self._changed_sessions.follow_on(former, state.shared)
        self._appends = 0
        self._has_begun = False
        self._link, self._tail_link = link, Link(conninfo)
        self._reads = Reads(conninfo)
        self._maintenance = Reads(conninfo, connection.LONG_SECONDS)
        """For jobs too long for a replay to wait."""
        flushes = options.synchronous == "full"
        self._order = order = Order(node, state, self)
        self._others = set(state.others)
        """The other living nodes."""
        self._nudges = Nudges(conninfo, node, self._nudged)
        self._tail = Tail(
            self._tail_link, order, self._batches, lambda: self._nudges.are_alive, flushes=flushes
        )
        self._writer = Writer(
            link,
            order,
            self._tail,
            self._index.next_chunks,
            new_epoch,
            clock,
            lease_seconds=lease_seconds,
            flushes=flushes,
            has_history=options.session_history,
        )
        self._history = HistoryPruning(options.max_size // MAX_SIZE_PER_ROW)
        self._tailing = self._loop.create_task(self._tail.run())
        self._writing = self._loop.create_task(self._writer.run())
        self._nudging = [self._loop.create_task(run()) for run in (self._nudges.listen, self._nudges.run)]
        self._space = EventSpace(options.max_size, self.free_space)
        counting = partial(space.count, head=state.head, max_size=options.max_size)
        self._counting = self._maintenance.start(counting)
        self._counting.add_done_callback(self._counted)
        self._pruning: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None
        self._nudges.send()

    @classmethod
    async def open(
        cls,
        options: StoreOptions,
        *,
        clock: Callable[[], float] | None = None,
        new_epoch: Callable[[], str] = offsets.random_epoch,
        lease_seconds: float = LEASE_SECONDS,
        max_disconnection_seconds: float | None = None,
        former: ChangedSessions | None = None,
    ) -> PostgresLog:
        """Connect, create or migrate the schema if needed, and join as a node, beside other nodes.

        ``options.url`` must not be None. ``clock`` replaces the clock of the database, for tests.
        ``lease_seconds`` is as ``LEASE_SECONDS``, ``max_disconnection_seconds`` and ``former`` as in
        ``open_log``. Raises StoreNotUsable (DatabaseTooNew included) with one line that names the database.
        """
        if options.url is None:
            raise ValueError("this log needs a URL")
        conninfo, name = connection.connection_string(options.url), connection.describe(options.url)
        await asyncio.to_thread(schema.prepare, conninfo, name)
        node = new_epoch()
        conninfo = connection.named(conninfo, node)
        link = Link(conninfo)
        try:
            state = await start.begin(
                link, node, name, clock, new_epoch, options, max_disconnection_seconds, former
            )
        except BaseException as error:
            await link.close()
            if isinstance(error, StoreError) and not isinstance(error, StoreNotUsable):
                raise StoreNotUsable(f"{name}: {error}") from error
            raise
        return cls(node, state, link, conninfo, new_epoch, clock, options, lease_seconds, former)

    @property
    def changed_sessions(self) -> ChangedSessions:
        return self._changed_sessions

    @property
    def contact_at(self) -> float:
        return self._order.contact_at

    def offset_at(self, sequence: int) -> Offset:
        return Offset(self._epoch_at(sequence), sequence)

    def offset_text(self, sequence: int) -> str:
        return f"{self._epoch_at(sequence)}.{sequence}"

    def _epoch_at(self, sequence: int) -> str:
        """The epoch of the last batch, also for the epoch's first position; but not for events before."""
        return self._epoch if sequence >= self._began_after else self._epochs.epoch_of(sequence)

    async def join(self) -> Snapshot:
        seen, snapshot = await self._reads.run(stored.snapshot, connection.LONG_SECONDS)
        if not self._has_begun:
            self._has_begun = True
            self._batches.skip_through(snapshot.batch)
        self._tail.wake()
        await self._order.follows(seen)
        self._order.began()
        return snapshot

    def append(self, changes: Sequence[Change]) -> asyncio.Future[int]:
        self._appends += 1
        refusal = self._space.refusal
        if refusal is not None and grows(changes):
            refused: asyncio.Future[int] = self._loop.create_future()
            refused.set_exception(LogFull(refusal))
            return refused
        return self._writer.submit(self._appends, tuple(changes))

    def _counted(self, counting: asyncio.Task[list[tuple[int, int]]]) -> None:
        if not counting.cancelled() and counting.exception() is None:
            self._space.counted(counting.result())

    def batches(self) -> BatchStream:
        return self._batches

    # What the order calls ----------------------------------------------------------------------------

    def committed(self, batch: Batch, chunks: Sequence[SegmentChunk], size: int) -> None:
        """Take the next batch of the order."""
        head = self._head
        weight_bytes = self._add_to_index(batch, chunks)
        self._space.add(self._head, self._head - head, weight_bytes)
        for chunk in chunks:
            if chunk.is_last:
                self._lengths[chunk.segment.first] = len(chunk.segment.sizes)
        kinds = set(map(type, [committed.change for committed in batch.changes]))
        if not size and not kinds.isdisjoint(_UNSTORED):
            size = sum(map(_unstored_bytes, batch.changes))
        self._batches.put(batch, weight_bytes + size)
        self._changed_sessions.given_out(self._order.seen, batch.uptime)
        if not kinds.isdisjoint(KINDS):
            self._changed_sessions.note(batch)
        if not kinds.isdisjoint(_OF_NODES):
            self._take_nodes(batch)
        if batch.node == self.node and self._others:
            self._nudges.send()

    def _take_nodes(self, batch: Batch) -> None:
        for change, _, took_effect, _ in batch.changes:
            if type(change) is NodeJoined:
                self._others.add(batch.node)
            elif type(change) is NodeDied and took_effect:
                self._others.discard(change.node)
            elif type(change) is Heartbeat and batch.node == self.node:
                self._prune_batches(batch.number)
            elif type(change) is Pruned:
                self._space.pruned(self.pruned_through)
                for first in [first for first in self._lengths if first <= change.through - SEGMENT_LENGTH]:
                    del self._lengths[first]

    def _prune_batches(self, through: int) -> None:
        """Start to delete old batches, unless the former start still waits, as behind a long search."""
        if self._pruning is None or self._pruning.done():
            self._pruning = self._maintenance.start(partial(stored.prune_batches, through=through))

    def epoch_begun(self, epochs: Epochs, epoch: str, batch: int) -> None:
        """Record the new epoch, and use it in offsets once the epoch's first batch is given out.

        Used earlier, a late session of the former epoch would seem to begin in the new epoch: an offset from
        a lost part of the former epoch would count as older than the session.
        """
        self._epochs = epochs
        self._changed_sessions.epoch_begun(epoch, batch)
        self._begun.append((batch, epoch, self._head))

    def _given_out(self, batch: int) -> None:
        while self._begun and self._begun[0][0] <= batch:
            _, self._epoch, self._began_after = self._begun.popleft()

    def altered(self, ranges: Sequence[AlteredRange]) -> None:
        """Take note of all altered ranges, and report if there are more."""
        known = self._altered
        self._altered = AlteredRanges(ranges)
        if added := self._altered.beyond(known):
            self._report(added)

    def ended(self, error: NodeFenced | HistoryLost) -> None:
        """Give out nothing more."""
        if isinstance(error, BatchNotTaken):
            logger.error("%s", error, exc_info=error.__cause__)
        elif not isinstance(error, NodeOutdated):
            # At once: until then, other nodes append to what may be another history, in the same epoch.
            with suppress(StoreClosed):
                _ = self._reads.start(partial(doubt, known=self._changed_sessions))
        self._batches.fail(error)

    def _nudged(self) -> None:
        self._tail.wake()

    # Reads -------------------------------------------------------------------------------------------

    async def _read_segments(self, keys: Sequence[int], audiences: AbstractSet[Audience]) -> list[Segment]:
        pairs = [(key, self._lengths[key]) for key in keys if key in self._lengths]
        return await self._reads.run(partial(segments.read, keys=pairs, audiences=audiences))

    async def read(self, sequences: Sequence[int], limit_bytes: int | None = None) -> list[LoggedEvent]:
        seen = self._order.seen
        return await self._reads.run(
            partial(events.read, sequences=sequences, seen=seen, limit_bytes=limit_bytes)
        )

    async def emission_times(self, sequences: Sequence[int]) -> list[tuple[int, float]]:
        seen = self._order.seen
        return await self._reads.run(partial(events.emission_times, sequences=sequences, seen=seen))

    async def search(self, question: Search) -> Found:
        return await self._maintenance.run(partial(search.search, question=question, seen=self._order.seen))

    async def unreadable(self, first: int, last: int, is_readable: Callable[[str, int], bool]) -> list[int]:
        rows = await self._maintenance.run(partial(events.payloads, first=first, last=last))
        return await asyncio.to_thread(events.unreadable, rows, is_readable)

    async def acknowledgement(self, namespace: str, name: str, identity: str, key: str) -> str | None:
        find = partial(stored.acknowledgement, namespace=namespace, name=name, identity=identity, key=key)
        return await self._reads.run(find)

    async def publication(self, publisher: str, key: str) -> Publication | None:
        return await self._reads.run(partial(stored.publication, publisher=publisher, key=key))

    async def prune_idempotency_keys(self, handled_before: float, limit: int = 1000) -> int:
        return await self._maintenance.run(partial(stored.prune_keys, before=handled_before, limit=limit))

    async def session_history(self, namespace: str, sid: str) -> SessionHistory | None:
        return await self._reads.run(partial(timelines.read, namespace=namespace, sid=sid))

    async def prune_session_history(self, before: float, limit: int = 1000) -> bool:
        return await self._maintenance.run(partial(self._history.prune, before=before, limit=limit))

    async def compact(self, max_bytes: int | None) -> Compacted:
        raise NothingChanged("PostgreSQL uses the space of deleted events again; VACUUM FULL shrinks tables.")

    async def scrub(self) -> bool:
        await self._maintenance.run(stored.vacuum)
        return True

    async def may_live(self, node: str) -> bool:
        return await self._reads.run(partial(stored.may_live, node=node))

    async def counts(self) -> tuple[int, int]:
        return await self._maintenance.run(stored.counts)

    # The end -----------------------------------------------------------------------------------------

    def abandon(self) -> None:
        self._writer.abandon()
        self._tail.abandon()
        for task in (self._writing, self._tailing, *self._nudging):
            abandon_task(task)
        self._nudges.abandon()
        self._reads.abandon()
        self._maintenance.abandon()
        self._tail_link.abandon()
        self._link.abandon()
        self._batches.abandon()

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._writer.close()
        self._batches.lift_limit()  # perhaps no task reads batches, and an own batch waits behind
        await self._writing
        self._batches.close()
        self._tail.close()
        await self._tailing
        await self._writer.leave()
        if self._others:
            await self._nudges.send_last()
        self._nudges.stop()
        for task in self._nudging:
            task.cancel()
        await asyncio.wait(self._nudging)
        await self._nudges.close()
        await self._reads.close()
        await self._maintenance.close()
        await self._tail_link.close()
        await self._link.close()


def _unstored_bytes(committed: Committed) -> int:
    """Return the size of the unstored changes."""
    change = committed.change
    if isinstance(change, Volatile | Asked):
        return change.event.weight_bytes
    if isinstance(change, Answered):
        return len(change.arguments) + sum(map(len, change.attachments))
    return 0
