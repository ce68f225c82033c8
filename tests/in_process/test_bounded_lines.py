"""Log lines about single clients: bounded in each second, and all of them at the level DEBUG."""

from __future__ import annotations

import logging

import pytest

from socketio_eventstore.core.bounded_lines import BoundedLines
from support.embedded import until

logger = logging.getLogger("a test")


def log_lines(lines: BoundedLines, count: int) -> None:
    for number in range(count):
        if lines.admit():
            logger.info("line %s", number)


async def test_lines_beyond_the_bound_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Of many lines within a second some are written, and one line counts the others."""
    caplog.set_level(logging.INFO)
    log_lines(BoundedLines(logger, "things", lines_per_second=2), 5)
    assert caplog.messages == ["line 0", "line 1"]
    await until(lambda: len(caplog.messages) > 2)
    assert caplog.messages[2:] == ["3 more things within a second"]
    assert caplog.records[2].left_out == 3  # type: ignore[attr-defined]


async def test_few_lines_are_written(caplog: pytest.LogCaptureFixture) -> None:
    """Lines within the bound need no count, and the next second has a bound of its own."""
    caplog.set_level(logging.INFO)
    lines = BoundedLines(logger, "things", lines_per_second=1)
    log_lines(lines, 1)
    await until(lambda: lines._loop is None)
    log_lines(lines, 1)
    assert caplog.messages == ["line 0", "line 0"]


async def test_debug_has_all_lines(caplog: pytest.LogCaptureFixture) -> None:
    """At the level DEBUG no line is left out, and at the level WARNING none is written."""
    lines = BoundedLines(logger, "things", lines_per_second=1)
    caplog.set_level(logging.DEBUG)
    log_lines(lines, 3)
    caplog.set_level(logging.WARNING)
    log_lines(lines, 3)
    assert caplog.messages == ["line 0", "line 1", "line 2"]
