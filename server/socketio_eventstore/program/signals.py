"""The signals of the program: stop with grace, end at once, reload the configuration."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

EXIT_CODES = {signal.SIGTERM: 0, signal.SIGINT: 128 + signal.SIGINT, signal.SIGHUP: 0}
"""The exit code after a stop with grace, by the signal of the stop."""


class Signals:
    """Stops the program with grace at the first SIGTERM or Ctrl-C, and ends it at once at the second.

    The end of the terminal (SIGHUP) stops the program with grace, too. A program without a terminal
    reloads the configuration at SIGHUP.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.exit_code = 0
        self.reason = ""
        """The name of the signal of the stop."""
        self.on_reload: Callable[[], None] = lambda: None
        """Called on the event loop for a SIGHUP without a terminal."""
        self._loop = asyncio.get_running_loop()
        self._is_stopping = False
        self._starting: asyncio.Task[Any] | None = None
        self._has_terminal = _has_terminal()
        # asyncio's own signal handlers wait for the event loop. A handler of the application that blocks the
        # event loop would then block the second signal, too.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(signal.SIGHUP, self._hang_up)

    async def run_start(self, start: Coroutine[Any, Any, None]) -> bool:
        """Run the start of the server; return False if a signal has stopped the start."""
        self._starting = asyncio.create_task(start)
        try:
            await asyncio.wait([self._starting])
            if self._starting.cancelled():
                return False
            self._starting.result()
        finally:
            self._starting = None
        return not self._is_stopping

    def _stop(self, number: int, _frame: object) -> None:
        if self._is_stopping:
            os._exit(128 + number)  # all acknowledged data are on disk
        self._is_stopping = True
        self.exit_code, self.reason = EXIT_CODES[signal.Signals(number)], signal.Signals(number).name
        # Not ``stop.set()`` here: during the begin of a ``stop.wait()``, no task would be woken.
        self._loop.call_soon_threadsafe(self._wake)

    def _hang_up(self, number: int, frame: object) -> None:
        if not self._has_terminal:
            self._loop.call_soon_threadsafe(self.on_reload)
        elif not self._is_stopping:  # shell and terminal may both send SIGHUP
            self._stop(number, frame)

    def _wake(self) -> None:
        self.stop.set()
        if self._starting is not None:
            self._starting.cancel()


def _has_terminal() -> bool:
    return any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
