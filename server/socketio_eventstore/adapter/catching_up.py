"""Offsets of events from other nodes, which this node may not have applied yet."""

from __future__ import annotations

from socketio_eventlog.errors import OffsetMalformed, OffsetRefused
from socketio_eventstore.core.operations import CatchUp
from socketio_eventstore.core.runtime import Runtime


async def catch_up(runtime: Runtime) -> bool:
    """Apply all changes of other nodes up to now; return whether there are other nodes.

    Raises StoreError.
    """
    if not runtime.context.nodes.others:
        return False
    await runtime.queue.submit(CatchUp())
    return True


async def locate(runtime: Runtime, offset: str) -> int:
    """Return the sequence of an offset. Raises OffsetRefused, StoreError.

    A program may send the offset from one node to another node that is a few milliseconds behind. So only an
    offset that is unknown after a catch-up is refused.
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
