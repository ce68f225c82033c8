"""The position of a node in the order of the batches. No I/O.

An own batch comes twice: in the answer to the append, and out of the table with the batches of all nodes. The
first arrival that is next in the order is given out; the second arrival confirms the first.
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
    """The interface of the log for the order."""

    def committed(self, batch: Batch, chunks: Sequence[SegmentChunk], size: int) -> None:
        """Take the next batch of the order. The batch is durable.

        ``size``: the characters of a foreign batch without stored events.
        """
        ...

    def epoch_begun(self, epochs: Epochs, epoch: str, batch: int) -> None:
        """Take note of a new epoch and the epoch's first batch, after the last batch of the former epoch."""
        ...

    def altered(self, ranges: Sequence[AlteredRange]) -> None:
        """Take note of all altered ranges."""
        ...

    def ended(self, error: NodeFenced | HistoryLost) -> None:
        """Give out no further batch: this node cannot go on."""
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
    """A batch in the form of the database."""

    seen: Seen
    epoch: str
    node: str
    number: int
    """The number of the batch among the node's batches; 0 for the beginning of an epoch or a node."""
    before: int
    """The sequence of the last event before the batch."""
    uptime: float
    outcomes: Sequence[int]
    size: int = 0
    """The characters of the changes of a foreign batch, without stored events."""


@dataclass(slots=True, eq=False)
class Pending:
    """The own batch between sending and giving out."""

    number: int
    own: int
    changes: Sequence[Change]
    digest: bytes
    """The digest of the changes; an empty batch may have used up the number instead."""
    chunks: Sequence[SegmentChunk] = ()
    """The stored parts of the index."""
    chunks_written: bool = False
    sent_at: float = field(default_factory=time.monotonic)
    """The time of the last send, on the monotonic clock."""
    taken: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """The number of the batch in the order, once given out."""
    is_used_up: bool = False
    """Whether the given out batch is empty."""


class Order:
    """Gives out each batch once, in order, from the append or from the table."""

    def __init__(self, node: str, state: Beginning, receiver: Receiver) -> None:
        self.node = node
        self.seen = state.seen
        """The last batch given out."""
        self.epoch = state.epoch
        """The epoch of the last batch."""
        self.altered_numbers = state.altered_numbers
        """The numbers of altered ranges, as known to the receiver (see ``altered.numbers``)."""
        self.number = 0
        """The number of the last own batch given out."""
        self.contact_at = time.monotonic()
        """The sending time of the newest own batch given out, on the monotonic clock."""
        self.failure: NodeFenced | HistoryLost | None = None
        """The reason why this node cannot go on."""
        self.has_ended = False
        """Whether the death of this node was given out: no batch of this node comes afterwards."""
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done with ``failure``."""
        self._receiver = receiver
        self._ranges = state.altered
        self._gone = AlteredRanges(())
        self._pending: Pending | None = None
        self._chains: dict[int, bytes] | None = {self.seen.batch: self.seen.chain}
        self._progress = asyncio.Event()

    def expect(self, pending: Pending | None) -> None:
        """Set the own batch before the send; None for an abandoned batch."""
        self._pending = pending

    def is_next(self, row: Row) -> bool:
        """Whether an own batch is the next batch: the table need not be read then."""
        return row.seen.batch == self.seen.batch + 1 and row.epoch == self.epoch

    def take_own(self, row: Row, *, is_used_up: bool) -> bool:
        """Give out a durable own batch; return False if the batch is not the next batch any more."""
        pending = self._pending
        if pending is None or not self.is_next(row):
            return False
        self._take_pending(row, pending, is_used_up=is_used_up)
        return True

    def take(
        self, row: Row, digest: bytes | None, changes: Sequence[Committed], epochs: Epochs | None
    ) -> None:
        """Give out a batch of the table, unless already given out. Raises HistoryLost.

        ``digest``: the digest of an own batch's body; ``changes``: the changes of a foreign batch.
        ``epochs``: the epochs up to the batch, at the beginning of an epoch.
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
            # Perhaps a part of the batch took effect. A node that continued would lack the other part.
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
        """Take note of an unreadable event."""
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
        """Wait until the batch ``seen`` was given out, and compare. Raises the failure.

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
        """Forget the state for the beginning of a node."""
        self._chains = None
