"""Rounds of the event loop that all clients share.

A step for each client in every round would be bounded for each, and not for all together: a hundred
connections would make a round a hundred times as long, and the packets of everybody else would wait for it.
So a round handles ``PACKETS_PER_ROUND`` packets of all clients. Clients whose packets come later in the
round wait for the next one, each with a share of it. Clients that flood wait apart, for a smaller part of
each round: those with a hundred packets since a handler ended with nothing queued behind it.

Not shared are the first ``FRAMES_PER_STEP`` frames of each read, which are read at once, and the handlers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Final

PACKETS_AT_ONCE: Final = 100
"""Packets of one client, since a handler ended with nothing queued behind it, from which on it floods. One
read may bring 16,000."""
UNCOUNTED_PACKETS: Final = 20
"""Packets after which the count of a round begins anew; to begin it in each round would cost a callback."""
PACKETS_PER_ROUND: Final = PACKETS_AT_ONCE + UNCOUNTED_PACKETS
"""Packets of all clients together that are handled before the event loop serves others. The burst of one
client that is alone fits into it, and its events share a transaction."""
FLOOD_PACKETS_PER_ROUND: Final = 20
"""Those of clients that flood."""
PACKETS_PER_STEP: Final = 10
"""Those of one client that floods."""

GoOn = Callable[[int], int]
"""Handles as many packets of one client as the argument says at most. Returns how many of them it takes."""


class SharedRounds:
    """Counts the packets of a round, and lets the clients that wait go on in the order of their waiting."""

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
        """Call ``go_on`` in a later round, in the present context."""
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
            self.is_spent = bool(self._waiting) or self._left <= 0  # those that wait come first
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
