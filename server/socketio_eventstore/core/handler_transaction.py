"""Handler transactions: the operations of a handler are stored in one transaction, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.operations import CloseRoom, JoinRoom, SessionOperation
from socketio_eventstore.core.sessions import Session


class Reservations:
    """The reservations for deferred operations of a handler, until the operations are stored or dropped."""

    def __init__(self) -> None:
        self._releases: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def keep(self, release: Callable[[], None]) -> None:
        """Call a function when the operations are stored or dropped."""
        self._releases.append(release)

    def release(self) -> None:
        """Call the functions. May be called again."""
        while self._releases:
            self._releases.pop()()


class HandlerTransaction:
    """The operations of one handler, deferred until the handler returns."""

    def __init__(self, only: Session | None, reservations: Reservations | None) -> None:
        self.operations: list[Operation] = []
        self.is_open = True
        self.reservations = reservations
        self._only = only

    def defers(self, operation: Operation) -> bool:
        """Whether the transaction defers an operation instead of submitting it."""
        if not self.is_open:
            return False
        if self._only is None:
            return True
        return isinstance(operation, SessionOperation) and operation.session is self._only

    def submitted(self, operation: Operation) -> None:
        """Take note of an operation that overtakes the deferred operations.

        After a room was closed for all sessions, no deferred operation may join the room.
        """
        if self.is_open and isinstance(operation, CloseRoom):
            closed = (operation.namespace, operation.room)
            self.operations[:] = [
                deferred
                for deferred in self.operations
                if not (
                    isinstance(deferred, JoinRoom) and (deferred.session.namespace, deferred.room) == closed
                )
            ]


_present: ContextVar[HandlerTransaction | None] = ContextVar("handler_transaction", default=None)


@contextmanager
def handler_transaction(
    only: Session | None = None, reservations: Reservations | None = None
) -> Iterator[list[Operation]]:
    """Defer the operations of this context; the caller submits the yielded list.

    With ``only``, just the changes of the given session are deferred. Operations of a task that outlives the
    block are submitted as usual. The caller releases ``reservations`` when the operations are stored.
    """
    transaction = HandlerTransaction(only, reservations)
    token = _present.set(transaction)
    try:
        yield transaction.operations
    finally:
        transaction.is_open = False
        _present.reset(token)


def submit_or_defer(queue: CommitQueue, operation: Operation) -> asyncio.Future[Any]:
    """Submit an operation, or defer it inside ``handler_transaction``; then the result is None.

    Raises as ``CommitQueue.submit``.
    """
    transaction = _present.get()
    if transaction is None:
        return queue.submit(operation)
    if not transaction.defers(operation):
        transaction.submitted(operation)
        return queue.submit(operation)
    transaction.operations.append(operation)
    deferred: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    deferred.set_result(None)
    return deferred


def is_deferred(operation: Operation) -> bool:
    """Whether ``submit_or_defer`` would defer the operation in this context."""
    transaction = _present.get()
    return transaction is not None and transaction.defers(operation)


def keep_until_stored(operation: Operation, release: Callable[[], None]) -> bool:
    """Call a function when a deferred operation of this context is stored or dropped.

    Return whether the operation would be deferred: the result of ``submit_or_defer`` then comes before the
    commit.
    """
    transaction = _present.get()
    if transaction is None or transaction.reservations is None or not transaction.defers(operation):
        return False
    transaction.reservations.keep(release)
    return True


def deferred_changes(session: Session) -> Iterator[SessionOperation | CloseRoom]:
    """Iterate over the deferred changes of a session in this context."""
    transaction = _present.get()
    if transaction is None or not transaction.is_open:
        return
    for operation in transaction.operations:
        match operation:
            case SessionOperation(session=changed) if changed is session:
                yield operation
            case CloseRoom(namespace=namespace) if namespace == session.namespace:
                yield operation
