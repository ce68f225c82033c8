"""The event log in SQLite: a writing connection, a reading connection, and the index in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from socketio_eventlog import offsets
from socketio_eventlog.altered import AlteredRange
from socketio_eventlog.batch_stream import BatchStream
from socketio_eventlog.changes import Batch, Change
from socketio_eventlog.errors import StoreError, StoreNotUsable
from socketio_eventlog.events import Event, LoggedEvent, Offset, Publication
from socketio_eventlog.free_space import FreeSpace
from socketio_eventlog.history import SessionHistory
from socketio_eventlog.indexed_log import IndexedLog
from socketio_eventlog.maintenance import Compacted
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.search import Found, Search
from socketio_eventlog.segment import Audience, Segment, SegmentChunk
from socketio_eventlog.snapshot import NodeRecord, Snapshot
from socketio_eventlog.sqlite import (
    events,
    files,
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

_COUNTS: Final = "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM events)"


def _history(options: StoreOptions) -> NoHistory:
    return HistoryRows(options.max_size // MAX_SIZE_PER_ROW) if options.session_history else NoHistory()


class EventLog(IndexedLog):
    """The durable ``Log`` of a database with a single writing process."""

    is_durable: Final = True

    def __init__(
        self,
        node: str,
        state: InitialState,
        writer_database: Database,
        reader_database: Database,
        free_space: FreeSpace,
    ) -> None:
        """Use ``open``."""
        super().__init__(state.epochs, state.index, state.altered, state.head, state.pruned_through)
        self.node = node
        """The random id of the node, and of the node's epoch."""
        self.free_space = free_space
        self._batches = BatchStream()
        self._appends = 0
        """The number of calls of ``append``."""
        self._last_batch = 0
        self._uptime = state.uptime
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
        new_epoch: Callable[[], str] = offsets.random_epoch,
        lock_timeout_seconds: float | None = None,
        max_disconnection_seconds: float | None = None,
    ) -> EventLog:
        """Open the database, create or migrate the schema if needed, and record the new epoch durably.

        The sessions of earlier nodes are away from here on. ``options.path`` must not be None. ``new_epoch``
        returns 1 to 32 letters, digits, ``-`` or ``_``. The clocks are read on another thread.
        ``lock_timeout_seconds`` is as in ``schema.open_writer``, ``max_disconnection_seconds`` as in
        ``begin_epoch``. Raises StoreNotUsable (DatabaseTooNew included) with one line that names the path.
        """
        path = options.path
        if path is None:
            raise ValueError("an event log needs a path")
        files.check_links(path)
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
                reserve.check_opening(path)
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
        free_space = FreeSpace()
        space = Space(
            path, options.max_size, reserve, free_space, asyncio.get_running_loop().call_soon_threadsafe
        )
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
        return cls(epoch, state, writer_database, reader_database, free_space)

    def offset_at(self, sequence: int) -> Offset:
        return Offset(self.node, sequence)

    def offset_text(self, sequence: int) -> str:
        return f"{self.node}.{sequence}"

    async def join(self) -> Snapshot:
        noted, sessions = await self._reader_database.run(
            lambda connection: (
                nodes.positions(connection),
                stored_sessions.load(connection, self.pruned_through),
            )
        )
        node = NodeRecord(self.node, self._uptime, applied=self._last_batch, floor=self.pruned_through)
        return Snapshot(
            self._last_batch, self._head, self._uptime, (node,), positions=noted, sessions=tuple(sessions)
        )

    def append(self, changes: Sequence[Change]) -> asyncio.Future[int]:
        self._appends += 1
        own, changes = self._appends, tuple(changes)
        chunks = self._index.next_chunks(list(map(type, changes)).count(Event))
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
        batch, altered = committed
        if altered:
            self._altered.add(altered)
            self._report(altered)
        self._add_to_index(batch, chunks)
        self._last_batch, self._uptime = batch.number, batch.uptime
        self._batches.put(batch)
        return batch.number

    async def _read_segments(self, keys: Sequence[int], audiences: AbstractSet[Audience]) -> list[Segment]:
        return await self._reader_database.run(partial(segments.read, keys=keys, audiences=audiences))

    async def read(self, sequences: Sequence[int], limit_bytes: int | None = None) -> list[LoggedEvent]:
        return await self._reader_database.run(
            partial(events.read, sequences=sequences, limit_bytes=limit_bytes)
        )

    async def emission_times(self, sequences: Sequence[int]) -> list[tuple[int, float]]:
        return await self._reader_database.run(partial(events.emission_times, sequences=sequences))

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
