"""The task that appends: one batch at a time, under a number, repeated until the place in the log is known.

A lost connection during an append means "stored" as often as "not stored". The number of the batch
distinguishes the two, so an unanswered batch is sent again for as long as it takes. The next batch is sent
after the former batch was given out, so one batch at most is lost, sent again, or in the table.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import psycopg

from socketio_eventlog.changes import Change, NodeDied
from socketio_eventlog.errors import (
    BatchNotTaken,
    HistoryLost,
    NodeFenced,
    NodeOutdated,
    OutcomeUnknown,
    StoreClosed,
    StoreError,
    StoreRejected,
)
from socketio_eventlog.log import LEASE_SECONDS
from socketio_eventlog.postgres import altered, segments
from socketio_eventlog.postgres.connection import Connection, Link, flush, flush_batch
from socketio_eventlog.postgres.encoding import Body, encode
from socketio_eventlog.postgres.events import Seen
from socketio_eventlog.postgres.failures import ConnectionLost, EpochBegins, OtherContent, first_line
from socketio_eventlog.postgres.order import Order, Pending, Row
from socketio_eventlog.postgres.tail import Tail
from socketio_eventlog.segment import SegmentChunk

logger = logging.getLogger(__name__)

UNREACHABLE_SECONDS: Final = 5.0
"""The longest wait of an unsent batch; beyond, the callers get an error."""
CLOSING_SECONDS: Final = 5.0
"""How long ``close`` tries to learn the outcome of a batch."""
PAUSE_SECONDS: Final = 0.1
REPEAT_SECONDS: Final = 1.0
"""The time until a stored batch that is not given out is sent again: a crash may have lost the batch."""

_APPEND: Final = """
CALL eventstore.append(
  %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb,
  %s::double precision[], %s::text[], %s::text[], %s::text[], %s::text[],
  %s::bigint[], %s::integer[], %s::text[], %s::bigint[], %s::integer[], %s::bytea[],
  NULL, NULL, NULL, NULL, NULL, NULL, NULL)
