"""The frames of a connection between two polls. Source: Engine.IO protocol 4, "HTTP long-polling"."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from socketio_eventstore.core.frames import Frames


class PollBuffer:
    """The frames for the next poll, and the waiting poll."""

    __slots__ = ("_frames", "_poll", "unsent_bytes")

    def __init__(self) -> None:
        self._frames: list[Frames] = []
        self._poll: asyncio.Future[None] | None = None
        self.unsent_bytes = 0

    @property
    def has_poll(self) -> bool:
        """Whether a poll waits for frames."""
        return self._poll is not None

    def write(self, batch: Sequence[Frames]) -> int:
        """Add frames and wake the waiting poll. Returns ``unsent_bytes``."""
        self._frames.extend(batch)
        self.unsent_bytes += sum([frames.size_bytes for frames in batch])
        self.wake_poll()
        return self.unsent_bytes

    async def wait(self) -> None:
        """Wait until frames have been added, or until ``wake_poll`` is called."""
        if not self._frames:
            self._poll = asyncio.get_running_loop().create_future()
            try:
                await self._poll
            finally:
                self._poll = None

    def wake_poll(self) -> None:
        """End the wait of a poll, if any."""
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(None)

    def take(self, limit: int | None = None) -> list[Frames]:
        """Remove and return all frames, or the first ``limit`` packets."""
        if limit is not None:
            return self._take_packets(limit)
        frames, self._frames, self.unsent_bytes = self._frames, [], 0
        return frames

    def _take_packets(self, limit: int) -> list[Frames]:
        taken: list[Frames] = []
        while self._frames and len(taken) < limit:
            first = self._frames.pop(0)
            if len(first.packets) > 1:
                self._frames[:0] = [Frames(packet) for packet in first.packets]
            else:
                taken.append(first)
                self.unsent_bytes -= first.size_bytes
        return taken
