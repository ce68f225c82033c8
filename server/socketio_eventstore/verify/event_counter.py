"""Counting what was acknowledged, and waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress


class Meter:
    """The events that were acknowledged: the clock of the plan, which also says how far it may run."""

    def __init__(self) -> None:
        self.count = 0
        self._allowed: float = 0
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def add(self) -> None:
        """One more event was acknowledged."""
        self.count += 1
        self.look()

    @property
    def may_go_on(self) -> bool:
        """Whether more events are to be published now."""
        return self.count < self._allowed

    def allow(self, events: float) -> None:
        """Let so many more events be published."""
        self._allowed = self.count + events
        self.look()

    def look(self) -> None:
        """Something may have come true."""
        for entry in [entry for entry in self._waiting if entry[0]()]:
            self._waiting.remove(entry)
            if not entry[1].done():
                entry[1].set_result(None)

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait for something that ``look`` can find to have come true."""
        if not true():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (true, future)
            self._waiting.append(entry)
            try:
                await future
            finally:
                if entry in self._waiting:
                    self._waiting.remove(entry)

    async def more(self, events: int, at_most_seconds: float) -> None:
        """Wait until so many more events are acknowledged, or until it takes too long."""
        goal = self.count + events
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_seconds):
                await self.until(lambda: self.count >= goal)
