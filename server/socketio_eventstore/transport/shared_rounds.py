"""Rounds of the event loop that all clients with many packets share.

A step for each of them in every round would be bounded for each client, and not for all clients together: a
hundred connections would make a round a hundred times as long, and the packets of everybody else would wait
for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Final

PACKETS_PER_ROUND: Final = 20
"""Packets of all such clients together that are handled before the event loop serves others."""


class SharedRounds:
    """Lets clients go on in the order in which they began to wait, some packets in each round."""

    __slots__ = ("_is_scheduled", "_loop", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[tuple[Context, Callable[[], int]]] = deque()
        self._is_scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def wait(self, go_on: Callable[[], int]) -> None:
        """Call ``go_on`` in a later round, in the present context; it returns how many packets it handled."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the clients of a former event loop are gone
            self._loop, self._is_scheduled = loop, False
            self._waiting.clear()
        self._waiting.append((copy_context(), go_on))
        self._schedule(loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._serve)

    def _serve(self) -> None:
        self._is_scheduled = False
        handled, waiting = 0, self._waiting
        try:
            for _ in range(len(waiting)):
                context, go_on = waiting.popleft()
                handled += context.run(go_on)
                if handled >= PACKETS_PER_ROUND:
                    break
        finally:
            if waiting and self._loop is not None:
                self._schedule(self._loop)
