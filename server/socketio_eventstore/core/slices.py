"""Long looks at all sessions, in parts between which the event loop serves others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

SLICE_LENGTH: Final = 500
"""The number of items of one part. A look at a session takes about 1 µs, so all others wait for 0.5 ms."""


async def in_slices(items: Iterable[T], length: int = SLICE_LENGTH) -> AsyncIterator[list[T]]:
    """Yield parts of the items as they are now, and let the event loop run before each part but the first.

    The items are copied in one step, because they may change between two parts: up to 11 ms for 100,000
    sessions, whose counters of references the copy has to touch.
    """
    snapshot = list(items)
    for start in range(0, len(snapshot), length):
        if start:
            await asyncio.sleep(0)
        yield snapshot[start : start + length]
