from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from socketio_eventlog.changes import Change
from socketio_eventlog.segment import SEGMENT_LENGTH
from socketio_eventlog.session_changes import RoomLeft
from support.storing import append, event, opened

LEAST_LISTS = 256
"""The lists of a segment that a commit without events writes."""


async def test_changes_of_sessions_write_few_lists(path: Path) -> None:
    """A commit of many changes of sessions writes no more of a segment than a commit of one change."""
    direct = [event(rooms=(f"room {number}",)) for number in range(SEGMENT_LENGTH)]
    left: Sequence[Change] = [RoomLeft("/", "unknown", "room")] * 1000
    async with opened(path) as log:
        await append(log, direct)  # sequences begin at 1, so that the last ones complete the segment
        (segment,) = log._index._unwritten()
        assert segment.lists_written == 0 and len(segment.lists) > 2 * LEAST_LISTS
        await append(log, left)
        assert segment.lists_written == LEAST_LISTS
