"""Summaries of missed events agree with the lists of them, wherever the index is."""

from __future__ import annotations

from pathlib import Path

import pytest

from socketio_eventlog.changes import Pruned
from socketio_eventlog.missed_summary import summary_of
from socketio_eventlog.segment import SEGMENT_LENGTH
from socketio_eventlog.snapshot import Membership
from support.storing import commit, event, opened, sqlite

MEMBERSHIPS = [Membership("a", 50, None), Membership("b", 0, 6000), Membership("c", 7000, 7100)]
EVENTS = 2 * SEGMENT_LENGTH + 500


@pytest.mark.parametrize("index_memory", [1, 64_000_000], ids=["on disk", "in memory"])
@pytest.mark.parametrize("statement", ["", "UPDATE index_lists SET size_bytes = NULL"], ids=["new", "old"])
async def test_a_summary_agrees_with_the_list(path: Path, index_memory: int, statement: str) -> None:
    """The lists have the right totals: in memory, on disk, and from before totals were stored."""
    async with opened(path) as log:
        events = [
            event("x" * (n % 50), rooms=("a", "b") if n % 5 == 0 else ("abc"[n % 3],)) for n in range(EVENTS)
        ]
        for start in range(0, EVENTS, 500):
            await commit(log, events[start : start + 500])
        for _ in range(40):
            await commit(log, [event(rooms=("other",))])
    if statement:
        sqlite(path, statement)
    async with opened(path, index_memory=index_memory) as log:
        await commit(log, [event(rooms=("c",)), Pruned(1000)])
        for after, through in [(0, log.head), (1500, 6500), (5000, 7050), (log.head - 100, log.head)]:
            missed = await log.missed("/", MEMBERSHIPS, after, through)
            events_found, size_bytes = len(missed.sequences), missed.size_bytes
            for limits in [
                (events_found, size_bytes),
                (events_found - 1, size_bytes),
                (events_found, size_bytes - 1),
            ]:
                found = await log.summarise_missed(
                    "/", MEMBERSHIPS, after, through, max_events=limits[0], max_bytes=limits[1]
                )
                assert found.exceeds is summary_of(missed, *limits).exceeds
                ends = [end for range_ in found.ranges for end in range_]
                assert (ends[:1], ends[-1:]) == ([*missed.sequences[:1]], [*missed.sequences[-1:]])


async def test_a_limited_search_reads_no_more(path: Path) -> None:
    """A search with a limit gives the first events, also from segments on disk."""
    async with opened(path, index_memory=1) as log:
        for _ in range(20):
            await commit(log, [event()] * 1000)
        everything = [Membership(None, 0, None)]
        found = await log.missed("/", everything, 10, log.head, at_most=5000)
        assert found.sequences == tuple(range(11, 5012))
