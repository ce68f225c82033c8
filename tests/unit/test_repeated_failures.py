"""The log lines of a failure that repeats: one at its begin, one every ten seconds, one at its end."""

from __future__ import annotations

import asyncio
import logging

import pytest

from socketio_eventstore.core.repeated_failures import RepeatedFailures
from support.processes import DEADLINE

logger = logging.getLogger("failing")


@pytest.fixture
def failures() -> RepeatedFailures:
    return RepeatedFailures(logger, report_seconds=0.05)


async def test_begin_count_and_end(failures: RepeatedFailures, caplog: pytest.LogCaptureFixture) -> None:
    """A failure that repeats is logged at its begin, with a count, and at its end."""
    for number in range(1000):
        failures.failed("disk", f"The disk is full ({number}).")
    assert caplog.messages == ["The disk is full (0)."]
    async with asyncio.timeout(DEADLINE):
        while len(caplog.messages) < 3:  # noqa: ASYNC110 - a timer logs, and there is no event
            await asyncio.sleep(0.01)
    assert caplog.messages[1:] == [
        "The disk is full (999). (999 more times within 0.05 seconds)",
        "Ended after 1000 times: The disk is full (999).",
    ]
    failures.failed("disk", "The disk is full again.")
    assert caplog.messages[3:] == ["The disk is full again."]


async def test_single_failure_is_one_line(
    failures: RepeatedFailures, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure that happens once is one line, with its traceback."""
    failures.failed("handler", "The handler failed", error=ZeroDivisionError("by zero"))
    async with asyncio.timeout(DEADLINE):
        while failures._failures:  # noqa: ASYNC110 - a timer forgets it, and there is no event
            await asyncio.sleep(0.01)
    assert caplog.messages == ["The handler failed"]
    assert "ZeroDivisionError: by zero" in caplog.text


async def test_success_ends_a_failure(failures: RepeatedFailures, caplog: pytest.LogCaptureFixture) -> None:
    """A failure with a known end does not end while it is quiet."""
    failures.failed("lock", "The lock is taken.", ends_when_quiet=False)
    await asyncio.sleep(0.2)
    assert caplog.messages == ["The lock is taken."]
    failures.succeeded("lock")
    failures.succeeded("lock")
    assert caplog.messages[1:] == ["Ended after 1 times: The lock is taken."]


async def test_kinds_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Kinds of failures beyond the limit share their lines."""
    failures = RepeatedFailures(logging.getLogger("test"), max_kinds=3)
    for kind in range(100):
        failures.failed(kind, f"failure {kind}")
    assert caplog.messages == ["failure 0", "failure 1", "failure 2", "failure 3"]


def test_another_event_loop(failures: RepeatedFailures, caplog: pytest.LogCaptureFixture) -> None:
    """A failure on a second event loop begins anew: the timer of the first one is gone."""

    async def fail() -> None:
        failures.failed("kind", "failed")

    asyncio.run(fail())
    asyncio.run(fail())
    assert caplog.messages == ["failed", "failed"]
