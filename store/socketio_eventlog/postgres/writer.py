"""The task that appends: one batch at a time, under its number, again until its place in the log is known.

A connection that is lost in the middle of an append means "stored" as often as "not stored". The number of
the batch tells the two apart, so a batch whose answer was lost is sent again for as long as it takes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from socketio_eventlog.altered import AlteredRange
from socketio_eventlog.errors import HistoryLost, NodeFenced, StoreClosed, StoreError, StoreRejected
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.postgres import altered, segments, start
from socketio_eventlog.postgres.connection import Connection, Link, flush
from socketio_eventlog.postgres.encoding import Body, decode, encode
from socketio_eventlog.postgres.events import Seen
from socketio_eventlog.postgres.failures import ConnectionLost, EpochBegins, OtherContent
from socketio_eventlog.records import Batch, Change, Committed
from socketio_eventlog.segment import SegmentChunk

logger = logging.getLogger(__name__)

UNREACHABLE_SECONDS: Final = 5.0
"""How long a batch waits that was not sent yet; longer, and its callers hear of it."""
CLOSING_SECONDS: Final = 5.0
"""How long ``close`` tries to learn the outcome of a batch."""
PAUSE_SECONDS: Final = 0.1

_APPEND: Final = """
CALL eventstore.append(
  %s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb,
  %s::double precision[], %s::text[], %s::text[], %s::text[], %s::text[],
  %s::bigint[], %s::integer[], %s::text[], %s::bigint[], %s::integer[], %s::bytea[],
  NULL, NULL, NULL, NULL, NULL, NULL, NULL)
