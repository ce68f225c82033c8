"""Collecting the turns of a handler, so that all of them are stored in one transaction, or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from socketio_eventstore.server.dispatch import Dispatcher, Turn


class Collection:
    """The turns that a handler has asked for while it ran."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.is_open = True


_present: ContextVar[Collection | None] = ContextVar("collection", default=None)


@contextmanager
def collecting() -> Iterator[list[Turn]]:
    """Collect what is asked for in this context instead of submitting it; the caller submits the list.

    What a task does that outlives the block is submitted as ever.
    """
    collection = Collection()
    token = _present.set(collection)
    try:
        yield collection.turns
    finally:
        collection.is_open = False
        _present.reset(token)


async def submit_or_collect(dispatcher: Dispatcher, turn: Turn) -> object:
    """Submit a turn and wait for it; inside ``collecting`` keep it for later and return None."""
    collection = _present.get()
    if collection is not None and collection.is_open:
        collection.turns.append(turn)
        return None
    return await dispatcher.submit(turn)
