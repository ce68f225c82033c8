"""The batches between the log and their effect on the node."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from socketio_eventlog.changes import Batch

MAX_WAITING: Final = 200
MAX_WAITING_BYTES: Final = 16_000_000
"""The most batches that a log reads ahead, and their largest total weight."""


class BatchStream:
    """An async iterator over batches, in the order of ``put``; used from a single event loop."""

    def __init__(self, given_out: Callable[[int], object] | None = None) -> None:
        """``given_out`` is called with the number of each batch, right before its delivery or omission."""
        self._given_out = given_out
        self._waiting: deque[tuple[Batch, int]] = deque()
        self._waiting_bytes = 0
        self._reader: asyncio.Future[None] | None = None
        self._is_closed = False
        self._skipped = 0
        self._error: Exception | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self._is_limited = True

    def put(self, batch: Batch, weight_bytes: int = 0) -> None:
        """Add the next batch. ``weight_bytes``: the size of all changes of the batch in memory."""
        if batch.number <= self._skipped:
            if self._given_out is not None:
                self._given_out(batch.number)
            return
        self._waiting.append((batch, weight_bytes))
        self._waiting_bytes += weight_bytes
        if self._is_full() and self._is_limited:
            self._drained.clear()
        self._wake()

    def _is_full(self) -> bool:
        return len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES

    @property
    def is_full(self) -> bool:
        """Whether ``has_room`` waits."""
        return not self._drained.is_set()

    async def has_room(self) -> None:
        """Wait until fewer batches and bytes wait than the limits say, or the iteration ends."""
        await self._drained.wait()

    def skip_through(self, number: int) -> None:
        """Give out no batch up to a number, now and later: a snapshot contains these batches."""
        self._skipped = number
        while self._waiting and self._waiting[0][0].number <= number:
            self._pop()

    def lift_limit(self) -> None:
        """Let ``has_room`` wait no more: the end is near."""
        self._is_limited = False
        self._drained.set()

    def close(self) -> None:
        """End the iteration after the waiting batches."""
        self._is_closed = True
        self.lift_limit()
        self._wake()

    def fail(self, error: Exception) -> None:
        """Raise an error after the waiting batches, at every later call too."""
        self._error = error
        self._wake()

    def abandon(self) -> None:
        """Do the same after the end of the event loop, on which no reader is left."""
        self._is_closed = True

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def __aiter__(self) -> BatchStream:
        return self

    async def __anext__(self) -> Batch:
        while not self._waiting:
            if self._error is not None and not self._is_closed:
                raise self._error
            if self._is_closed:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._pop()

    def _pop(self) -> Batch:
        batch, weight_bytes = self._waiting.popleft()
        self._waiting_bytes -= weight_bytes
        if self._given_out is not None:
            self._given_out(batch.number)
        if not self._is_full():
            self._drained.set()
        return batch
