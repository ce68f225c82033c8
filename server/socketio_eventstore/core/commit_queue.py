"""One queue, one order: turns are committed in batches and take effect in the order of the log.

Everything that changes what a client may see is a turn (see ``turns``). The dispatcher drains the queue,
commits what it found as one transaction, and only then lets the turns take effect, one after the
other. There is no timer: while one commit runs, the next batch gathers (group commit).
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import ClassVar, Protocol, TypeAlias

from socketio_eventlog.errors import StoreBusy, StoreClosed, StoreError, StoreUnavailable
from socketio_eventlog.records import Change, Offset, SessionAway, SessionEnded
from socketio_eventstore.core.fan_out import FanOut
from socketio_eventstore.core.packets import PacketEncoder
from socketio_eventstore.core.recent_events import RecentEvents
from socketio_eventstore.core.sessions import Registry, Session

logger = logging.getLogger(__name__)

BATCH_OPERATIONS = 1024
"""More in one transaction does not make it faster, it only makes the others wait."""
QUEUE_OPERATIONS = 100_000
QUEUE_BYTES = 256_000_000
"""What may wait for a commit; an emit beyond that is refused rather than kept in memory."""
SLICE_BYTES = 1_000_000
"""What a batch may gather for one audience before it is sent and the event loop serves others."""
BUSY_TIMEOUT_SECONDS = 30.0
"""How long a batch is kept and tried again while another program holds the database's lock."""
BUSY_PAUSE_SECONDS = 0.01


PendingChange: TypeAlias = SessionAway | SessionEnded
"""What has happened to a session and is written as soon as that is possible."""


class QueueFull(StoreUnavailable):
    """The event store does not keep up and too much is waiting for it; nothing was stored."""


class WritableLog(Protocol):
    """What the dispatcher needs of a log; who else writes to it is the log's own business."""

    @property
    def head(self) -> int:
        """The number of the last committed event."""
        ...

    def offset_at(self, sequence: int) -> Offset:
        """The place that clients are told for a number."""
        ...

    async def commit(self, changes: Sequence[Change]) -> list[int]:
        """Store the changes at once or not at all; return the log's position after each of them."""
        ...


class Operation(ABC):
    """Something that takes effect at one point of the order."""

    broadcasts: ClassVar[bool] = False
    """Whether all it does is ``Outbox.broadcast``, so that its neighbours may share one audience."""
    settled: asyncio.Future[object] | None = None

    @property
    def size_bytes(self) -> int:
        """What it weighs while it waits."""
        return 0

    def changes(self, registry: Registry) -> Sequence[Change]:
        """What must be on disk before it takes effect; empty for packets that are not stored."""
        return ()

    @abstractmethod
    def apply(self, dispatcher: Dispatcher) -> object:
        """Take effect in memory and on connections; what it returns, the submitter gets."""

    def refused(self, dispatcher: Dispatcher, error: StoreError) -> Sequence[PendingChange]:
        """Its changes could not be stored. Returns those that must be written as soon as it is possible."""
        return ()


