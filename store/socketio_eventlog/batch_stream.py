"""The batches that wait until the node lets them take effect."""

from __future__ import annotations

import asyncio
from collections import deque

from socketio_eventlog.records import Batch


class BatchStream:
    """An async iterator over batches, in the order of ``put``; used from one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Batch] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._is_closed = False

    def put(self, batch: Batch) -> None:
        """Add the next batch."""
        self._waiting.append(batch)
        self._wake()

    def close(self) -> None:
        """End the iteration after the batches that wait."""
        self._is_closed = True
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
            if self._is_closed:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._waiting.popleft()
