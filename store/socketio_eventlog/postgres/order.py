"""Where a node is in the order of the batches. No I/O.

A batch comes twice: in the answer to its own append, and out of the table with the batches of all nodes. The
first of the two that is the next one in the order is given out; the other one is the proof.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from socketio_eventlog.altered import AlteredRange, AlteredRanges
from socketio_eventlog.changes import Batch, Change, Committed, NodeDied
from socketio_eventlog.errors import BatchNotTaken, HistoryLost, NodeFenced
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.postgres.encoding import decode
from socketio_eventlog.postgres.events import Seen
from socketio_eventlog.segment import SegmentChunk

EMPTY: Final[Sequence[Committed]] = ()


class Receiver(Protocol):
    """The log, as the order sees it."""

    def committed(self, batch: Batch, chunks: Sequence[SegmentChunk], size: int) -> None:
        """Take the next batch of the order, which is durable.

        ``size``: the characters of a foreign batch without its stored events.
        """
        ...

    def epoch_begun(self, epochs: Epochs, epoch: str, batch: int) -> None:
        """Take note of a new epoch and its first batch, after the last batch of the former one."""
        ...

    def altered(self, ranges: Sequence[AlteredRange]) -> None:
        """Take note of all altered ranges."""
        ...

    def ended(self, error: NodeFenced | HistoryLost) -> None:
        """Give out nothing more: this node cannot go on."""
        ...


class Beginning(Protocol):
    """The state in which a node begins (see ``start.InitialState``)."""

    @property
    def seen(self) -> Seen: ...
    @property
    def epoch(self) -> str: ...
    @property
    def altered(self) -> Sequence[AlteredRange]: ...
    @property
    def altered_numbers(self) -> tuple[int, int]: ...


class Row(NamedTuple):
    """A batch, as the database has it."""

    seen: Seen
    epoch: str
    node: str
    number: int
    """The number of the batch among those of its node; 0 for the beginning of an epoch or a node."""
    before: int
    """The sequence of the last event before the batch."""
    uptime: float
    outcomes: Sequence[int]
    size: int = 0
    """The characters of the changes of a foreign batch, without its stored events."""


@dataclass(slots=True, eq=False)
class Pending:
    """The own batch that was sent, and is not given out yet."""

    number: int
    own: int
    changes: Sequence[Change]
    digest: bytes
    """That of the changes; the batch may have used up its number for nothing instead."""
    chunks: Sequence[SegmentChunk] = ()
    """The parts of the index that are stored."""
    chunks_written: bool = False
    sent_at: float = field(default_factory=time.monotonic)
    """When it was sent last, on the monotonic clock."""
    taken: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """The number of the batch in the order, when it was given out."""
    is_used_up: bool = False
    """Whether the batch that was given out is empty."""


class Order:
    """Gives out each batch once, in the order, whether the append or the table has shown it."""

    def __init__(self, node: str, state: Beginning, receiver: Receiver) -> None:
        self.node = node
        self.seen = state.seen
        """The last batch that was given out."""
        self.epoch = state.epoch
        """The epoch of that batch."""
        self.altered_numbers = state.altered_numbers
        """The numbers of altered ranges that the receiver knows (see ``altered.numbers``)."""
        self.number = 0
        """The number of the last own batch that was given out."""
        self.contact_at = time.monotonic()
        """When the newest own batch that was given out was sent, on the monotonic clock."""
        self.failure: NodeFenced | HistoryLost | None = None
        """Why this node cannot go on."""
        self.has_ended = False
        """Whether the death of this node was given out: no batch of this node comes after it."""
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done with ``failure``."""
        self._receiver = receiver
        self._ranges = state.altered
        self._gone = AlteredRanges(())
        self._pending: Pending | None = None
        self._chains: dict[int, bytes] | None = {self.seen.batch: self.seen.chain}
        self._progress = asyncio.Event()

    def expect(self, pending: Pending | None) -> None:
        """Name the own batch that is about to be sent; None when it is given up."""
        self._pending = pending

    def is_next(self, row: Row) -> bool:
        """Whether an own batch is the next one, so that the table need not be read for it."""
        return row.seen.batch == self.seen.batch + 1 and row.epoch == self.epoch

    def take_own(self, row: Row, *, is_used_up: bool) -> bool:
        """Give out an own batch that is durable; return False if it is not the next one any more."""
        pending = self._pending
        if pending is None or not self.is_next(row):
            return False
        self._take_pending(row, pending, is_used_up=is_used_up)
        return True

    def take(
        self, row: Row, digest: bytes | None, changes: Sequence[Committed], epochs: Epochs | None
    ) -> None:
        """Give out a batch of the table, unless it was given out. Raises HistoryLost.

        ``digest``: of an own batch, that of its body; ``changes``: those of a foreign one. ``epochs``: those
        up to the batch, when an epoch begins.
        """
        batch, chain = row.seen
        if batch <= self.seen.batch:
            if batch == self.seen.batch and chain != self.seen.chain:
                raise HistoryLost(f"Batch {batch} is another one.")
            return
        if batch != self.seen.batch + 1:
            raise HistoryLost(f"Batch {self.seen.batch + 1} is missing.")
        if epochs is not None:
            self.epoch = row.epoch
            self._receiver.epoch_begun(epochs, row.epoch, batch)
        pending = self._pending
        if row.node == self.node and row.number:
            if pending is None or row.number != pending.number:
                raise HistoryLost(f"Batch {row.number} of this node was given up.")
            self._take_pending(row, pending, is_used_up=digest != pending.digest)
            return
        self._give_out(row, None, changes, ())
        if any(self._is_own_death(change) for change in changes if type(change.change) is NodeDied):
            self.has_ended = True
            raise NodeFenced

    def _is_own_death(self, committed: Committed) -> bool:
        return committed.took_effect and committed.change == NodeDied(self.node)

    def _take_pending(self, row: Row, pending: Pending, *, is_used_up: bool) -> None:
        self._pending, self.number = None, row.number
        self.contact_at = max(self.contact_at, pending.sent_at)
        pending.is_used_up = is_used_up
        changes = EMPTY if is_used_up else decode(pending.changes, row.before, row.outcomes)
        self._give_out(row, None if is_used_up else pending.own, changes, pending.chunks)
        if not pending.taken.done():
            pending.taken.set_result(row.seen.batch)

    def _give_out(
        self, row: Row, own: int | None, changes: Sequence[Committed], chunks: Sequence[SegmentChunk]
    ) -> None:
        """Give out the next batch. Raises BatchNotTaken, and then the order has ended."""
        self.seen = row.seen
        if self._chains is not None:
            self._chains[row.seen.batch] = row.seen.chain
        batch = Batch(row.seen.batch, row.node, own, row.uptime, changes)
        try:
            self._receiver.committed(batch, chunks, row.size)
        except Exception as error:
            # Given out in part, perhaps. Whoever went on would miss the batch without a sign.
            fault = BatchNotTaken(f"Batch {batch.number}: {error!r}.")
            fault.__cause__ = error
            self.fail(fault)
            raise fault from error
        self._progress.set()

    def take_altered(self, ranges: Sequence[AlteredRange], numbers: tuple[int, int]) -> None:
        """Take note of all altered ranges of the database."""
        self._ranges, self.altered_numbers = ranges, numbers
        self._receiver.altered([*ranges, *self._gone])

    def take_gone(self, range_: AlteredRange) -> None:
        """Take note of an event that this node could not read."""
        self._gone.add([range_])
        self._receiver.altered([*self._ranges, *self._gone])

    def fail(self, error: NodeFenced | HistoryLost) -> None:
        """End the order: this node cannot go on."""
        if self.failure is None:
            self.failure = error
            self.failed.set_result(None)
            self._receiver.ended(error)
            self._progress.set()

    async def follows(self, seen: Seen) -> None:
        """Wait until the batch was given out, and check that it is this one. Raises the failure.

        Only before ``began``.
        """
        while self.seen.batch < seen.batch and self.failure is None:
            self._progress.clear()
            await self._progress.wait()
        if self.failure is not None:
            raise self.failure
        if self._chains is not None and self._chains.get(seen.batch, seen.chain) != seen.chain:
            raise HistoryLost(f"Batch {seen.batch} is another one.")

    def began(self) -> None:
        """Forget what only the beginning of a node needs."""
        self._chains = None
