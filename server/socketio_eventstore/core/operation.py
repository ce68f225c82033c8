"""The base classes of operations.

A stored operation asks for changes of the log, and knows what its submitter gets. The commit queue appends
the changes; they take effect when they come out of the log, as those of other nodes do (see ``effects``).
An unstored operation takes effect at its place between them. Operations know no event loop and never wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from socketio_eventlog.changes import Batch, Change, Committed
from socketio_eventlog.errors import StoreError
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.effects import take_effect


class Operation:
    """An entry of the commit queue: override ``changes``, or ``send`` for an unstored operation."""

    is_stored: ClassVar[bool] = True
    """Whether the operation has changes. An operation without changes need not wait."""
    changes_recipients: ClassVar[bool] = True
    """Whether a session may join, leave or change its state by the effect. The events before it then need a
    look-up of their own; else neighbours share one."""
    passes_full_queue: ClassVar[bool] = False
    """Whether the operation is taken although the queue is full: it makes room, or cannot be left out."""
    has_happened: ClassVar[bool] = False
    """Whether the changes describe the end of a connection or session, which no error can undo.

    When the store refuses such changes (SessionAway, SessionEnded), the commit queue writes them as soon as
    the store is back.
    """

    size_bytes: int = 0
    """The weight of the operation while the operation waits in the queue."""

    def changes(self) -> Sequence[Change]:
        """Return the changes to append, at least one if the operation is stored; asked for each append.

        Must not raise: an exception here would fail the whole batch.
        """
        return ()

    def apply(self, context: Context, batch: Batch, committed: Sequence[Committed]) -> object:
        """Let the changes of this operation take effect; return what the submitter gets.

        ``committed`` are the changes as they came out of the log. By default the submitter gets the result
        of the last effect.
        """
        result: object = None
        for change in committed:
            result = take_effect(context, batch, change)
        return result

    def outcome(self, context: Context, committed: Sequence[Committed]) -> object:
        """Return what the submitter gets when the changes are stored, and this life of the node is over.

        They have no effect here any more: the connections are closed. Raises StoreError.
        """
        return None

    def refused(self, context: Context, error: StoreError) -> None:
        """Take note that the changes could not be stored."""
        return

    def send(self, context: Context) -> object:
        """Take effect on connections, for an unstored operation; return what the submitter gets."""
        raise NotImplementedError


class UnstoredOperation(Operation):
    """Packets that are not stored, at one point of the order."""

    is_stored = False
