"""A signal of the operating system in the middle of a wait that begins."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Iterator

import pytest

from socketio_eventstore.program.signals import Signals
from support.processes import DEADLINE

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def former_handlers() -> Iterator[None]:
    former = [signal.getsignal(number) for number in NUMBERS]
    yield
    for number, handler in zip(NUMBERS, former, strict=True):
        signal.signal(number, handler)


class Waiters(deque[asyncio.Future[bool]]):
    """The waiters of an event; the signal comes after the event was looked at, before the waiter is known."""

    def append(self, waiter: asyncio.Future[bool]) -> None:
        signal.raise_signal(signal.SIGTERM)
        super().append(waiter)


async def test_signal_wakes_a_wait_that_begins() -> None:
    """A SIGTERM is not lost when the program is just beginning to wait for it."""
    signals = Signals()
    signals.stop._waiters = Waiters()
    async with asyncio.timeout(DEADLINE):
        await signals.stop.wait()
    assert signals.reason == "SIGTERM"
