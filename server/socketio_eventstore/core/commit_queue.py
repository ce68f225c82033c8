"""One queue and one order: operations are appended in batches, and take effect as they come out of the log.

Everything that changes the view of a client is an operation (see ``operation``). The queue drains the
waiting operations and appends the changes of all of them to the log in one transaction. There is no timer:
during one append the next batch gathers (group commit). Effects come from the log alone, in its order, own
ones and those of other nodes; unstored operations take effect at their place between the own ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

from socketio_eventlog.errors import (
    LogFull,
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreRejected,
    StoreUnavailable,
)
from socketio_eventlog.records import Batch, Change, Committed, Event, SessionEnd
from socketio_eventlog.room import grows
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.effects import take_effect
from socketio_eventstore.core.faults import Faults
from socketio_eventstore.core.flush_schedule import FlushSchedule
from socketio_eventstore.core.health import StoreHealth
from socketio_eventstore.core.histogram import DURATIONS_SECONDS, SIZES, Histogram
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.pending_changes import PendingChanges, SessionChange
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import Session

logger = logging.getLogger(__name__)

BATCH_OPERATIONS = 1024
BATCH_BYTES = 8_000_000
"""Limits of one transaction. A larger one is not faster and delays the operations behind. A group is never
divided: a group beyond the limits is a batch of its own."""
FAILURES_IN_A_ROW = 2 * BATCH_OPERATIONS.bit_length()
"""Failed commits in a row after which the store is at fault, and not a group of the batch."""
QUEUE_OPERATIONS = 100_000
QUEUE_BYTES = 256_000_000
"""Limits of the queue. An emit beyond them raises QueueFull instead of growing the memory."""
SLICE_BYTES = 1_000_000
"""Bytes that a batch may gather before the frames are written and the event loop serves others."""
SLICE_OPERATIONS = 200
"""The same for operations that do more than broadcast: a thousand sessions take 10 ms."""
BUSY_TIMEOUT_SECONDS = 30.0
"""How long a batch is retried while another program holds the lock of the database."""
BUSY_PAUSE_SECONDS = 0.01


class QueueFull(StoreUnavailable):
    """The event store is too far behind, and too many operations are waiting; nothing was stored."""


_Group: TypeAlias = tuple[Sequence[Operation], "asyncio.Future[object] | None", int]
"""Operations that are stored together or not at all; the future for the result of the last operation, None
when no caller waits; and the weight in bytes. A plain tuple takes a fifth of the time of a named one."""


@dataclass(frozen=True, slots=True)
class _Appended:
    """A batch of this node that was appended and has not taken effect yet."""

    own: int
    """Which call of ``Log.append`` it was."""
    groups: Sequence[_Group]
    counts: Sequence[int]
    """The number of changes of each operation."""
    pending: int
    """The number of pending changes in front of those of the operations."""
    taken_effect: asyncio.Future[None]
    begun: float
    """The time of the append on the performance counter, in seconds."""


class CommitQueue:
    """Appends operations in batches, and lets the batches of the log take effect in their order."""

    def __init__(self, context: Context, flush_schedule: FlushSchedule) -> None:
        self.context = context
        self._flush_schedule = flush_schedule
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Group] = deque()
        self._waiting_bytes = 0
        self._waiting_operations = 0
        self._is_full = False
        self._failures_in_a_row = 0
        self._wake: asyncio.Future[None] | None = None
        """What ``run`` waits for while nothing waits to be appended."""
        self._is_closed = False
        self._is_draining = False
        """Whether a drained batch has not taken effect yet, or failed."""
        self._effects = asyncio.Lock()
        """Held while effects take place: a large batch yields to the event loop in between."""
        self._appends = 0
        self._appended: _Appended | None = None
        self._failures = RepeatedFailures(logger)
        self._faults = Faults(context, self._failures, lambda session: self.enqueue(_revoked(session)))
        self.store_health = StoreHealth()
        self._pending = PendingChanges()
        self.commit_durations = Histogram(DURATIONS_SECONDS)
        """The seconds from each append to the moment at which its batch is durable and known here."""
        self.batch_sizes = Histogram(SIZES)
        """The number of changes in each batch of this node."""
        self.on_commit: Callable[[float, int], None] | None = None
        """Called soon after each commit of this node with its seconds and the number of its changes."""
        self.failed_commits = 0
        """The number of appends that failed, those for the search of a bad group included."""
        self.refused: Counter[str] = Counter()
        """The number of refused operations by the name of the limit: ``queue_full`` or ``max_size``."""

    @property
    def position(self) -> int:
        """The sequence of the last event that has taken effect."""
        return self.context.recent_events.position

    @property
    def waiting_operations(self) -> int:
        """The number of operations that wait for their batch."""
        return self._waiting_operations

    @property
    def waiting_bytes(self) -> int:
        """The weight of the operations that wait for their batch."""
        return self._waiting_bytes

    def enqueue(self, *group: Operation) -> None:
        """Append operations to the order without waiting; all of them are stored, or none.

        For facts that must be recorded, such as a lost connection, also when the queue is full. Raises
        StoreClosed after ``close``.
        """
        if not self._put(group, None):
            self._take_effect_now(group, None)
            self._flush_schedule.flush()

    def post(self, operation: Operation) -> None:
        """Append a reply to a client. Replies of one round of the event loop share a write.

        An operation with changes must not wait for the shared write: a heartbeat could leave before the
        event and would then confirm the event. Raises QueueFull, StoreClosed.
        """
        if self._is_full:
            raise self._full()
        if not self._put((operation,), None):
            self._send(operation, None)
            self._flush_schedule.flush_soon()

    def submit(self, *group: Operation) -> asyncio.Future[Any]:
        """Append operations to the order; the future ends when they have taken effect.

        The call itself takes the place in the order, so the order of calls is the order of the log. The
        future gives the result of the last operation, and raises StoreError when the changes could not be
        stored. Cancelling the future leaves the operations in the order. Raises QueueFull when too many
        operations wait, StoreClosed after ``close``.
        """
        if self._is_full and not group[-1].passes_full_queue:
            raise self._full()
        result: asyncio.Future[Any] = self._loop.create_future()
        if not self._put(group, result):
            self._take_effect_now(group, result)
            self._flush_schedule.flush()
        return result

    async def run(self) -> None:
        """Append until ``close`` was called and the queue is empty; when cancelled, fail all callers."""
        try:
            while self._waiting or not self._is_closed:
                if self._waiting:
                    await self._process_batch()
                else:
                    self._wake = self._loop.create_future()
                    await self._wake
        except asyncio.CancelledError:
            self._is_closed = True
            raise
        finally:
            if self._is_closed:
                _fail(self._waiting, StoreClosed())

    async def take_effects(self) -> None:
        """Let the batches of the log take effect, until the log is closed."""
        async for batch in self.context.log.batches():
            await self._take_effects_of(batch)

    def retry_pending_changes(self) -> None:
        """Try again to store the session changes that an earlier commit could not store."""
        if not self._is_closed and self._pending.retry():
            self._put((), None)

    def close(self) -> None:
        """Accept no more operations. ``run`` ends when the queue is empty."""
        self._is_closed = True
        self._wake_up()

    def _put(self, group: Sequence[Operation], result: asyncio.Future[object] | None) -> bool:
        """Let a group wait for its batch. Return False if nothing has to be stored before it takes effect.

        Raises StoreClosed.
        """
        if self._is_closed:
            raise StoreClosed
        size_bytes, must_wait = 0, self._is_draining or bool(self._waiting)
        for operation in group:
            size_bytes += operation.size_bytes
            must_wait = must_wait or operation.is_stored
        if not (must_wait or self._pending or self._effects.locked()):
            return False
        self._waiting.append((group, result, size_bytes))
        self._waiting_operations += len(group)
        self._waiting_bytes += size_bytes
        if self._waiting_operations >= QUEUE_OPERATIONS or self._waiting_bytes >= QUEUE_BYTES:
            self._is_full = True
        if self._wake is not None:
            self._wake_up()
        return True

    def _wake_up(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    def _take_effect_now(self, group: Sequence[Operation], result: asyncio.Future[object] | None) -> None:
        for operation in group:
            self._send(operation, result if operation is group[-1] else None)

    def _full(self) -> QueueFull:
        """Count a refusal, and return the error for it."""
        operations, size_bytes = self._waiting_operations, self._waiting_bytes
        self.refused["queue_full"] += 1
        return QueueFull(f"{operations} operations of {size_bytes} bytes are waiting.")

    async def _process_batch(self) -> None:
        self._is_draining = True
        groups = self._next_groups()
        self._failures_in_a_row = 0
        try:
            await self._process(groups)
        except Exception as error:  # noqa: BLE001 -- a fault of the server
            text = f"A batch of {len(groups)} groups of operations failed"
            self._failures.failed(("batch", type(error)), text, error=error)
            _fail(groups, error)
        except BaseException:  # cancelled
            _fail(groups, StoreClosed())
            raise
        finally:
            self._is_draining = False

    def _next_groups(self) -> list[_Group]:
        waiting = self._waiting
        groups = [waiting.popleft()]
        operations, size_bytes = len(groups[0][0]), groups[0][2]
        while waiting:
            group = waiting[0]
            more_operations, more_bytes = operations + len(group[0]), size_bytes + group[2]
            if more_operations > BATCH_OPERATIONS or more_bytes > BATCH_BYTES:
                break
            groups.append(waiting.popleft())
            operations, size_bytes = more_operations, more_bytes
        self._waiting_operations -= operations
        self._waiting_bytes -= size_bytes
        self._is_full = self._waiting_operations >= QUEUE_OPERATIONS or self._waiting_bytes >= QUEUE_BYTES
        return groups

    async def _process(self, groups: Sequence[_Group]) -> None:
        changes: list[Change] = [*self._pending.due] if self._pending else []
        pending, counts = len(changes), []
        for operations, _, _ in groups:
            for operation in operations:
                if operation.is_stored:
                    own = operation.changes()
                    changes += own
                    counts.append(len(own))
                else:
                    counts.append(0)
        if not changes:
            async with self._effects:
                await self._take_own(None, groups, counts, 0)
            return
        try:
            await self._append_with_retry(changes, groups, counts, pending)
        except StoreError as error:
            self._failures_in_a_row += 1
            self.failed_commits += 1
            await self._append_parts(groups, error)
            return
        self._failures_in_a_row = 0

    async def _append_parts(self, groups: Sequence[_Group], error: StoreError) -> None:
        """Find the bad group by halves: it fails alone, and the good groups keep their order.

        One bad group costs the others two transactions for each halving, and not one for each group.
        """
        if isinstance(error, StoreRejected) and self._pending:
            try:
                await self._append_pending(self._pending.due)
            except StoreError as other:
                await self._refuse(groups, other)
            else:
                await self._process(groups)
            return
        if isinstance(error, LogFull) and len(groups) > 1 and any(map(_grow, groups)):
            await self._append_without_growth(groups, error)
            return
        is_fault_of_store = (
            isinstance(error, StoreUnavailable)
            and not isinstance(error, LogFull)
            and self._failures_in_a_row > FAILURES_IN_A_ROW
        )
        if len(groups) == 1 or isinstance(error, StoreBusy) or is_fault_of_store:
            await self._refuse(groups, error)
            return
        middle = len(groups) // 2
        await self._process(groups[:middle])
        await self._process(groups[middle:])

    async def _append_without_growth(self, groups: Sequence[_Group], error: LogFull) -> None:
        """Refuse the groups that need room in the log; store the others, such as the return of a client."""
        for is_refused, run in groupby(groups, _grow):
            if is_refused:
                await self._refuse(list(run), error)
            else:
                await self._process(list(run))

    async def _append_pending(self, changes: Sequence[SessionChange]) -> None:
        """Store pending changes without other operations, and put aside each that the store rejects."""
        try:
            await self._append_with_retry(changes, (), (), len(changes))
        except StoreRejected as error:
            if len(changes) == 1:
                self._failures.failed("rejected", f"The end of a connection could not be stored: {error}")
                self._pending.reject(changes[0])
                return
            middle = len(changes) // 2
            await self._append_pending(changes[:middle])
            await self._append_pending(changes[middle:])

    async def _append_with_retry(
        self, changes: Sequence[Change], groups: Sequence[_Group], counts: Sequence[int], pending: int
    ) -> None:
        """Append changes and wait until they have taken effect. Raises StoreError."""
        loop = self._loop
        deadline = loop.time() + BUSY_TIMEOUT_SECONDS
        while True:
            try:
                await self._append_once(changes, groups, counts, pending)
            except StoreBusy as error:
                self.store_health.failed(error)
                if loop.time() > deadline or self._is_closed:
                    raise
                text = f"{error} Trying again."
                self._failures.failed("lock", text, level=logging.WARNING, ends_when_quiet=False)
            except StoreUnavailable as error:
                self.store_health.failed(error)
                raise
            else:
                self._failures.succeeded("lock")
                return
            await asyncio.sleep(BUSY_PAUSE_SECONDS)

    async def _append_once(
        self, changes: Sequence[Change], groups: Sequence[_Group], counts: Sequence[int], pending: int
    ) -> None:
        taken_effect: asyncio.Future[None] = self._loop.create_future()
        self._appends += 1
        begun = time.perf_counter()
        self._appended = _Appended(self._appends, groups, counts, pending, taken_effect, begun)
        place = self.context.log.append(changes)
        place.add_done_callback(lambda done: _fail_if_not_appended(done, taken_effect))
        await taken_effect

    # Effects ----------------------------------------------------------------------------------------

    async def _take_effects_of(self, batch: Batch) -> None:
        appended, nodes = self._appended, self.context.nodes
        async with self._effects:
            nodes.batch, nodes.uptime = batch.number, batch.uptime
            if appended is None or batch.own != appended.own:
                await self._take_foreign(batch, batch.changes)
                self._flush_schedule.flush()
                return
            self._appended = None
            seconds, changes = time.perf_counter() - appended.begun, len(batch.changes)
            self.commit_durations.measured(seconds)
            self.batch_sizes.measured(changes)
            if self.on_commit is not None:  # soon: its exception must not stop the order
                asyncio.get_running_loop().call_soon(self.on_commit, seconds, changes)
            self.store_health.written()  # before any caller learns that the batch is stored
            try:
                if self._pending.any_kept:
                    self._pending.stored([committed.change for committed in batch.changes])
                await self._take_foreign(batch, batch.changes[: appended.pending])
                await self._take_own(batch, appended.groups, appended.counts, appended.pending)
            except Exception as error:  # the rest of the batch has no effect: no client may go on without it
                _fail(appended.groups, error)
                self._faults.after(batch.changes, error)
                raise
            except BaseException:  # cancelled
                _fail(appended.groups, StoreClosed())
                raise
            finally:
                if not appended.taken_effect.done():
                    appended.taken_effect.set_result(None)

    async def _take_foreign(self, batch: Batch, changes: Sequence[Committed]) -> None:
        """Let changes take effect for which no operation of this node waits."""
        fan_out = self.context.fan_out
        for committed in changes:
            try:
                if type(committed.change) is not Event:
                    fan_out.end_run()
                take_effect(self.context, batch, committed)
            except Exception as error:  # noqa: BLE001 -- a fault in one change must not stop the order for all others
                self._faults.after((committed,), error)
            if fan_out.waiting_bytes > SLICE_BYTES:
                await self._flush_schedule.flush_and_yield()

    async def _take_own(
        self, batch: Batch | None, groups: Sequence[_Group], counts: Sequence[int], start: int
    ) -> None:
        """Let operations take effect, with their changes in the batch from index ``start`` on."""
        schedule, fan_out = self._flush_schedule, self.context.fan_out
        schedule.begin_batch(len(counts))
        count_of_next, others = iter(counts), 0
        for operations, result, _ in groups:
            for operation in operations:
                end = start + next(count_of_next)
                last = result if operation is operations[-1] else None
                if end > start and batch is not None:
                    self._take_one(operation, batch, batch.changes[start:end], last)
                    start = end
                else:
                    self._send(operation, last)
                others += operation.changes_recipients
                if fan_out.waiting_bytes > SLICE_BYTES or others >= SLICE_OPERATIONS:
                    others = 0
                    await schedule.flush_and_yield()
        schedule.flush()

    def _take_one(
        self,
        operation: Operation,
        batch: Batch,
        committed: Sequence[Committed],
        result: asyncio.Future[object] | None,
    ) -> None:
        try:
            if operation.changes_recipients:
                self.context.fan_out.end_run()
            value = operation.apply(self.context, batch, committed)
        except Exception as error:  # noqa: BLE001 -- as in _take_foreign
            value = self._faults.after(committed, error)
            if value is None and result is not None and not result.done():
                result.set_exception(error)
        if result is not None and not result.done():
            result.set_result(value)

    def _send(self, operation: Operation, result: asyncio.Future[object] | None) -> None:
        try:
            if operation.changes_recipients:
                self.context.fan_out.end_run()
            value = operation.send(self.context)
        except Exception as error:  # noqa: BLE001 -- as in _take_foreign
            text = f"An operation could not take effect: {type(operation).__name__}"
            self._failures.failed((type(operation), type(error)), text, error=error)
            if result is not None and not result.done():
                result.set_exception(error)
            return
        if result is not None and not result.done():
            result.set_result(value)

    async def _refuse(self, groups: Sequence[_Group], error: StoreError) -> None:
        """Fail the operations with changes. The others take effect all the same, in their place."""
        async with self._effects:
            for operations, result, _ in groups:
                for operation in operations:
                    last = result if operation is operations[-1] else None
                    if not operation.is_stored:
                        self._send(operation, last)
                        continue
                    self._refuse_one(operation, error)
                    if isinstance(error, LogFull):
                        self.refused["max_size"] += 1
                    if result is None:
                        self._failures.failed("refused", f"An operation could not be stored: {error}")
                    elif not result.done():
                        result.set_exception(error)
            self._flush_schedule.flush()

    def _refuse_one(self, operation: Operation, error: StoreError) -> None:
        # The changes first: after ``refused`` the operation may describe another state.
        if operation.has_happened:
            self._pending.keep(operation.changes())
        operation.refused(self.context, error)


def _grow(group: _Group) -> bool:
    """Whether a log without room refuses a group."""
    return any(grows(operation.changes()) for operation in group[0])


def _fail_if_not_appended(place: asyncio.Future[int], taken_effect: asyncio.Future[None]) -> None:
    if not place.cancelled() and (error := place.exception()) is not None and not taken_effect.done():
        taken_effect.set_exception(error)


def _revoked(session: Session) -> Operation:
    return EndSession(session, SessionEnd.REVOKED)


def _fail(groups: Iterable[_Group], error: Exception) -> None:
    for _, result, _ in groups:
        if result is not None and not result.done():
            result.set_exception(error)
