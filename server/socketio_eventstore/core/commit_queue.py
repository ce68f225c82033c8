"""One queue and one order: operations are committed in batches and take effect in the order of the log.

Everything that changes the view of a client is an operation (see ``operation``). The commit queue drains
the waiting operations, stores the changes of all of them in one transaction, and then lets the operations
take effect, one after the other. There is no timer: during one commit the next batch gathers (group commit).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from socketio_eventlog.errors import StoreBusy, StoreClosed, StoreError, StoreRejected, StoreUnavailable
from socketio_eventlog.records import Change
from socketio_eventstore.core.flush_schedule import FlushSchedule
from socketio_eventstore.core.health import StoreHealth
from socketio_eventstore.core.operation import Context, Operation
from socketio_eventstore.core.pending_changes import PendingChanges, SessionChange
from socketio_eventstore.core.repeated_failures import RepeatedFailures

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
BUSY_TIMEOUT_SECONDS = 30.0
"""How long a batch is retried while another program holds the lock of the database."""
BUSY_PAUSE_SECONDS = 0.01


class QueueFull(StoreUnavailable):
    """The event store is too far behind, and too many operations are waiting; nothing was stored."""


_Group: TypeAlias = tuple[Sequence[Operation], "asyncio.Future[object] | None", int]
"""Operations that are stored together or not at all; the future for the result of the last operation, None
when no caller waits; and the weight in bytes. A plain tuple takes a fifth of the time of a named one."""


class CommitQueue:
    """Commits operations in batches and lets them take effect in the order of the log."""

    def __init__(self, context: Context, flush_schedule: FlushSchedule) -> None:
        self.context = context
        self._flush_schedule = flush_schedule
        self._waiting: deque[_Group] = deque()
        self._waiting_bytes = 0
        self._waiting_operations = 0
        self._failures_in_a_row = 0
        self._wake = asyncio.Event()
        self._is_busy = False
        self._is_closed = False
        self._failures = RepeatedFailures(logger)
        self.store_health = StoreHealth()
        self._pending = PendingChanges()

    @property
    def position(self) -> int:
        """The sequence of the last event that has taken effect."""
        return self.context.recent_events.position

    def enqueue(self, *group: Operation) -> None:
        """Append operations to the order without waiting; all of them are stored, or none.

        For facts that must be recorded, such as a lost connection, also when the queue is full. Raises
        StoreClosed after ``close``.
        """
        if self._append(group, None):
            self._flush_schedule.flush()

    def post(self, operation: Operation) -> None:
        """Append a reply to a client. Replies of one round of the event loop share a write.

        An operation with changes must not wait for the shared write: a heartbeat could leave before the
        event and would then confirm the event. Raises QueueFull, StoreClosed.
        """
        self._raise_if_full()
        if self._append((operation,), None):
            self._flush_schedule.flush_soon()

    def submit(self, *group: Operation) -> asyncio.Future[object]:
        """Append operations to the order; the future ends when they have taken effect.

        The call itself takes the place in the order, so the order of calls is the order of the log. The
        future gives the result of the last operation, and raises StoreError when the changes could not be
        stored. Cancelling the future leaves the operations in the order. Raises QueueFull when too many
        operations wait, StoreClosed after ``close``.
        """
        self._raise_if_full()
        result: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if self._append(group, result):
            self._flush_schedule.flush()
        return result

    async def run(self) -> None:
        """Work until ``close`` was called and the queue is empty; fail all waiting callers when cancelled."""
        try:
            while self._waiting or not self._is_closed:
                if not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                await self._process_batch()
        finally:
            self._is_closed = True
            _fail(self._waiting, StoreClosed())

    def retry_pending_changes(self) -> None:
        """Try again to store the session changes that an earlier commit could not store."""
        if not self._is_closed and self._pending.retry():
            self._push(((), None, 0))

    def close(self) -> None:
        """Accept no more operations. ``run`` ends when the queue is empty."""
        self._is_closed = True
        self._wake.set()

    def _append(self, operations: Sequence[Operation], result: asyncio.Future[object] | None) -> bool:
        """Let operations take effect if nothing must be stored before them, or queue them.

        Return whether they have taken effect.
        """
        if self._is_closed:
            raise StoreClosed
        if self._is_busy or self._waiting or self._pending or _may_store(operations):
            size_bytes = sum([operation.size_bytes for operation in operations])
            self._push((operations, result, size_bytes))
            return False
        self._take_effect(operations, result)
        return True

    def _push(self, group: _Group) -> None:
        self._waiting.append(group)
        self._waiting_bytes += group[2]
        self._waiting_operations += len(group[0])
        self._wake.set()

    def _raise_if_full(self) -> None:
        operations, size_bytes = self._waiting_operations, self._waiting_bytes
        if operations >= QUEUE_OPERATIONS or size_bytes >= QUEUE_BYTES:
            raise QueueFull(f"{operations} operations of {size_bytes} bytes are waiting.")

    async def _process_batch(self) -> None:
        self._is_busy = True
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
            self._is_busy = False

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
        return groups

    async def _process(self, groups: list[_Group]) -> None:
        registry = self.context.registry
        changes = [operation.changes(registry) for operations, _, _ in groups for operation in operations]
        try:
            positions = await self._commit(changes)
        except StoreError as error:
            self._failures_in_a_row += 1
            await self._commit_parts(groups, changes, error)
            return
        self._failures_in_a_row = 0
        await self._apply(groups, changes, positions)

    async def _commit_parts(
        self, groups: list[_Group], changes: list[Sequence[Change]], error: StoreError
    ) -> None:
        """Find the bad group by halves: it fails alone, and the good groups keep their order.

        One bad group costs the others two commits for each halving, and not a commit for each group.
        """
        if isinstance(error, StoreRejected) and self._pending:
            try:
                await self._commit_pending(self._pending.due)
            except StoreError as other:
                self._refuse(groups, changes, other)
            else:
                await self._process(groups)
            return
        is_fault_of_store = (
            isinstance(error, StoreUnavailable) and self._failures_in_a_row > FAILURES_IN_A_ROW
        )
        if len(groups) == 1 or isinstance(error, StoreBusy) or is_fault_of_store:
            self._refuse(groups, changes, error)
            return
        middle = len(groups) // 2
        await self._process(groups[:middle])
        await self._process(groups[middle:])

    async def _commit_pending(self, changes: list[SessionChange]) -> None:
        """Store pending changes without other operations, and put aside each that the store rejects."""
        try:
            await self._commit_with_retry(changes)
        except StoreRejected as error:
            if len(changes) == 1:
                self._failures.failed("rejected", f"The end of a connection could not be stored: {error}")
                self._pending.reject(changes[0])
                return
            middle = len(changes) // 2
            await self._commit_pending(changes[:middle])
            await self._commit_pending(changes[middle:])
        else:
            self._pending.stored(changes)

    async def _commit(self, changes: list[Sequence[Change]]) -> list[int]:
        """Store the pending changes and those of all operations; return the position at each operation."""
        flat: list[Change] = [*self._pending.due] if self._pending else []
        ends = []
        for changes_of_operation in changes:
            flat += changes_of_operation
            ends.append(len(flat))
        if not flat:
            return [self.position] * len(ends)
        positions = [self.position, *await self._commit_with_retry(flat)]
        self._pending.stored(flat)
        return [positions[end] for end in ends]

    async def _commit_with_retry(self, changes: Sequence[Change]) -> list[int]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BUSY_TIMEOUT_SECONDS
        while True:
            try:
                positions = await self.context.log.commit(changes)
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
                self.store_health.written()
                return positions
            await asyncio.sleep(BUSY_PAUSE_SECONDS)

    async def _apply(
        self, groups: list[_Group], changes: list[Sequence[Change]], positions: list[int]
    ) -> None:
        schedule, context = self._flush_schedule, self.context
        fan_out, recent_events = context.fan_out, context.recent_events
        schedule.begin_batch(len(positions))
        committed = zip(changes, positions, strict=True)
        for operations, result, _ in groups:
            for operation in operations:
                changes_of_operation, recent_events.position = next(committed)
                is_last = operation is operations[-1]
                self._take_one_effect(operation, changes_of_operation, result if is_last else None)
                if fan_out.waiting_bytes > SLICE_BYTES:
                    await schedule.flush_and_yield()
        schedule.flush()

    def _take_effect(self, operations: Sequence[Operation], result: asyncio.Future[object] | None) -> None:
        for operation in operations:
            self._take_one_effect(operation, (), result if operation is operations[-1] else None)

    def _take_one_effect(
        self, operation: Operation, changes: Sequence[Change], result: asyncio.Future[object] | None
    ) -> None:
        if not operation.only_broadcasts:
            self.context.fan_out.end_run()
        try:
            value = operation.apply(self.context, changes)
        except Exception as error:  # noqa: BLE001 -- a fault in one operation must not stop the order for all others
            text = f"An operation could not take effect: {operation!r}"
            self._failures.failed((type(operation), type(error)), text, error=error)
            if result is not None and not result.done():
                result.set_exception(error)
            return
        if result is not None and not result.done():
            result.set_result(value)

    def _refuse(self, groups: list[_Group], changes: list[Sequence[Change]], error: StoreError) -> None:
        """Fail the operations with changes. The others take effect all the same, in their place."""
        refused = iter(changes)
        for operations, result, _ in groups:
            for operation in operations:
                changes_of_operation = next(refused)
                if not changes_of_operation:
                    self._take_one_effect(operation, (), result if operation is operations[-1] else None)
                    continue
                if operation.has_happened:
                    self._pending.keep(changes_of_operation)
                operation.refused(self.context, error)
                if result is None:
                    self._failures.failed("refused", f"An operation could not be stored: {error}")
                elif not result.done():
                    result.set_exception(error)
        self._flush_schedule.flush()


def _may_store(operations: Sequence[Operation]) -> bool:
    for operation in operations:  # noqa: SIM110 -- any() with a generator takes twice as long, for each packet
        if operation.may_store:
            return True
    return False


def _fail(groups: Iterable[_Group], error: Exception) -> None:
    for _, result, _ in groups:
        if result is not None and not result.done():
            result.set_exception(error)
