from __future__ import annotations

import asyncio

from socketio_eventstore.core.slices import in_slices


async def test_the_event_loop_runs_between_slices() -> None:
    """A long look at many items lets the event loop serve others; a short one does not wait."""
    rounds: list[int] = []
    asyncio.get_running_loop().call_soon(rounds.append, 1)
    assert [(part, len(rounds)) async for part in in_slices([1, 2], length=2)] == [([1, 2], 0)]
    assert [(part, len(rounds)) async for part in in_slices(range(5), length=2)] == [
        ([0, 1], 0),
        ([2, 3], 1),
        ([4], 1),
    ]


async def test_slices_are_of_the_items_at_the_start() -> None:
    """What is added or taken away between two slices changes nothing: sessions open and end meanwhile."""
    items = {1: "a", 2: "b", 3: "c"}
    seen = []
    async for part in in_slices(items, length=1):
        seen += part
        items.pop(2, None)
        items[len(items) + 10] = "d"
    assert seen == [1, 2, 3]
