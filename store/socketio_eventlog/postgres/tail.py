"""The task that reads the order: the batches of all nodes, out of the table.

A nudge of another node (see ``nudges``) is a hint and may be lost, so the table is read again in any case.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from socketio_eventlog.altered import AlteredRange
from socketio_eventlog.batch_stream import BatchStream
from socketio_eventlog.changes import Committed
from socketio_eventlog.errors import HistoryLost, NodeFenced, StoreClosed, StoreError
from socketio_eventlog.events import Event
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.postgres import altered, start
from socketio_eventlog.postgres.connection import Connection, Link, reporting_failed_flush
from socketio_eventlog.postgres.decoding import GONE, decode_stored
from socketio_eventlog.postgres.event_columns import events_from
from socketio_eventlog.postgres.events import Seen, read_ranges
from socketio_eventlog.postgres.order import Order, Row

logger = logging.getLogger(__name__)

SHORTEST_PAUSE_SECONDS: Final = 0.005
LONGEST_PAUSE_SECONDS: Final = 0.25
"""The bounds of the time between two reads. The pause begins short after each batch of another node, and
grows.
"""
MAX_BATCHES: Final = 100
MAX_EVENTS: Final = 2048
MAX_BYTES: Final = 8_000_000
"""Bounds of a read, for batches and for events. At least one batch is read."""
MAX_EVENTS_ALONG: Final = 4 * MAX_EVENTS
"""The events that are read together with their batches; they are decoded ``MAX_EVENTS`` at once."""

FOLLOW: Final = "SELECT * FROM eventstore.follow_with_events(%s, %s, %s, %s, %s, %s, %s, %s)"
_IS_MEMBER: Final = "SELECT EXISTS (SELECT FROM eventstore.nodes WHERE node = %s)"


class Tail:
    """Reads the batches after the last batch given out, for the order."""

    def __init__(
        self, link: Link, order: Order, stream: BatchStream, has_nudges: Callable[[], bool], *, flushes: bool
    ) -> None:
        """``has_nudges``: whether other nodes would wake the tail. ``flushes``: as in the writer."""
        self._link = link
        self._order = order
        self._stream = stream
        self._has_nudges = has_nudges
        self._flushes = flushes
        self._wake = asyncio.Event()
        self._pause = LONGEST_PAUSE_SECONDS
        self._is_closed = False
        self._is_lost = False

    def wake(self) -> None:
        """Read now: there is a batch."""
        self._wake.set()

    def close(self) -> None:
        """Let ``run`` end."""
        self._is_closed = True
        self._wake.set()

    def abandon(self) -> None:
        """Read nothing more, after the end of the event loop."""
        self._is_closed = True

    async def run(self) -> None:
        """Read until ``close``, or until this node cannot go on."""
        while not self._is_closed and self._order.failure is None:
            self._wake.clear()
            await self._stream.has_room()
            try:
                had_news, has_more = await self._read()
            except (NodeFenced, HistoryLost) as error:
                self._order.fail(error)
                return
            except StoreClosed:
                return
            except Exception as error:  # noqa: BLE001 -- without this task the node would receive no batches
                self._failed(error)
                await asyncio.sleep(LONGEST_PAUSE_SECONDS)
            else:
                self._is_lost = False
                if not has_more:
                    await self._wait(had_news=had_news)

    def _failed(self, error: Exception) -> None:
        if not self._is_lost:
            self._is_lost = True
            fault = None if isinstance(error, StoreError) else error
            logger.warning("The log cannot be read. %s Trying again.", error, exc_info=fault)

    async def _wait(self, *, had_news: bool) -> None:
        """Wait for a nudge, or for the time to ask again."""
        if self._has_nudges():
            self._pause = LONGEST_PAUSE_SECONDS
        elif had_news:
            self._pause = SHORTEST_PAUSE_SECONDS
        try:
            async with asyncio.timeout(self._pause):
                await self._wake.wait()
        except TimeoutError:
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    async def _read(self) -> tuple[bool, bool]:
        """Read once; return whether others had news, and whether there may be more. Raises StoreError."""
        order = self._order
        seen, own = order.seen, order.number + 1  # at one moment: the writer goes on meanwhile
        async with self._link.use() as connection:
            rows = await self._follow(connection, seen, own)
            if not rows or not self._is_same_history(rows[0], seen):
                raise await self._lost(connection, seen)
            *rows, end = rows if len(rows) > 1 else (*rows, None)
            if end is not None and (numbers := (end[11], end[12])) != order.altered_numbers:
                # First: a claim among the batches is decided with all earlier ranges.
                order.take_altered(await altered.ranges(connection), numbers)
            position = 1
            while position < len(rows) and not (position > 1 and self._stream.is_full):
                if position > 1:
                    await asyncio.sleep(0)  # without a read of events, no other step waits
                position += await self._give_out(connection, _page(rows, position))
        had_news = any(row[3] != order.node for row in rows[1:])
        is_cut = end is not None and end[13] is not None
        has_more = is_cut or position < len(rows) or len(rows) > MAX_BATCHES or _size(rows) > MAX_BYTES
        return had_news, has_more

    def _is_same_history(self, row: Any, seen: Seen) -> bool:
        """Whether the first row is the last batch given out, not another batch with the same number."""
        return Seen(*row[:2]) == seen

    async def _follow(self, connection: Connection, seen: Seen, own: int) -> list[Any]:
        bounds = (MAX_BATCHES + 1, MAX_BYTES, self._flushes, MAX_EVENTS_ALONG, MAX_BYTES)
        parameters = (self._order.node, seen.batch, own, *bounds)
        async with reporting_failed_flush(connection):
            return await (await connection.execute(FOLLOW, parameters)).fetchall()

    async def _lost(self, connection: Connection, seen: Seen) -> StoreError:
        row = await (await connection.execute(_IS_MEMBER, (self._order.node,))).fetchone()
        if row is None or not row[0]:
            return NodeFenced()
        return HistoryLost(f"Batch {seen.batch} is missing.")

    async def _give_out(self, connection: Connection, rows: list[Any]) -> int:
        """Read the contents of other nodes' batches, and give out the batches read: at least one."""
        order = self._order
        along = [_events_along(row) for row in rows]
        if any(events is None for events in along):
            rows, along = await self._read_events(connection, rows, along)
        begun = await start.epochs_begun(connection) if _begins_epoch(rows, order.epoch) else []
        for row, events in zip(rows, along, strict=True):
            batch, chain, epoch, node, number, before, _, uptime, outcomes, text, digest, *_ = row
            changes = () if text is None else decode_stored(text, before, outcomes, events or ())
            if row[13] is None:
                await self._note_gone(connection, changes)
            epochs = None
            if epoch != order.epoch and batch > order.seen.batch:
                epochs = Epochs((one, after) for one, after, in_batch in begun if in_batch <= batch)
            order.take(
                Row(Seen(batch, chain), epoch, node, number, before, uptime, outcomes, len(text or "")),
                digest,
                changes,
                epochs,
            )
        return len(rows)

    async def _read_events(
        self, connection: Connection, rows: list[Any], along: list[Sequence[Event] | None]
    ) -> tuple[list[Any], list[Sequence[Event] | None]]:
        """Read the events that did not come with their batches; return the batches whose events are here."""
        missing = [row for row, events in zip(rows, along, strict=True) if events is None]
        ranges = [(row[5] + 1, row[6]) for row in missing]
        found, reached = await read_ranges(connection, ranges, Seen(*missing[-1][:2]), MAX_BYTES)
        read = list[Sequence[Event] | None]()
        for row, events in zip(rows, along, strict=True):
            if events is None and row[6] > reached:
                break
            numbers = range(row[5] + 1, row[6] + 1)
            read.append([found.get(one, GONE) for one in numbers] if events is None else events)
        return rows[: len(read)], read

    async def _note_gone(self, connection: Connection, changes: Sequence[Committed]) -> None:
        """Note the events without rows: the audience is unknown."""
        gone = [position for change, position, _, _ in changes if change is GONE]
        if gone:
            await altered.note_gone(connection, gone)  # first: the node may write the index without them
        for position in gone:
            self._order.take_gone(AlteredRange(None, position, position, is_audience_lost=True))


def _page(rows: Sequence[Any], first: int) -> list[Any]:
    """Return the rows from a place on to read at once: one row, or more rows with few events."""
    page, events = [rows[first]], rows[first][6] - rows[first][5]
    for row in rows[first + 1 :]:
        events += row[6] - row[5]
        if events > MAX_EVENTS:
            break
        page.append(row)
    return page


def _events_along(row: Any) -> Sequence[Event] | None:
    """Return the events of a batch of another node that came with it; None when they must be read."""
    before, last, changes, text = row[5], row[6], row[9], row[13]
    if changes is None or last <= before:
        return ()
    return None if text is None else events_from(text, last - before)


def _size(rows: Sequence[Any]) -> int:
    return sum(len(row[9]) for row in rows if row[9] is not None)


def _begins_epoch(rows: Sequence[Any], epoch: str) -> bool:
    return any(row[2] != epoch for row in rows)
