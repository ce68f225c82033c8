"""Offsets of events that other nodes have appended, and that this node may not have applied yet."""

from __future__ import annotations

from socketio_eventlog.errors import OffsetMalformed, OffsetRefused
from socketio_eventstore.core.operations import CatchUp
from socketio_eventstore.core.runtime import Runtime


async def catch_up(runtime: Runtime) -> bool:
    """Apply what other nodes have appended until now; return whether there are other nodes.

    Raises StoreError.
    """
    if not runtime.context.nodes.others:
        return False
    await runtime.queue.submit(CatchUp())
    return True


async def locate(runtime: Runtime, offset: str) -> int:
    """Return the sequence of an offset. Raises OffsetRefused, StoreError.

    Each node gives out offsets, and a program may show the offset of one node to another one that is a few
    milliseconds behind. So an offset is refused when it is not known after a catch-up, either.
    """
    try:
        sequence = runtime.log.locate(offset).sequence
    except OffsetMalformed:
        raise
    except OffsetRefused:
        pass
    else:
        if sequence <= runtime.context.position:
            return sequence
    await catch_up(runtime)
    return runtime.log.locate(offset).sequence