"""
_ENTER: Final = "SELECT eventstore.enter(%s, %s, %s, %s, %s)"
_BEGUN: Final = """
SELECT batch, chain, node, uptime FROM eventstore.batches WHERE batch > %s AND node_batch = 0 ORDER BY batch
"""


class Receiver(Protocol):
    """The log, as the writer sees it."""

    def next_chunks(self, events: int) -> Sequence[SegmentChunk]:
        """Return the chunks of the index that are written before the next batch."""
        ...

    def committed(self, batch: Batch, chunks: Sequence[SegmentChunk]) -> None:
        """Take the next batch of the order, which is durable."""
        ...

    def epoch_begun(self, epochs: Epochs, epoch: str) -> None:
        """Take note of a new epoch, after the last batch of the former one."""
        ...

    def altered(self, ranges: Sequence[AlteredRange]) -> None:
        """Take note of all altered ranges."""
        ...


@dataclass(slots=True)
class _Append:
    """A call of ``Log.append``."""

    own: int
    changes: Sequence[Change]
    future: asyncio.Future[int]


@dataclass(slots=True)
class _Attempt:
    """The tries of an append."""

    body: Body
    is_sent: bool = False
    """Whether the last try has reached the append."""
    is_uncertain: bool = False
    """Whether a try without an answer may have been stored, or may be stored still."""
    rejected: StoreRejected | None = None
    """Why the changes cannot be stored; then an empty batch uses up the number."""


@dataclass(slots=True)
class _Answer:
    """The answer of the database to an append."""

    seen: Seen
    before: int
    uptime: float
    outcomes: Sequence[int]
    altered_numbers: tuple[int, int]


@dataclass(slots=True)
class Position:
    """Where the writer is in the order."""

    seen: Seen
    """The last batch that was given out."""
    epoch: str
    """The present epoch in the database."""
    altered_numbers: tuple[int, int]
    number: int = 0
    """The number of the last own batch."""
    begun: list[Any] = field(default_factory=list)
    """The rows of epochs after ``seen`` that were not given out."""
    epochs: Epochs | None = None
    """All epochs, when the last one was not given out."""


class Writer:
    """Appends the batches of one node, and gives them out when they are durable."""

    def __init__(
        self,
        link: Link,
        node: str,
        position: Position,
        receiver: Receiver,
        new_epoch: Callable[[], str],
        clock: Callable[[], float] | None,
        *,
        flushes: bool,
        has_history: bool,
    ) -> None:
        """``flushes``: whether a batch is durable, and not only committed, before it is given out.

        ``has_history``: whether the history of sessions is written.
        """
        self._link = link
        self._node = node
        self._position = position
        self._receiver = receiver
        self._new_epoch = new_epoch
        self._clock = clock
        self._flushes = flushes
        self._has_history = has_history
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Append] = deque()
        self._wake = asyncio.Event()
        self._is_closing = False
        self._give_up_at = float("inf")
        self._lost_at: float | None = None
        self.contact_at = time.monotonic()
        """When the last append that is durable was sent, on the monotonic clock, in seconds."""
        self._gone: NodeFenced | HistoryLost | None = None
        link.on_connected = self._enter

    @property
    def seen(self) -> Seen:
        """The last batch that was given out."""
        return self._position.seen

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
        """Append until the outcome is known; return the number of the batch. Raises StoreError."""
        try:
            attempt = _Attempt(encode(append.changes))
        except (UnicodeError, OverflowError, TypeError, ValueError) as error:
            raise StoreRejected(f"{error}.") from error
        chunks = self._receiver.next_chunks(len(append.changes))
        while (answer := await self._try(append, attempt, chunks)) is None:
            pass
        self._found_again()
        rejected = attempt.rejected
        committed = decode(() if rejected else append.changes, answer.before, answer.outcomes)
        self._give_out(answer, None if rejected else append.own, committed, chunks)
        if rejected is not None:
            raise rejected
        return answer.seen.batch

    async def _try(
        self, append: _Append, attempt: _Attempt, chunks: Sequence[SegmentChunk]
    ) -> _Answer | None:
        """Try once; return None for another try. Raises StoreError when nothing is stored for sure."""
        self._check_gone()
        attempt.is_sent = False
        try:
            return await self._send(attempt, chunks)
        except EpochBegins:
            await self._enter_again()
        except OtherContent as error:
            if attempt.rejected is None:
                self._gone = error
                raise
            attempt.body, attempt.rejected = (
                encode(append.changes),
                None,
            )  # the former try has arrived after all
        except (NodeFenced, HistoryLost) as error:
            self._gone = error
            raise
        except ConnectionLost as error:
            attempt.is_uncertain |= attempt.is_sent
            await self._pause(error, is_uncertain=attempt.is_uncertain)
        except StoreError as error:
            if not attempt.is_uncertain:
                raise
            if isinstance(error, StoreRejected) and attempt.rejected is None:
                # A former try may still be on its way: the number is used up before the error is told.
                attempt.body, attempt.rejected = encode(()), error
            else:
                await self._pause(error, is_uncertain=True)
        return None

    def _check_gone(self) -> None:
        if self._gone is not None:
            raise self._gone

    async def _send(self, attempt: _Attempt, chunks: Sequence[SegmentChunk]) -> _Answer:
        """Append, flush, and read what was altered. Raises StoreError."""
        async with self._link.use() as connection:
            if chunks:
                await segments.write(connection, chunks)
            attempt.is_sent, sent_at = True, time.monotonic()
            answer = await self._call(connection, attempt.body)
            attempt.is_uncertain = True  # it is stored, and perhaps not durable: no refusal from here on
            if self._flushes:
                await flush(connection)
            self.contact_at = sent_at
            await self._read_altered(connection, answer.altered_numbers)
            return answer

    async def _call(self, connection: Connection, body: Body) -> _Answer:
        position = self._position
        contents = body.contents if body.contents[0] else ("{}", "{}", "{}")
        cursor = await connection.execute(
            _APPEND,
            (
                self._node,
                position.number + 1,
                position.epoch,
                *position.seen,
                body.digest,
                None if self._clock is None else self._clock(),
                self._has_history,
                body.changes,
                *body.events,
                *contents,
            ),
        )
        row: Any = await cursor.fetchone()
        batch, chain, before, uptime, outcomes, altered_count, altered_through = row
        return _Answer(Seen(batch, chain), before, uptime, outcomes, (altered_count, altered_through))

    async def _read_altered(self, connection: Connection, numbers: tuple[int, int]) -> None:
        if numbers != self._position.altered_numbers:
            self._receiver.altered(await altered.ranges(connection))
            self._position.altered_numbers = numbers

    # The order ---------------------------------------------------------------------------------------

    def _give_out(
        self, answer: _Answer, own: int | None, committed: list[Committed], chunks: Sequence[SegmentChunk]
    ) -> None:
        """Give out an own batch, and the beginnings of epochs around it, by their numbers."""
        position = self._position
        self._give_out_begun(answer.seen.batch)
        position.number += 1
        position.seen = answer.seen
        batch = Batch(answer.seen.batch, self._node, own, answer.uptime, committed)
        self._receiver.committed(batch, chunks)
        self._give_out_begun(None)

    def _give_out_begun(self, before: int | None) -> None:
        position = self._position
        while position.begun and (before is None or position.begun[0][0] < before):
            number, chain, epoch, uptime = position.begun.pop(0)
            position.seen = Seen(number, chain)
            if not position.begun and position.epochs is not None:
                self._receiver.epoch_begun(position.epochs, epoch)
            self._receiver.committed(Batch(number, epoch, None, uptime, ()), ())

    # The connection ----------------------------------------------------------------------------------

    async def _enter(self, connection: Connection) -> None:
        """Go on over a new connection; begin an epoch when history may have been lost."""
        position = self._position
        now = None if self._clock is None else self._clock()
        await connection.execute(_ENTER, (self._node, *position.seen, self._new_epoch(), now))
        position.begun = await (await connection.execute(_BEGUN, (position.seen.batch,))).fetchall()
        if position.begun:
            position.epoch = str(position.begun[-1][2])
            position.epochs = await start.epochs(connection)

    async def _enter_again(self) -> None:
        """Begin an epoch on a connection that has outlived the database, as PgBouncer's do."""
        try:
            async with self._link.use() as connection:
                await self._enter(connection)
        except (NodeFenced, HistoryLost) as error:
            self._gone = error
            raise
        except ConnectionLost as error:
            await self._pause(error, is_uncertain=True)

    async def _pause(self, error: StoreError, *, is_uncertain: bool) -> None:
        """Wait before the next try; raise the error when there is none."""
        now = self._loop.time()
        if self._lost_at is None:
            self._lost_at = now
            logger.warning("%s Trying again.", error)
        if now > self._give_up_at or (not is_uncertain and now > self._lost_at + UNREACHABLE_SECONDS):
            raise error
        await asyncio.sleep(PAUSE_SECONDS)

    def _found_again(self) -> None:
        if self._lost_at is not None:
            logger.info("The database is back after %.1f s.", self._loop.time() - self._lost_at)
            self._lost_at = None
