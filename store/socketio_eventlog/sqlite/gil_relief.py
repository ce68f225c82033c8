"""How a database thread gets on while the event loop is saturated with Python work.

The thread needs the interpreter lock (GIL) between any two calls into SQLite, for microseconds. An
event loop that never sleeps holds it: it gives it up for each system call, but takes it back before
the thread has woken up, and a thread that was woken in vain starts to wait anew. A commit that takes
0.3 ms then takes up to seconds. A shorter switch interval does not help, nor does another driver.

The cure: when no job has ended for a moment, the loop steps aside, that is, it waits without the lock
until one ends or waits for the disk. How long is bounded: the thread may need something else.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

FIRST_PAUSE: Final = 0.001
"""Seconds without the end of a job before the loop steps aside: most jobs end by themselves."""
LONGEST_PAUSE: Final = 0.020
PAUSE_GROWTH: Final = 1.5
"""After each wait in vain the loop leaves itself more time, so a slow job costs it a share only."""
LONGEST_WAIT: Final = 0.005
"""Seconds to step aside for a job that runs statements, each of which needs the lock."""
LONGEST_COMMIT_WAIT: Final = 0.0003
"""Seconds to step aside for a job that commits. Until the disk has answered waiting longer is lost
time (a disk with 4 ms per fsync would take 70 % of the loop's); after that it needs the lock once."""


class GilRelief:
    """Watches the jobs of one thread and lets the event loop step aside for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._submitted = 0
        self._completed = 0  # like the next two, written on the thread only
        self._is_committing = False
        self._progress = threading.Event()
        self._watching = False

    def submitted(self) -> None:
        """A job was queued; on the loop."""
        self._submitted += 1
        if not self._watching:
            self._watching = True
            self._look_again(FIRST_PAUSE)

    def completed(self) -> None:
        """A job has ended and its result is on the way; on the thread."""
        self._completed += 1
        self._progress.set()

    @contextmanager
    def committing(self) -> Iterator[None]:
        """While the job waits for the disk; on the thread."""
        self._is_committing = True
        self._progress.set()
        try:
            yield
        finally:
            self._is_committing = False

    def _look_again(self, pause: float) -> None:
        self._loop.call_later(pause, self._look, self._completed, pause)

    def _look(self, completed: int, pause: float) -> None:
        if self._completed == self._submitted:
            self._watching = False
            return
        if self._completed == completed:
            self._yield_gil(completed)
        if self._completed == completed:
            self._look_again(min(pause * PAUSE_GROWTH, LONGEST_PAUSE))
        else:
            self._look_again(FIRST_PAUSE)

    def _yield_gil(self, completed: int) -> None:
        if not self._is_committing:
            self._wait(completed, LONGEST_WAIT)
        if self._is_committing:
            self._wait(completed, LONGEST_COMMIT_WAIT)

    def _wait(self, completed: int, longest: float) -> None:
        # Cleared before the count is read: a job that ends in between sets it again.
        self._progress.clear()
        if self._completed == completed:
            self._progress.wait(longest)
