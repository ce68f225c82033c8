"""The log: what the server commits, asks and reads."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from socketio_eventlog import offsets
from socketio_eventlog.errors import StoreError, StoreNotUsable
from socketio_eventlog.index import AudienceRange, Segment, SegmentChunk, collect, wanted
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.records import Change, Event, LoggedEvent, Membership, Missed, Offset, StoredSession
from socketio_eventlog.sqlite import events, idempotency_keys, schema, segments, sessions
from socketio_eventlog.sqlite.database import Database
from socketio_eventlog.sqlite.start import Start, begin

_COUNTS: Final = "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM events)"

_SEGMENTS_PER_READ: Final = 64


def random_epoch() -> str:
    """Return a random epoch id of 8 URL-safe characters."""
    return secrets.token_urlsafe(6)


class EventLog:
    """The durable log, as the one process that writes it sees it. Use it from one event loop."""

    is_durable: Final = True

    def __init__(
        self, epoch: str, start: Start, write: Database, read: Database, clock: Callable[[], float]
    ) -> None:
        """Use ``open``."""
        self.epoch = epoch
        """The random id of this start of the server."""
        self.uptime_at_open = start.uptime
        """For how many seconds servers had run on this database when this one started."""
        self._epochs = start.epochs
        self._head = start.head
        self._pruned_through = start.pruned_through
        self._index = start.index
        self._writer = start.writer
        self._write = write
        self._read = read
        self._wall_clock = clock

    @classmethod
    async def open(
        cls,
        options: StoreOptions,
        *,
        wall_clock: Callable[[], float] = time.time,
        new_epoch: Callable[[], str] = random_epoch,
    ) -> EventLog:
        """Open the database, create or migrate the schema if needed, and record the new epoch durably.

        ``options.path`` must not be None. ``new_epoch`` returns 1 to 32 letters, digits, ``-`` or ``_``.
        Raises StoreNotUsable (DatabaseTooNew included) with one line that names the path.
        """
        path = options.path
        if path is None:
            raise ValueError("an event log needs a path")
        epoch = new_epoch()
        if offsets.EPOCH_ID.fullmatch(epoch) is None:
            raise ValueError(f"a boot id cannot be {epoch!r}")
        epoch_begins = partial(
            begin, path=path, epoch=epoch, now=wall_clock(), index_memory_bytes=options.index_memory
        )
        write = await Database.open(lambda: schema.writer(path))
        try:
            start = await write.run(epoch_begins)
            await write.run(lambda connection: schema.configure(connection, options.synchronous))
            read = await Database.open(lambda: schema.reader(path))
        except BaseException as error:
            await write.close()
            if isinstance(error, StoreError) and not isinstance(error, StoreNotUsable):
                raise StoreNotUsable(f"{path}: {error}") from error
            raise
        return cls(epoch, start, write, read, wall_clock)

    @property
    def head(self) -> int:
        """The number of the last committed event; 0 before the first."""
        return self._head

    @property
    def pruned_through(self) -> int:
        """The number of the last event that was deleted; 0 before the first."""
        return self._pruned_through

    def offset_at(self, sequence: int) -> Offset:
        """The position after this event, as this boot gives it out."""
        return Offset(self.epoch, sequence)

    def offset_of(self, sequence: int) -> Offset:
        """The place that the event with this number was given when it was emitted, by whatever boot."""
        return Offset(self._epochs.writer_of(sequence), sequence)

    def locate(self, offset: str) -> Offset:
        """Read a client's offset.

        Raises OffsetMalformed if it is not of our form, OffsetUnknown if its boot is not recorded here,
        OffsetRolledBack if its boot did not write that far, or began later, in this history of the log.
        """
        return self._epochs.check(offsets.parse(offset), self._head)

    def precedes_epoch(self, earlier: str, later: str) -> bool:
        """Whether one boot came before the other. Raises OffsetUnknown for one that is not recorded."""
        return self._epochs.precedes(earlier, later)

    async def load_sessions(self) -> list[StoredSession]:
        """All sessions, in the order in which they were opened. Raises StoreUnavailable, StoreClosed."""
        return await self._read.run(partial(sessions.load, pruned_through=self._pruned_through))

    async def commit(self, changes: Sequence[Change]) -> list[int]:
        """Write the changes in one transaction, in their order.

        Returns the log's position right after each: an event's own number, for any other change the
        number of the last event before it. On an error nothing is stored, and the numbers that the
        events would have had are never given out. If the waiting task is cancelled, the commit goes on.

        Raises StoreBusy (another program writes; try again), StoreUnavailable (disk full or broken),
        StoreRejected (the fault of one of these changes), StoreClosed.
        """
        if not changes:
            return []
        changes = tuple(changes)
        chunk = self._index.chunk(len(changes))
        return await self._write.submit(
            lambda connection: self._writer.commit(connection, changes, chunk),
            partial(self._committed, changes, chunk),
        )

    def _committed(
        self, changes: Sequence[Change], chunk: SegmentChunk | None, sequences: Sequence[int]
    ) -> None:
        index = self._index
        for change, sequence in zip(changes, sequences, strict=True):
            if type(change) is Event:
                index.add(sequence, change.namespace, change.rooms, change.size_bytes)
                self._head = sequence
        if chunk is not None:
            index.written(chunk)
        index.evict()

    async def missed(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed:
        """The stored events in (after, through] that one of the memberships covers.

        With ``at_most`` the search ends once it has found more than so many. Raises StoreUnavailable,
        StoreClosed.
        """
        ranges = wanted(namespace, memberships, max(after, self._pruned_through), through)
        found = list(self._index.loaded(ranges))
        keys = self._index.only_on_disk(ranges)
        for start in range(0, len(keys), _SEGMENTS_PER_READ):
            found += await self._fetch(keys[start : start + _SEGMENTS_PER_READ], ranges)
        return collect(sorted(found, key=lambda segment: segment.key), ranges, at_most)

    async def _fetch(self, keys: Sequence[int], ranges: Sequence[AudienceRange]) -> list[Segment]:
        audiences = {range_.audience for range_ in ranges}
        return await self._read.run(partial(segments.read, keys=keys, audiences=audiences))

    def missed_in_memory(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed | None:
        """The same as ``missed`` without awaiting; None when part of the answer is only on disk."""
        ranges = wanted(namespace, memberships, max(after, self._pruned_through), through)
        if self._index.only_on_disk(ranges):
            return None
        return collect(self._index.loaded(ranges), ranges, at_most)

    async def read(self, sequences: Sequence[int], limit_bytes: int | None = None) -> list[LoggedEvent]:
        """The events with these numbers, ascending, each once; those that are not there are left out.

        With ``limit_bytes`` the reading ends with the event that passes the limit. Raises
        StoreUnavailable, StoreClosed.
        """
        return await self._read.run(partial(events.read, sequences=sequences, limit_bytes=limit_bytes))

    async def prune(self, *, through: int, emitted_before: float, limit: int = 1000) -> int:
        """Delete the oldest events, up to ``through`` and to the first that is not older.

        ``emitted_before``: wall-clock time in seconds. At most ``limit`` events go in one transaction.
        Returns how many did. Raises StoreBusy, StoreUnavailable, StoreClosed.
        """
        deleted, _ = await self._write.submit(
            lambda connection: self._writer.prune(connection, through, emitted_before, limit), self._pruned
        )
        return deleted

    def _pruned(self, pruned: tuple[int, int]) -> None:
        self._pruned_through = max(self._pruned_through, pruned[1])
        self._index.forget(self._pruned_through)

    async def acknowledgement(self, namespace: str, name: str, identity: str, key: str) -> str | None:
        """The JSON array with which a client's event was answered, None for a key that is new.

        Raises StoreUnavailable, StoreClosed.
        """
        find = partial(idempotency_keys.find, namespace=namespace, name=name, identity=identity, key=key)
        return await self._read.run(find)

    async def prune_idempotency_keys(self, handled_before: float, limit: int = 1000) -> int:
        """Forget at most ``limit`` answers from before a service time in seconds; return how many.

        Raises StoreBusy, StoreUnavailable, StoreClosed.
        """
        return await self._write.run(
            lambda connection: self._writer.prune_idempotency_keys(connection, handled_before, limit)
        )

    async def heartbeat(self, uptime: float) -> None:
        """Write down that this server is alive, and how many seconds servers have run on this database.

        Raises StoreUnavailable when the file was deleted or replaced, StoreBusy, StoreClosed.
        """
        now = self._wall_clock()
        await self._write.run(lambda connection: self._writer.heartbeat(connection, now, uptime))

    async def counts(self) -> tuple[int, int]:
        """How many sessions and how many events there are. Raises StoreUnavailable, StoreClosed."""
        row = await self._read.run(lambda connection: connection.execute(_COUNTS).fetchone())
        return row[0], row[1]

    async def close(self) -> None:
        """Finish what was begun and close the database. May be called again."""
        await self._read.close()
        with suppress(StoreError):
            # What a foreign reader keeps from being moved into the main file stays safe in the WAL.
            await self._write.run(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
        await self._write.close()
