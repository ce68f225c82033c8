"""The event log in SQLite: a writing connection, a reading connection, and the index in memory."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from socketio_eventlog import offsets
from socketio_eventlog.altered import AlteredRange
from socketio_eventlog.batch_stream import BatchStream
from socketio_eventlog.errors import StoreError, StoreNotUsable
from socketio_eventlog.history import SessionHistory
from socketio_eventlog.maintenance import Compacted
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.records import (
    Batch,
    Change,
    Event,
    LoggedEvent,
    Membership,
    Missed,
    MissedSummary,
    NodeRecord,
    Offset,
    Pruned,
    Publication,
    Snapshot,
)
from socketio_eventlog.room import Room
from socketio_eventlog.search import Found, Search
from socketio_eventlog.segment import AudienceRange, Segment, SegmentChunk, audience_ranges, find_missed
from socketio_eventlog.sqlite import (
    events,
    idempotency_keys,
    nodes,
    publications,
    schema,
    search,
    segments,
    session_timelines,
    stored_sessions,
)
from socketio_eventlog.sqlite.database import Database
from socketio_eventlog.sqlite.reserve import Reserve
from socketio_eventlog.sqlite.session_history import MAX_SIZE_PER_ROW, HistoryRows, NoHistory
from socketio_eventlog.sqlite.space import Space
from socketio_eventlog.sqlite.start import InitialState, begin_epoch
from socketio_eventlog.summaries import Summaries

_COUNTS: Final = "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM events)"

_SEGMENTS_PER_READ: Final = 16
_REPORT_SECONDS: Final = 10.0

logger = logging.getLogger(__name__)


def random_epoch() -> str:
    """Return a random epoch id of 8 URL-safe characters."""
    return secrets.token_urlsafe(6)


def _history(options: StoreOptions) -> NoHistory:
    return HistoryRows(options.max_size // MAX_SIZE_PER_ROW) if options.session_history else NoHistory()


class EventLog:
    """The durable ``Log`` of the only process that writes the database."""

    is_durable: Final = True

    def __init__(
        self,
        node: str,
        state: InitialState,
        writer_database: Database,
        reader_database: Database,
        room: Room,
    ) -> None:
        """Use ``open``."""
        self.node = node
        """The random id of this node, and of its epoch."""
        self.room = room
        self._batches = BatchStream()
        self._appends = 0
        """The number of calls of ``append``."""
        self._last_batch = 0
        self._uptime = state.uptime
        self._epochs = state.epochs
        self._head = state.head
        self._pruned_through = state.pruned_through
        self._index = state.index
        self._summaries = Summaries()
        self._altered = state.altered
        self._loop = asyncio.get_running_loop()
        self._report_after = 0.0
        self._writer = state.writer
        self._writer_database = writer_database
        self._reader_database = reader_database

    @classmethod
    async def open(
        cls,
        options: StoreOptions,
        *,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        new_epoch: Callable[[], str] = random_epoch,
        lock_timeout_seconds: float | None = None,
        max_disconnection_seconds: float | None = None,
    ) -> EventLog:
        """Open the database, create or migrate the schema if needed, and record the new epoch durably.

        The sessions of earlier nodes are away from here on. ``options.path`` must not be None. ``new_epoch``
        returns 1 to 32 letters, digits, ``-`` or ``_``. The clocks are read on another thread.
        ``lock_timeout_seconds`` is that of ``schema.open_writer``, ``max_disconnection_seconds`` that of
        ``begin_epoch``.
        Raises StoreNotUsable (DatabaseTooNew included) with one line that names the path.
        """
        path = options.path
        if path is None:
            raise ValueError("an event log needs a path")
        reserve = Reserve(path, options.file_mode)
        while True:
            try:
                begin = partial(
                    begin_epoch,
                    path=path,
                    epoch=(epoch := new_epoch()),
                    wall_clock=wall_clock,
                    monotonic=monotonic,
                    index_memory_bytes=options.index_memory,
                    max_disconnection_seconds=max_disconnection_seconds,
                )
                return await cls._open(options, path, reserve, begin, epoch, lock_timeout_seconds)
            except StoreNotUsable as error:
                reserve.give_up_for(path, error)

    @classmethod
    async def _open(
        cls,
        options: StoreOptions,
        path: Path,
        reserve: Reserve,
        begin: Callable[..., InitialState],
        epoch: str,
        lock_timeout_seconds: float | None,
    ) -> EventLog:
        if offsets.EPOCH_ID.fullmatch(epoch) is None:
            raise ValueError(f"an epoch id cannot be {epoch!r}")
        room = Room()
        space = Space(path, options.max_size, reserve, room, asyncio.get_running_loop().call_soon_threadsafe)
        writer_database = await Database.open(
            lambda: schema.open_writer(path, options.file_mode, lock_timeout_seconds)
        )
        try:
            state = await writer_database.run(partial(begin, space=space, history=_history(options)))
            await writer_database.run(lambda connection: schema.note_epoch(connection, path, epoch))
            await writer_database.run(
                lambda connection: schema.configure(connection, options.synchronous, space.wal_bytes)
            )
            await writer_database.run(space.begin)
            reader_database = await Database.open(lambda: schema.open_reader(path))
        except BaseException as error:
            await writer_database.close()
            if isinstance(error, StoreError | OSError) and not isinstance(error, StoreNotUsable):
                raise StoreNotUsable(f"{path}: {error}") from error
            raise
        return cls(epoch, state, writer_database, reader_database, room)

    @property
    def index_memory_bytes(self) -> int:
        return self._index.memory_bytes

    @property
    def head(self) -> int:
        return self._head

    @property
    def pruned_through(self) -> int:
        return self._pruned_through

    def offset_at(self, sequence: int) -> Offset:
        return Offset(self.node, sequence)

    def offset_text(self, sequence: int) -> str:
        return f"{self.node}.{sequence}"

    def offset_of(self, sequence: int) -> Offset:
        return Offset(self._epochs.epoch_of(sequence), sequence)

    def locate(self, offset: str) -> Offset:
        return self._epochs.check(offsets.parse(offset), self._head)

    def precedes_epoch(self, earlier: str, later: str) -> bool:
        return self._epochs.precedes(earlier, later)

    async def join(self) -> Snapshot:
        noted, sessions = await self._reader_database.run(
            lambda connection: (
                nodes.positions(connection),
                stored_sessions.load(connection, self._pruned_through),
            )
        )
        node = NodeRecord(self.node, self._uptime, applied=self._last_batch, floor=self._pruned_through)
        return Snapshot(
            self._last_batch, self._head, self._uptime, (node,), positions=noted, sessions=tuple(sessions)
        )

    def append(self, changes: Sequence[Change]) -> asyncio.Future[int]:
        self._appends += 1
        own, changes = self._appends, tuple(changes)
        chunks = self._index.next_chunks(len(changes))
        return self._writer_database.submit(
            lambda connection: (
                self._writer.append(connection, changes, chunks, own),
                self._writer.take_altered(),
            ),
            partial(self._on_committed, chunks),
        )

    def batches(self) -> BatchStream:
        return self._batches

    def _on_committed(
        self, chunks: Sequence[SegmentChunk], committed: tuple[Batch, Sequence[AlteredRange]]
    ) -> int:
        index, (batch, altered) = self._index, committed
        if altered:
            self._altered.add(altered)
            self._report(altered)
        for change, position, _, _ in batch.changes:
            if type(change) is Event:
                size_bytes = change.size_bytes if change.attachments else len(change.payload)
                index.add(position, change.namespace, change.rooms, size_bytes)
                self._head = position
            elif type(change) is Pruned:
                self._pruned_through = max(self._pruned_through, min(change.through, position))
                index.drop_through(self._pruned_through)
                self._altered.drop_through(self._pruned_through)
        for chunk in chunks:
            index.mark_written(chunk)
        index.evict()
        self._last_batch, self._uptime = batch.number, batch.uptime
        self._batches.put(batch)
        return batch.number

    def _report(self, altered: Sequence[AlteredRange]) -> None:
        """Log that rows were changed, at most once in ten seconds."""
        now = self._loop.time()
        if now >= self._report_after:
            self._report_after = now + _REPORT_SECONDS
            first, last = min(one.first for one in altered), max(one.last for one in altered)
            logger.warning(
                "Another program has changed or deleted events between %s and %s through SQL. A client that "
                "missed one of them gets a new session.",
                first,
                last,
            )

    async def missed(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed:
        ranges = audience_ranges(namespace, memberships, max(after, self._pruned_through), through)
        sequences: list[int] = []
        size_bytes, left = 0, at_most
        async with aclosing(self._segments(ranges)) as parts:
            async for segments_ in parts:
                found = find_missed(segments_, ranges, left)
                sequences += found.sequences
                size_bytes += found.size_bytes
                if left is not None and (left := left - len(found.sequences)) < 0:
                    break
        return Missed(tuple(sequences), size_bytes)

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
        ranges = audience_ranges(namespace, memberships, max(after, self._pruned_through), through)
        if self._index.keys_on_disk_only(ranges):
            found = [segment async for segments_ in self._segments(ranges) for segment in segments_]
        else:
            found = self._index.segments_in_memory(ranges)
        summary = self._summaries.summarise(found, ranges, through, max_events, max_bytes)
        if self._altered.concern(namespace, ranges, found):
            return replace(summary, is_incomplete=True)
        return summary

    async def _segments(self, ranges: Sequence[AudienceRange]) -> AsyncGenerator[list[Segment], None]:
        """Give out the segments that overlap the ranges, oldest first, a few at a time."""
        newest = self._index.segments_in_memory(ranges)
        keys = self._index.keys_on_disk_only(ranges)  # all of them older than those in memory
        for start in range(0, len(keys), _SEGMENTS_PER_READ):
            yield await self._read_segments(keys[start : start + _SEGMENTS_PER_READ], ranges)
        yield newest

    async def _read_segments(self, keys: Sequence[int], ranges: Sequence[AudienceRange]) -> list[Segment]:
        audiences = {range_.audience for range_ in ranges}
        return await self._reader_database.run(partial(segments.read, keys=keys, audiences=audiences))

    def missed_in_memory(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed | None:
        ranges = audience_ranges(namespace, memberships, max(after, self._pruned_through), through)
        if self._index.keys_on_disk_only(ranges):
            return None
        return find_missed(self._index.segments_in_memory(ranges), ranges, at_most)

    async def read(self, sequences: Sequence[int], limit_bytes: int | None = None) -> list[LoggedEvent]:
        return await self._reader_database.run(
            partial(events.read, sequences=sequences, limit_bytes=limit_bytes)
        )

    async def search(self, question: Search) -> Found:
        return await self._reader_database.run(partial(search.search, question=question))

    async def unreadable(self, first: int, last: int, is_readable: Callable[[str, int], bool]) -> list[int]:
        return await self._reader_database.run(
            partial(events.unreadable, first=first, last=last, is_readable=is_readable)
        )

    async def acknowledgement(self, namespace: str, name: str, identity: str, key: str) -> str | None:
        find = partial(idempotency_keys.find, namespace=namespace, name=name, identity=identity, key=key)
        return await self._reader_database.run(find)

    async def publication(self, publisher: str, key: str) -> Publication | None:
        find = partial(publications.find, publisher=publisher, key=key)
        return await self._reader_database.run(find)

    async def prune_idempotency_keys(self, handled_before: float, limit: int = 1000) -> int:
        return await self._writer_database.run(
            lambda connection: self._writer.prune_idempotency_keys(connection, handled_before, limit)
        )

    async def session_history(self, namespace: str, sid: str) -> SessionHistory | None:
        read = partial(session_timelines.read, namespace=namespace, sid=sid)
        return await self._reader_database.run(read)

    async def prune_session_history(self, before: float, limit: int = 1000) -> bool:
        return await self._writer_database.run(
            lambda connection: self._writer.prune_history(connection, before, limit)
        )

    async def compact(self, max_bytes: int | None) -> Compacted:
        return await self._writer_database.run(lambda connection: self._writer.compact(connection, max_bytes))

    async def scrub(self) -> bool:
        return await self._writer_database.run(self._writer.truncate_wal)

    async def counts(self) -> tuple[int, int]:
        row = await self._reader_database.run(lambda connection: connection.execute(_COUNTS).fetchone())
        return row[0], row[1]

    def abandon(self) -> None:
        self._reader_database.abandon()
        self._writer_database.abandon()
        self._writer.close()
        self._batches.abandon()

    async def close(self) -> None:
        await self._reader_database.close()
        with suppress(StoreError):
            # Pages which a foreign reader keeps out of the main file stay safe in the WAL.
            await self._writer_database.run(
                lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            )
        await self._writer_database.close()
        self._writer.close()
        self._batches.close()
