"""Collecting the turns of a handler, so that all of them are stored in one transaction, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from socketio_eventstore.core.commit_queue import Dispatcher, Operation
from socketio_eventstore.core.operations import CloseRoom, JoinRoom, SessionOperation
from socketio_eventstore.core.sessions import Session


class HandlerTransaction:
    """The turns that a handler has asked for while it ran."""

    def __init__(self, only: Session | None) -> None:
        self.operations: list[Operation] = []
        self.is_open = True
        self._only = only

    def takes(self, operation: Operation) -> bool:
        """Whether a turn belongs in here."""
        if not self.is_open:
            return False
        return self._only is None or (
            isinstance(operation, SessionOperation) and operation.session is self._only
        )

    def hear_of(self, operation: Operation) -> None:
        """What is not collected overtakes what is: nobody may join a room after it was closed for all."""
        if self.is_open and isinstance(operation, CloseRoom):
            closed = (operation.namespace, operation.room)
            self.operations[:] = [
                t
                for t in self.operations
                if not (isinstance(t, JoinRoom) and (t.session.namespace, t.room) == closed)
            ]


_present: ContextVar[HandlerTransaction | None] = ContextVar("collection", default=None)


@contextmanager
def handler_transaction(only: Session | None = None) -> Iterator[list[Operation]]:
    """Collect what is asked for in this context instead of submitting it; the caller submits the list.

    With ``only`` just the changes of that session are collected. What a task does that outlives the
    block is submitted as ever.
    """
    collection = HandlerTransaction(only)
    token = _present.set(collection)
    try:
        yield collection.operations
    finally:
        collection.is_open = False
        _present.reset(token)


def submit_or_defer(dispatcher: Dispatcher, operation: Operation) -> asyncio.Future[object]:
    """Submit a turn; inside ``collecting`` keep it for later, and give None. Raises as ``submit``."""
    collection = _present.get()
    if collection is None:
        return dispatcher.submit(operation)
    if not collection.takes(operation):
        collection.hear_of(operation)
        return dispatcher.submit(operation)
    collection.operations.append(operation)
    kept: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    kept.set_result(None)
    return kept


def is_deferred(operation: Operation) -> bool:
    """Whether the turn would be collected here instead of being submitted."""
    collection = _present.get()
    return collection is not None and collection.takes(operation)


def deferred_changes(session: Session) -> Iterator[SessionOperation | CloseRoom]:
    """The changes of a session that this context has collected and that have not taken effect."""
    collection = _present.get()
    for operation in collection.operations if collection is not None and collection.is_open else ():
        match operation:
            case SessionOperation(session=whose) if whose is session:
                yield operation
            case CloseRoom(namespace=where) if where == session.namespace:
                yield operation
