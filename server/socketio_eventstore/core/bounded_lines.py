"""Log lines about single clients, bounded: thousands of clients may connect or disconnect within a second."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

LINES_PER_SECOND: Final = 20


class BoundedLines:
    """Lets a number of lines pass in each second, and counts the others in a line at the second's end.

    At the level DEBUG all lines pass. A line costs up to a tenth of a connection; the check costs next to
    nothing.
    """

    def __init__(self, logger: logging.Logger, what: str, lines_per_second: int = LINES_PER_SECOND) -> None:
        """``what`` names the subject of the lines, in the plural."""
        self.logger = logger
        self._what = what
        self._lines_per_second = lines_per_second
        self._lines = 0
        self._left_out = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop whose timer ends the present second; None between two such seconds."""

    def admit(self) -> bool:
        """Whether the caller is to log a line at the level INFO now. Call this on the event loop."""
        loop, logger = asyncio.get_running_loop(), self.logger
        if self._loop is not loop:
            if not logger.isEnabledFor(logging.INFO):
                return False
            self._loop, self._lines, self._left_out = loop, 0, 0
            loop.call_later(1.0, self._end_second)
        self._lines += 1
        if self._lines <= self._lines_per_second or logger.isEnabledFor(logging.DEBUG):
            return True
        self._left_out += 1
        return False

    def _end_second(self) -> None:
        left_out, self._loop = self._left_out, None
        if left_out:
            extra = {"left_out": left_out}
            self.logger.info("%s more %s within a second", left_out, self._what, extra=extra)
