"""The counter of acknowledged events, and the waiting for its conditions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress


class EventCounter:
    """The number of acknowledged events: the clock of the plan, and the limit for the publishers."""

    def __init__(self) -> None:
        self.count = 0
        self._limit: float = 0
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def add(self) -> None:
        """Count one acknowledged event."""
        self.count += 1
        self.check_waiters()

    @property
    def may_publish(self) -> bool:
        """Whether publishers may publish further events now."""
        return self.count < self._limit

    def allow(self, events: float) -> None:
        """Set the limit to ``events`` more than the present count."""
        self._limit = self.count + events
        self.check_waiters()

    def check_waiters(self) -> None:
        """Wake each waiter with a true condition. Called after every change of a condition."""
        for waiter in [waiter for waiter in self._waiters if waiter[0]()]:
            self._waiters.remove(waiter)
            if not waiter[1].done():
                waiter[1].set_result(None)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` is true; evaluated by ``check_waiters``."""
        if not condition():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiter = (condition, future)
            self._waiters.append(waiter)
            try:
                await future
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    async def wait_for_more(self, events: int, timeout_seconds: float) -> None:
        """Wait until ``events`` more events are acknowledged, or until the timeout."""
        goal = self.count + events
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self.wait_for(lambda: self.count >= goal)
