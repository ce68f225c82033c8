"""Collecting the turns of a handler, so that all of them are stored in one transaction, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from socketio_eventstore.core.commit_queue import Dispatcher, Turn
from socketio_eventstore.core.operations import CloseRoom, Join, SessionTurn
from socketio_eventstore.core.sessions import Session


class Collection:
    """The turns that a handler has asked for while it ran."""

    def __init__(self, only: Session | None) -> None:
        self.turns: list[Turn] = []
        self.is_open = True
        self._only = only

    def takes(self, turn: Turn) -> bool:
        """Whether a turn belongs in here."""
        if not self.is_open:
            return False
        return self._only is None or (isinstance(turn, SessionTurn) and turn.session is self._only)

    def hear_of(self, turn: Turn) -> None:
        """What is not collected overtakes what is: nobody may join a room after it was closed for all."""
        if self.is_open and isinstance(turn, CloseRoom):
            closed = (turn.namespace, turn.room)
            self.turns[:] = [
                t for t in self.turns if not (isinstance(t, Join) and (t.session.namespace, t.room) == closed)
            ]


_present: ContextVar[Collection | None] = ContextVar("collection", default=None)


@contextmanager
def collecting(only: Session | None = None) -> Iterator[list[Turn]]:
    """Collect what is asked for in this context instead of submitting it; the caller submits the list.

    With ``only`` just the changes of that session are collected. What a task does that outlives the
    block is submitted as ever.
    """
    collection = Collection(only)
    token = _present.set(collection)
    try:
        yield collection.turns
    finally:
        collection.is_open = False
        _present.reset(token)


def submit_or_collect(dispatcher: Dispatcher, turn: Turn) -> asyncio.Future[object]:
    """Submit a turn; inside ``collecting`` keep it for later, and give None. Raises as ``submit``."""
    collection = _present.get()
    if collection is None:
        return dispatcher.submit(turn)
    if not collection.takes(turn):
        collection.hear_of(turn)
        return dispatcher.submit(turn)
    collection.turns.append(turn)
    kept: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    kept.set_result(None)
    return kept


def collects(turn: Turn) -> bool:
    """Whether the turn would be collected here instead of being submitted."""
    collection = _present.get()
    return collection is not None and collection.takes(turn)


def collected(session: Session) -> Iterator[SessionTurn | CloseRoom]:
    """The changes of a session that this context has collected and that have not taken effect."""
    collection = _present.get()
    for turn in collection.turns if collection is not None and collection.is_open else ():
        match turn:
            case SessionTurn(session=whose) if whose is session:
                yield turn
            case CloseRoom(namespace=where) if where == session.namespace:
                yield turn
