"""The event log in PostgreSQL: connections that write, read and maintain, and the index in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

from socketio_eventlog import offsets
from socketio_eventlog.altered import AlteredRange, AlteredRanges
from socketio_eventlog.batch_stream import BatchStream
from socketio_eventlog.errors import NothingChanged, StoreError, StoreNotUsable
from socketio_eventlog.history import SessionHistory
from socketio_eventlog.indexed_log import IndexedLog
from socketio_eventlog.maintenance import Compacted
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.postgres import connection, events, schema, search, segments, start, stored, timelines
from socketio_eventlog.postgres.connection import Link
from socketio_eventlog.postgres.reads import Reads, abandon_task
from socketio_eventlog.postgres.timelines import MAX_SIZE_PER_ROW, HistoryPruning
from socketio_eventlog.postgres.writer import Position, Writer
from socketio_eventlog.records import (
    Batch,
    Change,
    Heartbeat,
    LoggedEvent,
    NodeRecord,
    Offset,
    Publication,
    Snapshot,
)
from socketio_eventlog.room import Room
from socketio_eventlog.search import Found, Search
from socketio_eventlog.segment import Audience, Segment, SegmentChunk

LEAVE: Final = "UPDATE eventstore.nodes SET backend = NULL WHERE node = %s"


class PostgresLog(IndexedLog):
    """The durable ``Log`` of the only node that writes the database."""

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
    ) -> None:
        """Use ``open``."""
        super().__init__(state.epochs, state.index, state.altered, state.head, state.pruned_through)
        self.node = node
        """The random id of this node, and of its first epoch."""
        self.room = Room()
        self._epoch = node
        self._began_after = state.head
        self._batches = BatchStream()
        self._appends = 0
        self._last_batch = state.seen.batch
        self._uptime = state.uptime
        self._link = link
        self._reads = Reads(conninfo)
        self._maintenance = Reads(conninfo)
        """For what takes longer than a replay should wait."""
        position = Position(state.seen, node, state.altered_numbers)
        self._writer = Writer(
            link,
            node,
            position,
            self,
            new_epoch,
            clock,
            flushes=options.synchronous == "full",
            has_history=options.session_history,
        )
        self._history = HistoryPruning(options.max_size // MAX_SIZE_PER_ROW)
        self._writing = self._loop.create_task(self._writer.run())
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls,
        options: StoreOptions,
        *,
        clock: Callable[[], float] | None = None,
        new_epoch: Callable[[], str] = offsets.random_epoch,
        lock_timeout_seconds: float | None = None,
        max_disconnection_seconds: float | None = None,
    ) -> PostgresLog:
        """Connect, create or migrate the schema if needed, and record the node and its epoch durably.

        ``options.url`` must not be None. ``clock`` replaces the clock of the database, for tests.
        ``lock_timeout_seconds`` limits the wait for the end of another server; None is the default of
        ``start.OPENING_TIMEOUT_SECONDS``. ``max_disconnection_seconds`` is that of ``open_log``. Raises
        StoreNotUsable (DatabaseTooNew included) with one line that names the database.
        """
        if options.url is None:
            raise ValueError("this log needs a URL")
        conninfo, name = connection.connection_string(options.url), connection.describe(options.url)
        await asyncio.to_thread(schema.prepare, conninfo, name)
        link, node = Link(conninfo), new_epoch()
        try:
            state = await start.begin(
                link, node, name, clock, options, lock_timeout_seconds, max_disconnection_seconds
            )
        except BaseException as error:
            await link.close()
            if isinstance(error, StoreError) and not isinstance(error, StoreNotUsable):
                raise StoreNotUsable(f"{name}: {error}") from error
            raise
        return cls(node, state, link, conninfo, new_epoch, clock, options)

    @property
    def contact_at(self) -> float:
        return self._writer.contact_at

    def offset_at(self, sequence: int) -> Offset:
        return Offset(self._epoch_at(sequence), sequence)

    def offset_text(self, sequence: int) -> str:
        return f"{self._epoch_at(sequence)}.{sequence}"

    def _epoch_at(self, sequence: int) -> str:
        """The present epoch, also for the position at which it began; but not for events before."""
        return self._epoch if sequence >= self._began_after else self._epochs.epoch_of(sequence)

    async def join(self) -> Snapshot:
        positions = await self._reads.run(stored.positions)
        sessions = await self._reads.run(partial(stored.sessions, pruned_through=self._pruned_through))
        node = NodeRecord(self.node, self._uptime, applied=self._last_batch, floor=self._pruned_through)
        return Snapshot(
            self._last_batch, self._head, self._uptime, (node,), positions=positions, sessions=tuple(sessions)
        )

    def append(self, changes: Sequence[Change]) -> asyncio.Future[int]:
        self._appends += 1
        return self._writer.submit(self._appends, tuple(changes))

    def batches(self) -> BatchStream:
        return self._batches

    # What the writer calls ---------------------------------------------------------------------------

    def next_chunks(self, events: int) -> Sequence[SegmentChunk]:
        """Return the chunks of the index that are written before the next batch."""
        return self._index.next_chunks(events)

    def committed(self, batch: Batch, chunks: Sequence[SegmentChunk]) -> None:
        """Take the next batch of the order."""
        self._add_to_index(batch, chunks)
        self._last_batch, self._uptime = batch.number, batch.uptime
        self._batches.put(batch)
        if any(type(committed.change) is Heartbeat for committed in batch.changes):
            _ = self._maintenance.start(partial(stored.prune_batches, through=batch.number))

    def epoch_begun(self, epochs: Epochs, epoch: str) -> None:
        """Name offsets by the new epoch from here on."""
        self._epochs, self._epoch, self._began_after = epochs, epoch, self._head

    def altered(self, ranges: Sequence[AlteredRange]) -> None:
        """Take note of all altered ranges, and report if there are more."""
        known = self._altered
        self._altered = AlteredRanges(ranges)
        if added := self._altered.beyond(known):
            self._report(added)

    # Reads -------------------------------------------------------------------------------------------

    async def _read_segments(self, keys: Sequence[int], audiences: AbstractSet[Audience]) -> list[Segment]:
        return await self._reads.run(partial(segments.read, keys=keys, audiences=audiences))

    async def read(self, sequences: Sequence[int], limit_bytes: int | None = None) -> list[LoggedEvent]:
        seen = self._writer.seen
        return await self._reads.run(
            partial(events.read, sequences=sequences, seen=seen, limit_bytes=limit_bytes)
        )

    async def emission_times(self, sequences: Sequence[int]) -> list[tuple[int, float]]:
        seen = self._writer.seen
        return await self._reads.run(partial(events.emission_times, sequences=sequences, seen=seen))

    async def search(self, question: Search) -> Found:
        return await self._maintenance.run(partial(search.search, question=question, seen=self._writer.seen))

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

    async def counts(self) -> tuple[int, int]:
        return await self._maintenance.run(stored.counts)

    # The end -----------------------------------------------------------------------------------------

    def abandon(self) -> None:
        self._writer.abandon()
        abandon_task(self._writing)
        self._reads.abandon()
        self._maintenance.abandon()
        self._link.abandon()
        self._batches.abandon()

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._writer.close()
        await self._writing
        await self._reads.close()
        await self._maintenance.close()
        await self._link.leave(LEAVE, self.node)
        self._batches.close()
