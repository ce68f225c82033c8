"""When the gathered frames are handed to the connections.

Each flush costs one system call per connection. A flush too early splits a batch into several writes; a
flush too late adds latency.
"""

from __future__ import annotations

import asyncio

from socketio_eventstore.core.fan_out import FanOut


class FlushSchedule:
    """Decides the time of a flush of the fan-out: consecutive packets share a write."""

    def __init__(self, fan_out: FanOut) -> None:
        self._fan_out = fan_out
        self.is_scheduled = False
        """Whether a flush follows the present round of the event loop."""
        self._expects_one_reply = False

    def flush(self) -> None:
        """Hand all gathered frames to the connections."""
        self._fan_out.flush()

    def flush_soon(self) -> None:
        """Flush after the present round of the event loop, since the round may add further replies.

        The handlers of one batch end in the same round, and each handler replies. After a batch of a single
        operation, the flush happens at once.
        """
        if self.is_scheduled:
            return
        if self._expects_one_reply:
            self._expects_one_reply = False
            self._fan_out.flush()
        else:
            self.is_scheduled = True
            asyncio.get_running_loop().call_soon(self._scheduled_flush)

    def _scheduled_flush(self) -> None:
        self.is_scheduled = False
        self._fan_out.flush()

    def begin_batch(self, operations: int) -> None:
        """Note the number of operations in the present batch."""
        self._expects_one_reply = operations == 1

    async def flush_and_yield(self) -> None:
        """Flush in the middle of a large batch, and let the event loop serve others."""
        self._fan_out.flush()
        await asyncio.sleep(0)
