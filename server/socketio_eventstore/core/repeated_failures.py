"""Log lines for repeated failures: a full disk or a broken handler must not fill the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Final

REPORT_SECONDS: Final = 10.0
"""The time between two lines about a continuing failure, and the quiet time after which a failure has
ended.
"""
MAX_KINDS: Final = 1000
"""Kinds of failures with a separate count, by default. Later kinds share a count."""


def shown(error: BaseException) -> str:
    """Return an exception as text. The ``__repr__`` of an application's exception may raise."""
    try:
        return repr(error)
    except Exception:  # noqa: BLE001 -- of the application
        return f"{type(error).__name__}, whose text cannot be shown"


@dataclass(slots=True)
class _Failure:
    """A continuing failure."""

    level: int
    text: str
    ends_when_quiet: bool
    loop: asyncio.AbstractEventLoop
    timer: asyncio.TimerHandle
    total: int = 1
    unreported: int = 0


class RepeatedFailures:
    """Logs a failure once at the beginning, every ten seconds with a count, and once at the end."""

    def __init__(
        self, logger: logging.Logger, report_seconds: float = REPORT_SECONDS, max_kinds: int = MAX_KINDS
    ) -> None:
        self._logger = logger
        self._max_kinds = max_kinds
        self._report_seconds = report_seconds
        self._failures: dict[Hashable, _Failure] = {}

    def failed(
        self,
        kind: Hashable,
        text: str,
        *,
        level: int = logging.ERROR,
        error: BaseException | None = None,
        ends_when_quiet: bool = True,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Count a failure. Failures of the same ``kind`` share the lines; the last text is shown.

        ``error`` adds the traceback to the first line, and ``extra`` the fields of a structured log. Without
        ``ends_when_quiet`` only ``succeeded`` ends the failure. Call this on the event loop.
        """
        loop = asyncio.get_running_loop()
        if kind not in self._failures and len(self._failures) >= self._max_kinds:
            kind = None
        failure = self._failures.get(kind)
        if failure is None or failure.loop is not loop:
            self._logger.log(level, "%s", text, exc_info=error, extra=extra)
            timer = loop.call_later(self._report_seconds, self._report, kind)
            self._failures[kind] = _Failure(level, text, ends_when_quiet, loop, timer)
        else:
            failure.total += 1
            failure.unreported += 1
            failure.text = text

    def goes_on(self, kind: Hashable) -> bool:
        """Whether a failure has begun and not ended."""
        return kind in self._failures

    def succeeded(self, kind: Hashable) -> None:
        """End a continuing failure, if any."""
        failure = self._failures.pop(kind, None)
        if failure is not None:
            failure.timer.cancel()
            self._log_end(failure)

    def _report(self, kind: Hashable) -> None:
        failure = self._failures[kind]
        if failure.unreported:
            seconds, count = self._report_seconds, failure.unreported
            text = "%s (%s more times within %g seconds)"
            self._logger.log(failure.level, text, failure.text, count, seconds)
            failure.unreported = 0
        elif failure.ends_when_quiet:
            del self._failures[kind]
            if failure.total > 1:
                self._log_end(failure)
            return
        failure.timer = failure.loop.call_later(self._report_seconds, self._report, kind)

    def _log_end(self, failure: _Failure) -> None:
        level = min(failure.level, logging.WARNING)
        self._logger.log(level, "Ended after %s times: %s", failure.total, failure.text)