"""
_ENTER: Final = "SELECT eventstore.enter(%s, %s, %s, %s, %s, %s)"
_NOTHING: Final = encode(())


@dataclass(slots=True)
class _Append:
    """A call of ``Log.append``."""

    own: int
    changes: Sequence[Change]
    future: asyncio.Future[int]


@dataclass(slots=True)
class _Attempt:
    """The tries of an append."""

    pending: Pending
    content: Body
    """The changes."""
    body: Body
    """The sent body: the content, or nothing to use up the number."""
    is_sent: bool = False
    """Whether the last try has reached the append."""
    is_uncertain: bool = False
    """Whether a try without an answer may have been stored, or may be stored still."""
    rejected: StoreRejected | None = None
    """Why the changes cannot be stored; then an empty batch uses up the number."""


class Writer:
    """Appends the batches of a node, and gives out batches that are next in the order."""

    def __init__(
        self,
        link: Link,
        order: Order,
        tail: Tail,
        next_chunks: Callable[[int], Sequence[SegmentChunk]],
        new_epoch: Callable[[], str],
        clock: Callable[[], float] | None,
        *,
        lease_seconds: float = LEASE_SECONDS,
        flushes: bool,
        has_history: bool,
    ) -> None:
        """``next_chunks``: returns the chunks of the index to write before a batch of a number of events.

        ``flushes``: whether a batch is durable, and not only committed, before being given out.
        ``has_history``: whether the history of sessions is written.
        """
        self._link = link
        self._order = order
        self._tail = tail
        self._next_chunks = next_chunks
        self._epoch = order.epoch
        """The present epoch in the database."""
        self._new_epoch = new_epoch
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._flushes = flushes
        self._has_history = has_history
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Append] = deque()
        self._wake = asyncio.Event()
        self._is_closing = False
        self._give_up_at = float("inf")
        self._lost_at: float | None = None
        link.on_connected = self._enter

    def submit(self, own: int, changes: Sequence[Change]) -> asyncio.Future[int]:
        """Queue an append. Raises StoreClosed after ``close``."""
        if self._is_closing:
            raise StoreClosed
        append = _Append(own, changes, self._loop.create_future())
        self._waiting.append(append)
        self._wake.set()
        return append.future

    def close(self) -> None:
        """Let ``run`` end after the submitted work."""
        self._is_closing = True
        self._give_up_at = self._loop.time() + CLOSING_SECONDS
        self._wake.set()

    def abandon(self) -> None:
        """Take nothing more, after the end of the event loop."""
        self._is_closing = True

    async def run(self) -> None:
        """Append until ``close``."""
        while self._waiting or not self._is_closing:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            append = self._waiting.popleft()
            try:
                number = await self._append(append)
            except Exception as error:  # noqa: BLE001 -- the future receives every exception
                if not append.future.done():
                    append.future.set_exception(error)
            else:
                if not append.future.done():
                    append.future.set_result(number)

    async def _append(self, append: _Append) -> int:
        """Append until the batch was given out; return the batch's number in the order.

        Raises OutcomeUnknown for a batch that may be stored, another StoreError for a batch that is not.
        """
        order = self._order
        try:
            content = encode(append.changes)
        except (UnicodeError, OverflowError, TypeError, ValueError) as error:
            raise StoreRejected(f"{error}.") from error
        chunks = self._next_chunks(len(append.changes))
        pending = Pending(order.number + 1, append.own, append.changes, content.digest, chunks)
        attempt = _Attempt(pending, content, content)
        order.expect(pending)
        try:
            while not pending.taken.done():
                await self._try(attempt, chunks)
        finally:
            order.expect(None)
        self._found_again()
        if pending.is_used_up and attempt.rejected is not None:
            raise attempt.rejected
        return pending.taken.result()

    async def _try(self, attempt: _Attempt, chunks: Sequence[SegmentChunk]) -> None:
        """Try once. Raises StoreError when nothing is stored for sure."""
        if self._order.failure is not None:
            self._raise_failure(self._order.failure, attempt)
        if attempt.is_uncertain and self._loop.time() > self._give_up_at:
            raise OutcomeUnknown
        attempt.is_sent = False
        try:
            await self._send(attempt, chunks)
        except EpochBegins:
            await self._enter_again(is_uncertain=attempt.is_uncertain)
        except (NodeFenced, HistoryLost) as error:
            await self._end(error, attempt)
        except ConnectionLost as error:
            attempt.is_uncertain |= attempt.is_sent
            await self._pause(error, is_uncertain=attempt.is_uncertain)
        except StoreError as error:
            if not attempt.is_uncertain:
                raise
            if isinstance(error, StoreRejected) and attempt.rejected is None:
                # A former try may still be under way: the number is used up before the error is raised.
                attempt.body, attempt.rejected = _NOTHING, error
            else:
                await self._pause(error, is_uncertain=True)

    async def _end(self, error: NodeFenced | HistoryLost, attempt: _Attempt) -> None:
        """End the order. Return when there is another try, or the batch was given out."""
        if isinstance(error, OtherContent) and attempt.rejected is not None:
            attempt.body, attempt.rejected = attempt.content, None  # the former try has arrived after all
            return
        if isinstance(error, NodeOutdated):
            self._order.fail(error)
            raise error  # the append has looked whether the batch is stored
        if isinstance(error, NodeFenced) and attempt.is_uncertain:
            # A former try may have been stored before the death of this node: the table then has the batch.
            await self._wait_for_tail(attempt.pending, LEASE_SECONDS)
        if not attempt.pending.taken.done():
            self._order.fail(error)
            self._raise_failure(error, attempt)

    def _raise_failure(self, error: NodeFenced | HistoryLost, attempt: _Attempt) -> NoReturn:
        """Raise the error, or OutcomeUnknown: the table was not read up to the death of this node.

        In a history that this node has not seen, a batch after the last seen batch is missing, too.
        """
        if attempt.is_uncertain and isinstance(error, NodeFenced) and not self._order.has_ended:
            raise OutcomeUnknown from error
        raise error

    async def _send(self, attempt: _Attempt, chunks: Sequence[SegmentChunk]) -> None:
        """Append; flush and give out the batch if next in the order. Raises StoreError."""
        order, pending = self._order, attempt.pending
        async with self._link.use() as connection:
            if chunks and not pending.chunks_written:
                pending.chunks = await segments.write(connection, order.node, chunks)
                pending.chunks_written = True
            attempt.is_sent, pending.sent_at = True, time.monotonic()
            row, altered_numbers = await self._call(connection, attempt)
            attempt.is_uncertain = True  # stored, and perhaps not durable: no refusal from here on
            if order.is_next(row):
                if self._flushes:
                    await flush_batch(connection, *row.seen)
                if altered_numbers != order.altered_numbers:
                    order.take_altered(await altered.ranges(connection), altered_numbers)
                if order.take_own(row, is_used_up=attempt.rejected is not None):
                    return
        await self._wait_for_tail(pending, REPEAT_SECONDS)

    async def _wait_for_tail(self, pending: Pending, seconds: float) -> None:
        """Wait until the table has the batch, or this node cannot go on."""
        self._tail.wake()
        ends: tuple[asyncio.Future[Any], ...] = (pending.taken, self._order.failed)
        await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def _call(self, connection: Connection, attempt: _Attempt) -> tuple[Row, tuple[int, int]]:
        order, body = self._order, attempt.body
        contents = body.contents if body.contents[0] else ("{}", "{}", "{}")
        epoch = self._epoch
        cursor = await _append_within(
            connection,
            (
                order.node,
                attempt.pending.number,
                epoch,
                *order.seen,
                body.digest,
                None if self._clock is None else self._clock(),
                self._lease_seconds,
                self._has_history,
                body.changes,
                *body.events,
                *contents,
            ),
        )
        found: Any = await cursor.fetchone()
        batch, chain, before, uptime, outcomes, altered_count, altered_through = found
        row = Row(Seen(batch, chain), epoch, order.node, attempt.pending.number, before, uptime, outcomes)
        return row, (altered_count, altered_through)

    # The connection ----------------------------------------------------------------------------------

    async def _enter(self, connection: Connection) -> None:
        """Go on over a new connection; begin an epoch when history may have been lost."""
        now = None if self._clock is None else self._clock()
        backend = connection.info.backend_pid
        parameters = (self._order.node, backend, *self._order.seen, self._new_epoch(), now)
        row: Any = await (await connection.execute(_ENTER, parameters)).fetchone()
        (self._epoch,) = row
        if self._epoch != self._order.epoch:
            self._tail.wake()

    async def _enter_again(self, *, is_uncertain: bool) -> None:
        """Begin an epoch on a connection that outlived the database, as PgBouncer's do."""
        try:
            async with self._link.use() as connection:
                await self._enter(connection)
        except (NodeFenced, HistoryLost) as error:
            self._order.fail(error)
            raise
        except StoreError as error:
            if not is_uncertain and not isinstance(error, ConnectionLost):
                raise
            await self._pause(error, is_uncertain=is_uncertain)

    async def leave(self) -> None:
        """Record the end of this node; without the database the other nodes notice the end by the lease."""
        order = self._order
        if order.failure is not None and not isinstance(order.failure, NodeOutdated | BatchNotTaken):
            return
        with suppress(StoreError):  # the lease ends without a word, too
            async with self._link.use(CLOSING_SECONDS) as connection:
                try:
                    await self._send_death(connection, order.number + 1)
                except psycopg.Error as error:
                    if error.sqlstate != "SE005":
                        raise
                    # The number was used by an append with an unknown outcome.
                    await self._send_death(connection, order.number + 2)
                await flush(connection)

    async def _send_death(self, connection: Connection, number: int) -> None:
        body = encode([NodeDied(self._order.node)])
        await self._call(connection, _Attempt(Pending(number, 0, (), body.digest), body, body))

    async def _pause(self, error: StoreError, *, is_uncertain: bool) -> None:
        """Wait before the next try; raise the error when there is none."""
        now = self._loop.time()
        if self._lost_at is None:
            self._lost_at = now
            logger.warning("%s Trying again.", error)
        if now > self._give_up_at or (not is_uncertain and now > self._lost_at + UNREACHABLE_SECONDS):
            if is_uncertain:
                raise OutcomeUnknown from error
            raise error
        await asyncio.sleep(PAUSE_SECONDS)

    def _found_again(self) -> None:
        if self._lost_at is not None:
            logger.info("The database is back after %.1f s.", self._loop.time() - self._lost_at)
            self._lost_at = None


async def _append_within(connection: Connection, parameters: Sequence[object]) -> psycopg.AsyncCursor[Any]:
    try:
        return await connection.execute(_APPEND, parameters)
    except psycopg.errors.QueryCanceled as error:
        # By an operator or statement_timeout, and perhaps after the procedure's commit.
        raise ConnectionLost(f"PostgreSQL says: {first_line(error)}.") from error
