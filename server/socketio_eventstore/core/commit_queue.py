"""One queue and one order: operations are appended in batches, and take effect in the order of the log.

Everything that changes the view of a client is an operation (see ``operation``). The queue drains the waiting
operations and appends the changes of all of them to the log in one transaction. There is no timer: during one
append the next batch gathers (group commit). Effects come from the log alone, in the order of the log, for
own changes and changes of other nodes; unstored operations take effect at their place between the own
operations.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from socketio_eventlog.errors import HistoryLost, NodeFenced, StoreClosed, StoreUnavailable
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.core.appending import Appending
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.effects_in_order import EffectsInOrder
from socketio_eventstore.core.flush_schedule import FlushSchedule
from socketio_eventstore.core.groups import BATCH_BYTES, BATCH_OPERATIONS, Group, fail, leave
from socketio_eventstore.core.health import StoreHealth
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.outcomes import not_on_their_way
from socketio_eventstore.core.pending_changes import PendingChanges
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.core.senders import current_sender
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import Session

logger = logging.getLogger(__name__)

QUEUE_OPERATIONS = 100_000
QUEUE_BYTES = 256_000_000
"""Limits of the queue. An emit beyond the limits raises QueueFull instead of growing the memory. A client
with more waiting operations than the remaining room is refused before the queue is full, which leaves room
for other clients: a single such client gets a half, two get a third each, and so on."""


class QueueFull(StoreUnavailable):
    """The event store is too far behind, and too many operations are waiting; nothing was stored."""


class CommitQueue:
    """Appends operations in batches, and lets the batches of the log take effect in order."""

    def __init__(self, context: Context, flush_schedule: FlushSchedule) -> None:
        self.context = context
        self._flush_schedule = flush_schedule
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Group] = deque()
        self._waiting_bytes = 0
        self._waiting_operations = 0
        self._is_full = False
        self._is_half_full = False
        self._wake: asyncio.Future[None] | None = None
        """The future on which ``run`` waits while no operation waits."""
        self._is_closed = False
        self._failures = RepeatedFailures(logger)
        self.store_health = StoreHealth()
        self._pending = PendingChanges()
        self.effects = EffectsInOrder(
            context, flush_schedule, self._pending, self.store_health, self._failures, self._revoke
        )
        self.appending = Appending(context, self.effects, self._pending, self.store_health, self._failures)
        self.refused = self.effects.refused
        """The number of refused operations by the name of the limit: ``queue_full`` or ``max_size``."""

    @property
    def position(self) -> int:
        """The sequence of the last event in effect."""
        return self.context.recent_events.position

    @property
    def waiting_operations(self) -> int:
        """The number of waiting operations."""
        return self._waiting_operations

    @property
    def waiting_bytes(self) -> int:
        """The weight of the waiting operations."""
        return self._waiting_bytes

    def enqueue(self, *group: Operation) -> None:
        """Append operations to the order without waiting; all are stored, or none.

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
            self.effects.send(operation, None)
            if not self._flush_schedule.is_scheduled:
                self._flush_schedule.flush_soon()

    def submit(self, *group: Operation) -> asyncio.Future[Any]:
        """Append operations to the order; the future ends when they have taken effect.

        The call itself fixes the place in the order, so the order of calls is the order of the log. The
        future gives the result of the last operation, and raises StoreError when the changes could not be
        stored. Cancelling the future leaves the operations in the order. Raises QueueFull when too many
        operations wait, or too many of the client whose packet is handled; StoreClosed after ``close``.
        """
        if self._is_half_full and not group[-1].passes_full_queue:
            self._check_room()
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
            self._is_closed = self.appending.is_closing = True
            raise
        finally:
            if self._is_closed:
                fail(self._waiting, StoreClosed())
                leave(self._waiting)

    async def take_effects(self) -> None:
        """Let the batches of the log take effect, until the log is closed or the node has to end."""
        try:
            async for batch in self.context.log.batches():
                await self.effects.take_effects_of(batch)
        except (NodeFenced, HistoryLost) as error:
            self.store_health.failed(error)

    def retry_pending_changes(self) -> None:
        """Try again to store pending session changes."""
        if not self._is_closed and self._pending.retry():
            self._put((), None)

    def close(self) -> None:
        """Accept no more operations. ``run`` ends when the queue is empty."""
        self._is_closed = self.appending.is_closing = True
        self._wake_up()

    def _put(self, group: Sequence[Operation], result: asyncio.Future[object] | None) -> bool:
        """Let a group wait for its batch. Return False if the group can take effect without a commit.

        Raises StoreClosed.
        """
        if self._is_closed:
            raise StoreClosed
        size_bytes, is_stored, effects = 0, False, self.effects
        for operation in group:
            size_bytes += operation.size_bytes
            is_stored = is_stored or operation.is_stored
        is_midway = effects.busy_since is not None
        is_ahead = self._waiting or effects.groups_left or is_midway or self._pending.by_session
        if not (is_stored or is_ahead):
            return False
        sender = current_sender.get()
        if sender is not None:
            sender.waiting_operations += len(group)
            sender.waiting_bytes += size_bytes
        self._waiting.append((group, result, size_bytes, sender))
        self._waiting_operations += len(group)
        self._waiting_bytes += size_bytes
        if self._waiting_operations >= QUEUE_OPERATIONS // 2 or self._waiting_bytes >= QUEUE_BYTES // 2:
            self._look_at_room()
        if self._wake is not None:
            self._wake_up()
        return True

    def _wake_up(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    def _take_effect_now(self, group: Sequence[Operation], result: asyncio.Future[object] | None) -> None:
        for operation in group:
            self.effects.send(operation, result if operation is group[-1] else None)

    def _look_at_room(self) -> None:
        operations, size_bytes = self._waiting_operations, self._waiting_bytes
        self._is_half_full = operations >= QUEUE_OPERATIONS // 2 or size_bytes >= QUEUE_BYTES // 2
        self._is_full = operations >= QUEUE_OPERATIONS or size_bytes >= QUEUE_BYTES

    def _check_room(self) -> None:
        """Raise QueueFull for a full queue, or if the client's waiting operations exceed the room left."""
        if self._is_full:
            raise self._full()
        sender = current_sender.get()
        if sender is None:
            return
        free_operations = QUEUE_OPERATIONS - self._waiting_operations
        free_bytes = QUEUE_BYTES - self._waiting_bytes
        if sender.waiting_operations > free_operations or sender.waiting_bytes > free_bytes:
            self.refused["queue_full"] += 1
            raise QueueFull(
                f"{sender.waiting_operations} operations of {sender.waiting_bytes} bytes of one client are "
                "waiting; the room that is left is for the others."
            )

    def _full(self) -> QueueFull:
        """Count a refusal, and return the error."""
        operations, size_bytes = self._waiting_operations, self._waiting_bytes
        self.refused["queue_full"] += 1
        return QueueFull(f"{operations} operations of {size_bytes} bytes are waiting.")

    async def _process_batch(self) -> None:
        groups = self._next_groups()
        self.effects.groups_left = len(groups)
        self.appending.failures_in_a_row = 0
        try:
            await self.appending.process(groups)
        except Exception as error:  # noqa: BLE001 -- a fault of the server
            text = f"A batch of {len(groups)} groups of operations failed"
            self._failures.failed(("batch", type(error)), text, error=error)
            fail(groups, error)
        except BaseException:  # cancelled
            fail(not_on_their_way(groups, self.effects), StoreClosed())
            raise
        finally:
            self.effects.groups_left = 0

    def _next_groups(self) -> list[Group]:
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
        if self._is_half_full:
            self._look_at_room()
        leave(groups)
        return groups

    def _revoke(self, session: Session) -> None:
        self.enqueue(EndSession(session, SessionEnd.REVOKED))
