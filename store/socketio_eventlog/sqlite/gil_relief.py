"""Progress of a database thread while the event loop is saturated with Python work.

The thread needs the interpreter lock (GIL) for microseconds between any two calls into SQLite. An event
loop without sleep holds the GIL: the loop releases the GIL for each system call, but takes the GIL back
before the thread has woken up, and a thread woken in vain starts a new wait. A commit of 0.3 ms then takes
up to seconds. A shorter switch interval does not help, nor does another driver.

The cure: when no job has ended for a moment, the loop yields the GIL, that is, the loop waits without the
GIL until a job ends or waits for the disk. The wait is bounded: the thread may need something else.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Final

FIRST_PAUSE_SECONDS: Final = 0.001
"""Time without the end of a job before the loop yields the GIL: most jobs end without help."""
MAX_PAUSE_SECONDS: Final = 0.020
PAUSE_GROWTH: Final = 1.5
"""After each wait in vain the pause grows, so a slow job costs the loop only a share of its time."""
MAX_WAIT_SECONDS: Final = 0.005
"""Time to yield the GIL to a job that runs statements: each statement needs the GIL."""
MAX_COMMIT_WAIT_SECONDS: Final = 0.0003
"""Time to yield the GIL to a job that commits. A longer wait is lost time until the answer of the disk (a
disk with 4 ms per fsync would take 70 % of the loop's time); afterwards the job needs the GIL once."""


class GilRelief:
    """Watches the jobs of one thread and lets the event loop yield the GIL to the thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._submitted = 0
        self._completed = 0  # like the next two, written on the thread only
        self._is_committing = False
        self._progress = threading.Event()
        self._is_waiting = False  # the loop waits for the event; otherwise no job sets it
        self._watching = False

    def job_submitted(self) -> None:
        """Count a submitted job; on the loop."""
        self._submitted += 1
        if not self._watching:
            self._watching = True
            self._schedule_check(FIRST_PAUSE_SECONDS)

    def job_completed(self) -> None:
        """Count a completed job, after the delivery of its result to the loop; on the thread."""
        self._completed += 1
        if self._is_waiting:
            self._progress.set()

    def commit_begins(self) -> None:
        """Note the begin of the job's wait for the disk; on the thread."""
        self._is_committing = True
        if self._is_waiting:
            self._progress.set()

    def commit_ends(self) -> None:
        """Note the end of the job's wait for the disk; on the thread."""
        self._is_committing = False

    def _schedule_check(self, pause: float) -> None:
        self._loop.call_later(pause, self._check, self._completed, pause)

    def _check(self, completed: int, pause: float) -> None:
        if self._completed == self._submitted:
            self._watching = False
            return
        if self._completed == completed:
            self._yield_gil(completed)
        if self._completed == completed:
            self._schedule_check(min(pause * PAUSE_GROWTH, MAX_PAUSE_SECONDS))
        else:
            self._schedule_check(FIRST_PAUSE_SECONDS)

    def _yield_gil(self, completed: int) -> None:
        if not self._is_committing:
            self._wait(completed, MAX_WAIT_SECONDS)
        if self._is_committing:
            self._wait(completed, MAX_COMMIT_WAIT_SECONDS)

    def _wait(self, completed: int, max_seconds: float) -> None:
        # Both precede the comparison: a job with its end in between sets the event again.
        self._is_waiting = True
        self._progress.clear()
        if self._completed == completed:
            self._progress.wait(max_seconds)
        self._is_waiting = False
