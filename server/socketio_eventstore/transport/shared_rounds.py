"""The limit for the packets of all clients in one round of the event loop.

With a limit for each client only, a hundred connections make a round a hundred times as long, and all other
packets wait. So a round handles at most ``PACKETS_PER_ROUND`` packets of all clients. When a packet arrives
later in the round, the client waits for the next round. The waiting clients divide the next round into equal
shares.

A client floods after ``PACKETS_AT_ONCE`` packets without an idle moment: a handler ends, and no packet is
queued. Clients that flood wait in a separate queue and get a smaller part of each round.

The limit does not count handlers, and does not count the first ``FRAMES_PER_STEP`` frames of each read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Final

PACKETS_AT_ONCE: Final = 100
"""The number of packets without an idle moment after which a client floods. One read may contain 16,000."""
UNCOUNTED_PACKETS: Final = 20
"""A round with fewer packets schedules no callback, and the next round continues the same count."""
PACKETS_PER_ROUND: Final = PACKETS_AT_ONCE + UNCOUNTED_PACKETS
"""The most packets of all clients in one round. The burst of a single client fits into a round, so the events
of the burst share a transaction."""
FLOOD_PACKETS_PER_ROUND: Final = 20
"""The most packets of all flooding clients in a round."""
PACKETS_PER_STEP: Final = 10
"""The most packets of a flooding client in a round."""

GoOn = Callable[[int], int]
"""Handles packets of a client, at most the given number. Returns the number to count for the round."""


class SharedRounds:
    """Counts the packets of each round, and calls the waiting clients in the order of arrival."""

    __slots__ = ("_flooding", "_is_scheduled", "_left", "_loop", "_waiting", "is_spent")

    def __init__(self) -> None:
        self.is_spent = False
        """Whether further packets have to wait for a later round."""
        self._left = PACKETS_PER_ROUND
        self._waiting: deque[tuple[Context, GoOn]] = deque()
        self._flooding: deque[tuple[Context, GoOn]] = deque()
        self._is_scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def take(self) -> None:
        """Count a packet that is handled outside of ``wait``."""
        self._left -= 1
        if self._left <= PACKETS_AT_ONCE:
            if self._left <= 0:
                self.is_spent = True
            if not self._is_scheduled:
                self._schedule()

    def wait(self, go_on: GoOn, *, floods: bool = False) -> None:
        """Call ``go_on`` in a later round, in the present context; ``floods`` chooses the queue."""
        self._schedule()
        (self._flooding if floods else self._waiting).append((copy_context(), go_on))

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the clients of a former event loop are gone
            self._loop, self._is_scheduled = loop, False
            self._waiting.clear()
            self._flooding.clear()
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._serve)

    def _serve(self) -> None:
        self._is_scheduled, self.is_spent = False, True
        self._left = PACKETS_PER_ROUND
        most = PACKETS_PER_ROUND - FLOOD_PACKETS_PER_ROUND
        try:
            if self._waiting:
                self._let_go_on(self._waiting, most, max(most // len(self._waiting), 1))
            self._let_go_on(self._flooding, FLOOD_PACKETS_PER_ROUND, PACKETS_PER_STEP)
        finally:
            self.is_spent = bool(self._waiting) or self._left <= 0  # waiting clients come first
            # At least once more, to begin the count anew: the next client may be alone.
            if self.is_spent or self._flooding or self._left <= PACKETS_AT_ONCE:
                self._schedule()

    def _let_go_on(self, clients: deque[tuple[Context, GoOn]], most: int, most_of_each: int) -> None:
        end = self._left - most
        for _ in range(len(clients)):
            context, go_on = clients.popleft()
            self._left -= context.run(go_on, most_of_each)
            if self._left <= end:
                break
