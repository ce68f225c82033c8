"""The effects of the log's batches, in order: own operations, and changes of other nodes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence

from socketio_eventlog.changes import Batch, Committed
from socketio_eventlog.errors import LogFull, StoreClosed, StoreError
from socketio_eventlog.events import Event
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.effects import pass_by, take_effect
from socketio_eventstore.core.faults import Faults
from socketio_eventstore.core.flush_schedule import FlushSchedule
from socketio_eventstore.core.groups import Appended, Group, Unsettled, fail
from socketio_eventstore.core.health import StoreHealth
from socketio_eventstore.core.histogram import DURATIONS_SECONDS, SIZES, Histogram
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.pending_changes import PendingChanges
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.core.sessions import Session

SLICE_BYTES = 1_000_000
"""The bytes of a batch after which the frames are written and the event loop serves others."""
SLICE_OPERATIONS = 64
"""The same limit for operations other than broadcasts: a thousand sessions take 10 ms, and as long again for
the connect handlers in the next round."""


class EffectsInOrder:
    """Lets batches take effect, and gives the results to the waiting callers."""

    def __init__(
        self,
        context: Context,
        flush_schedule: FlushSchedule,
        pending: PendingChanges,
        store_health: StoreHealth,
        failures: RepeatedFailures,
        revoke: Callable[[Session], None],
    ) -> None:
        """``revoke`` appends the end of a session to the log."""
        self._context = context
        self._flush_schedule = flush_schedule
        self._pending = pending
        self._store_health = store_health
        self._failures = failures
        self._faults = Faults(context, failures, revoke)
        self.lock = asyncio.Lock()
        """Held while effects take place: a large batch yields to the event loop in between."""
        self.appended: Appended | None = None
        """The batch of this node before its effect."""
        self.unsettled: Unsettled | None = None
        """The unanswered batch at the end of this node's life."""
        self.taking: Batch | None = None
        """The last batch out of the log."""
        self.busy_since: float | None = None
        """The time of the last progress in the effects of a batch, in seconds of the monotonic clock; None
        between two batches."""
        self.groups_left = 0
        """The number of groups of the current batch without effect and without failure. At zero, an unstored
        operation does not wait for the task that empties the queue: the handlers of a batch reply in the next
        round of the event loop."""
        self.commit_durations = Histogram(DURATIONS_SECONDS)
        """The seconds from each append to the arrival of the durable batch on this node."""
        self.batch_sizes = Histogram(SIZES)
        """The number of changes in each batch of this node."""
        self.on_commit: Callable[[float, int], None] | None = None
        """Called soon after each commit of this node with the seconds and the number of changes."""
        self.refused: Counter[str] = Counter()
        """The number of refused operations by the name of the limit: ``queue_full`` or ``max_size``."""

    async def take_effects_of(self, batch: Batch) -> None:
        self.taking, self.busy_since = batch, time.monotonic()
        await self._take_effects_of(batch)
        self.busy_since = None

    async def _take_effects_of(self, batch: Batch) -> None:
        appended, nodes = self.appended, self._context.nodes
        async with self.lock:
            nodes.batch, nodes.uptime = batch.number, batch.uptime
            if appended is None or batch.own != appended.own:
                await self._take_foreign(batch, batch.changes)
                self._flush_schedule.flush()
                return
            self.appended = None
            seconds, changes = time.perf_counter() - appended.begun, len(batch.changes)
            self.commit_durations.measured(seconds)
            self.batch_sizes.measured(changes)
            if self.on_commit is not None:  # soon: an exception of the callback must not stop the order
                asyncio.get_running_loop().call_soon(self.on_commit, seconds, changes)
            self._store_health.written()  # before any caller gets a result
            try:
                if self._pending.any_kept:
                    self._pending.stored([committed.change for committed in batch.changes])
                await self._take_foreign(batch, batch.changes[: appended.pending])
                await self.take_own(batch, appended.groups, appended.counts, appended.pending)
            except Exception as error:  # no client may go on without the rest of the batch
                fail(appended.groups, error)
                self._faults.after(batch.changes, error)
                raise
            except BaseException:  # cancelled
                self.settle(appended, batch)
                raise
            finally:
                if not appended.taken_effect.done():
                    appended.taken_effect.set_result(None)

    async def _take_foreign(self, batch: Batch, changes: Sequence[Committed]) -> None:
        """Let changes take effect without an operation of this node."""
        context, fan_out, index, others = self._context, self._context.fan_out, 0, 0
        while (index := pass_by(context, changes, index)) < len(changes):
            committed = changes[index]
            index += 1
            try:
                if type(committed.change) is not Event:
                    others += 1
                    fan_out.end_run()
                take_effect(context, batch, committed)
            except Exception as error:  # noqa: BLE001 -- a fault in one change must not stop the order for all others
                self._faults.after((committed,), error)
            if fan_out.waiting_bytes > SLICE_BYTES or others >= SLICE_OPERATIONS:
                others = 0
                await self._yield()

    async def take_own(
        self, batch: Batch | None, groups: Sequence[Group], counts: Sequence[int], start: int
    ) -> None:
        """Let operations take effect; the changes are in the batch from index ``start`` on."""
        schedule, fan_out = self._flush_schedule, self._context.fan_out
        schedule.begin_batch(len(counts))
        count_of_next, others = iter(counts), 0
        for operations, result, _, _ in groups:
            for operation in operations:
                end = start + next(count_of_next)
                last = result if operation is operations[-1] else None
                if end > start and batch is not None:
                    self._take_one(operation, batch, batch.changes[start:end], last)
                    start = end
                else:
                    self.send(operation, last)
                others += operation.changes_recipients
                if fan_out.waiting_bytes > SLICE_BYTES or others >= SLICE_OPERATIONS:
                    others = 0
                    await self._yield()
        self.groups_left -= len(groups)
        schedule.flush()

    async def _yield(self) -> None:
        await self._flush_schedule.flush_and_yield()
        if self.busy_since is not None:  # not for packets outside the log
            self.busy_since = time.monotonic()

    def settle(self, appended: Appended, batch: Batch) -> None:
        """Give results to the callers of a stored batch without effect on this node."""
        start = appended.pending
        count_of_next = iter(appended.counts)
        for operations, result, _, _ in appended.groups:
            for operation in operations:
                end = start + next(count_of_next)
                if result is not None and not result.done() and operation is operations[-1]:
                    self._settle_one(operation, batch.changes[start:end], result)
                start = end

    def _settle_one(
        self, operation: Operation, committed: Sequence[Committed], result: asyncio.Future[object]
    ) -> None:
        try:
            if not committed:  # packets outside the log
                raise StoreClosed
            result.set_result(operation.outcome(self._context, committed))
        except StoreError as error:
            result.set_exception(error)

    def _take_one(
        self,
        operation: Operation,
        batch: Batch,
        committed: Sequence[Committed],
        result: asyncio.Future[object] | None,
    ) -> None:
        try:
            context = self._context
            if operation.changes_recipients and context.fan_out.address is not None:
                context.fan_out.end_run()
            value = operation.apply(context, batch, committed)
        except Exception as error:  # noqa: BLE001 -- as in _take_foreign
            value = self._faults.after(committed, error)
            if value is None and result is not None and not result.done():
                result.set_exception(error)
        if result is not None and not result.done():
            result.set_result(value)

    def send(self, operation: Operation, result: asyncio.Future[object] | None) -> None:
        try:
            context = self._context
            if operation.changes_recipients and context.fan_out.address is not None:
                context.fan_out.end_run()
            value = operation.send(context)
        except Exception as error:  # noqa: BLE001 -- as in _take_foreign
            text = f"An operation could not take effect: {type(operation).__name__}"
            self._failures.failed((type(operation), type(error)), text, error=error)
            if result is not None and not result.done():
                result.set_exception(error)
            return
        if result is not None and not result.done():
            result.set_result(value)

    async def refuse(self, groups: Sequence[Group], error: StoreError) -> None:
        """Fail the operations with changes. The others take effect at their places.

        The callers get the same error when the node begins to join anew: StoreClosed would say that nothing
        is stored, and OutcomeUnknown says something else.
        """
        try:
            await self._refuse(groups, error)
        except asyncio.CancelledError:
            fail([group for group in groups if any(one.is_stored for one in group[0])], error)
            raise

    async def _refuse(self, groups: Sequence[Group], error: StoreError) -> None:
        async with self.lock:
            for operations, result, _, _ in groups:
                for operation in operations:
                    last = result if operation is operations[-1] else None
                    if not operation.is_stored:
                        self.send(operation, last)
                        continue
                    self._refuse_one(operation, error)
                    if isinstance(error, LogFull):
                        self.refused["max_size"] += 1
                    if result is None:
                        self._failures.failed("refused", f"An operation could not be stored: {error}")
                    elif not result.done():
                        result.set_exception(error)
            self.groups_left -= len(groups)
            self._flush_schedule.flush()

    def _refuse_one(self, operation: Operation, error: StoreError) -> None:
        # The changes first: after ``refused`` the operation may describe another state.
        if operation.has_happened:
            self._pending.keep(operation.changes())
        operation.refused(self._context, error)
