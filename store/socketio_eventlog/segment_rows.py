"""The segments of the index in the rows of a store. No I/O."""

from __future__ import annotations

import json
import sys
from array import array

from socketio_eventlog.segment import Audience, EventList, Segment, SegmentChunk

# ``dumps`` takes ten times as long, since each call makes an encoder. A segment may have ten thousand lists.
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def audience_text(audience: Audience) -> str:
    """Return the JSON array of namespace and room."""
    namespace, room = audience
    return f"[{_json(namespace)},{_json(room)}]"


def lists_of(chunk: SegmentChunk) -> list[tuple[Audience, EventList]]:
    """Return the lists of a chunk, in the order of the primary key: each chunk touches pages of its own."""
    segment = chunk.segment
    if segment.write_order is None:
        segment.write_order = sorted(segment.lists, key=audience_text)
    return [(audience, segment.lists[audience]) for audience in segment.write_order[chunk.start : chunk.stop]]


def sizes_from_bytes(content: bytes) -> array[int]:
    """Return the sizes of a segment's events."""
    return _from_bytes("I", content)


def add_list(segment: Segment, audience: str, content: bytes, size_bytes: int | None) -> None:
    """Add a stored list to a segment; ``size_bytes`` is None for a row without the total."""
    namespace, room = json.loads(audience)
    remainders = _from_bytes("H", content)
    if size_bytes is None:
        size_bytes = sum(segment.sizes[remainder] for remainder in remainders)
    segment.add_list((namespace, room), EventList.of(remainders, size_bytes))


def to_bytes(numbers: array[int]) -> bytes:
    """Return the numbers in little-endian order."""
    if sys.byteorder == "little":
        return numbers.tobytes()
    swapped = numbers[:]
    swapped.byteswap()
    return swapped.tobytes()


def _from_bytes(typecode: str, content: bytes) -> array[int]:
    numbers: array[int] = array(typecode, content)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