class Dispatcher:
    """Commits turns in batches and lets them take effect in the order of the log."""

    def __init__(
        self,
        log: WritableLog,
        registry: Registry,
        encoder: PacketEncoder,
        *,
        tail_bytes: int,
        offsets: bool,
        catch_up: Callable[[Session], None],
    ) -> None:
        self.log = log
        self.registry = registry
        self.encoder = encoder
        self.catch_up = catch_up
        """Called with a session that was just accepted, to send it what it missed."""
        self.position = log.head
        """The number of the last event that has taken effect."""
        self.fan_out = FanOut(registry)
        self.recent_events = RecentEvents(log.head, tail_bytes)
        self.offsets = offsets
        """Whether clients are told offsets: only when recovery is enabled."""
        self._queue: deque[tuple[Sequence[Operation], int]] = deque()
        """The groups of turns that wait, and what each weighs in bytes."""
        self._wake = asyncio.Event()
        self._busy = False
        self._flushing = False
        self._expects_one_answer = False
        self._closed = False
        self._queued_bytes = 0
        self._pending_changes: dict[tuple[str, str], PendingChange] = {}

    @property
    def offset(self) -> str | None:
        """The place that dispatch has reached, as clients are told; None when recovery is disabled."""
        return str(self.log.offset_at(self.position)) if self.offsets else None

    def enqueue(self, *group: Operation) -> None:
        """Give turns their place in the order, without waiting; all of them are stored or none.

        For what has happened already and must have its place. Raises StoreClosed after ``close``.
        """
        if self._begin(group):
            self.fan_out.flush()

    def post(self, operation: Operation) -> None:
        """As ``enqueue``, but what follows in this round of the event loop shares the write.

        For answers to clients: the handlers of one batch end together, and each of them has one. What is
        stored must not wait like this: a heartbeat could go out before it that seems to confirm it.
        Raises QueueFull as well.
        """
        self._refuse_if_full()
        if not self._begin((operation,)) or self._flushing:
            return
        if self._expects_one_answer:
            self._expects_one_answer = False
            self.fan_out.flush()
        else:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def _begin(self, group: Sequence[Operation]) -> bool:
        """Let turns take effect, if nothing is before them and nothing to be stored, or queue them."""
        if self._closed:
            raise StoreClosed
        if self._busy or self._queue or self._pending_changes or self._stores(group):
            self._append(group)
            return False
        for operation in group:
            self._take_effect(operation, self.position)
        return True

    def _stores(self, group: Sequence[Operation]) -> bool:
        for operation in group:  # noqa: SIM110 -- a generator for any() takes twice as long, for each packet
            if operation.changes(self.registry):
                return True
        return False

    def flush(self) -> None:
        """Hand everything that has taken effect to the connections."""
        self._flushing = False
        self.fan_out.flush()

    def _refuse_if_full(self) -> None:
        if len(self._queue) >= QUEUE_OPERATIONS or self._queued_bytes >= QUEUE_BYTES:
            raise QueueFull(f"{len(self._queue)} turns of {self._queued_bytes} bytes are waiting.")

    def submit(self, *group: Operation) -> asyncio.Future[object]:
        """Give turns their place in the order; await the result for their effect.

        The place is taken by the call, so the order of calls is the order of the log. The future gives
        what the last turn gives, and raises StoreError when the changes could not be stored; cancelling
        it leaves the turns in their place. What nobody awaits is for ``enqueue``. The call raises QueueFull
        when the store is too far behind to take more, StoreClosed after ``close``.
        """
        self._refuse_if_full()
        last = group[-1]
        last.settled = asyncio.get_running_loop().create_future()
        self.enqueue(*group)
        return last.settled

    async def run(self) -> None:
        """Work until ``close`` is called and the queue is empty; when cancelled, fail all who wait."""
        try:
            while self._queue or not self._closed:
                if not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                await self._work()
        finally:
            self._closed = True
            _fail([group for group, _ in self._queue], StoreClosed())

    async def _work(self) -> None:
        self._busy = True
        groups = self._next_groups()
        try:
            await self._process(groups)
        except Exception as error:  # a fault of ours; those who wait must hear of it
            logger.exception("A batch of %s groups of turns failed", len(groups))
            _fail(groups, error)
        finally:
            _fail(groups, StoreClosed())  # nobody is left unless this was cancelled
            self._busy = False

    def retry_pending_changes(self) -> None:
        """Try again to write what could not be stored although it had happened."""
        if self._pending_changes and not self._closed:
            self._append(())

    def close(self) -> None:
        """Accept no more turns; ``run`` ends when those in the queue have taken effect."""
        self._closed = True
        self._wake.set()

    def _next_groups(self) -> list[Sequence[Operation]]:
        groups: list[Sequence[Operation]] = []
        while self._queue and len(groups) < BATCH_OPERATIONS:
            group, size_bytes = self._queue.popleft()
            groups.append(group)
            self._queued_bytes -= size_bytes
        return groups

    def _append(self, group: Sequence[Operation]) -> None:
        size_bytes = sum([operation.size_bytes for operation in group])
        self._queue.append((group, size_bytes))
        self._queued_bytes += size_bytes
        self._wake.set()

    async def _process(self, groups: list[Sequence[Operation]]) -> None:
        batch = list(chain.from_iterable(groups))
        try:
            positions = await self._commit(batch)
        except StoreError as error:
            if len(groups) == 1 or isinstance(error, StoreBusy):
                await self._refuse_all(batch, error)
            else:  # a bad group fails alone, and the good ones keep their order
                for group in groups:
                    await self._process([group])
            return
        await self._apply(batch, positions)

    async def _commit(self, batch: list[Operation]) -> list[int]:
        pending = list(self._pending_changes.values())
        changes: list[Change] = [*pending]
        ends = []
        for operation in batch:
            changes += operation.changes(self.registry)
            ends.append(len(changes))
        if not changes:
            return [self.position] * len(batch)
        after = [self.position, *await self._commit_with_retry(changes)]
        self._pending_changes.clear()
        return [after[end] for end in ends]

    async def _commit_with_retry(self, changes: list[Change]) -> list[int]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BUSY_TIMEOUT_SECONDS
        while True:
            try:
                return await self.log.commit(changes)
            except StoreBusy as error:
                if loop.time() > deadline or self._closed:
                    raise
                logger.warning("%s Trying again.", error)
            await asyncio.sleep(BUSY_PAUSE_SECONDS)

    async def _apply(self, batch: list[Operation], positions: list[int]) -> None:
        self._expects_one_answer = len(batch) == 1  # there is nothing that it could share its write with
        for operation, position in zip(batch, positions, strict=True):
            self._take_effect(operation, position)
            if self.fan_out.waiting_bytes > SLICE_BYTES:
                self.fan_out.flush()
                await asyncio.sleep(0)
        self.fan_out.flush()

    def _take_effect(self, operation: Operation, position: int) -> None:
        self.position = position
        if not operation.broadcasts:
            self.fan_out.end_group()
        try:
            result = operation.apply(self)
        except Exception as error:  # a fault in one turn must not stop the order for all others
            logger.exception("A turn could not take effect: %r", operation)
            if operation.settled is not None and not operation.settled.done():
                operation.settled.set_exception(error)
            return
        if operation.settled is not None and not operation.settled.done():
            operation.settled.set_result(result)

    async def _refuse_all(self, batch: list[Operation], error: StoreError) -> None:
        """Fail what had to be stored; packets that had not are sent all the same, in their place."""
        for operation in batch:
            if operation.changes(self.registry):
                self._refuse(operation, error)
            else:
                self._take_effect(operation, self.position)
        self.fan_out.flush()

    def _refuse(self, operation: Operation, error: StoreError) -> None:
        for change in operation.refused(self, error):
            key = (change.namespace, change.sid)
            if not isinstance(self._pending_changes.get(key), SessionEnded):
                self._pending_changes[key] = change
        if operation.settled is None:
            logger.error("A turn could not be stored: %s", error)
        elif not operation.settled.done():
            operation.settled.set_exception(error)


def _fail(groups: Iterable[Sequence[Operation]], error: Exception) -> None:
    for operation in chain.from_iterable(groups):
        if operation.settled is not None and not operation.settled.done():
            operation.settled.set_exception(error)
