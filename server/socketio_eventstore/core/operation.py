"""The base classes of operations.

A stored operation has changes for the log, and a result for the submitter. The commit queue appends the
changes, which take effect when they come out of the log, as changes of other nodes do (see ``effects``). An
unstored operation takes effect at its place in between. Operations use no event loop and never wait.
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
    """Whether a session may join, leave or change state by the effect. The events before then need a separate
    look-up of recipients; otherwise neighbours share a look-up."""
    passes_full_queue: ClassVar[bool] = False
    """Whether a full queue accepts the operation: the operation makes room, or cannot be left out."""
    has_happened: ClassVar[bool] = False
    """Whether the changes describe the end of a connection or session, which stays true after an error.

    When the store refuses such changes (SessionAway, SessionEnded), the commit queue writes them as soon as
    the store is back.
    """

    size_bytes: int = 0
    """The weight of the operation while the operation waits in the queue."""

    def changes(self) -> Sequence[Change]:
        """Return the changes to append, at least one for a stored operation; called for each append.

        Must not raise: an exception here would fail the whole batch.
        """
        return ()

    def apply(self, context: Context, batch: Batch, committed: Sequence[Committed]) -> object:
        """Let the changes of the operation take effect; return the result for the submitter.

        ``committed`` are the changes out of the log. By default the submitter gets the result of the last
        effect.
        """
        result: object = None
        for change in committed:
            result = take_effect(context, batch, change)
        return result

    def outcome(self, context: Context, committed: Sequence[Committed]) -> object:
        """Return the result for the submitter when the changes are stored after this life of the node.

        The changes have no effect here any more: the connections are closed. Raises StoreError.
        """
        return None

    def refused(self, context: Context, error: StoreError) -> None:
        """Take note that the changes could not be stored."""
        return

    def send(self, context: Context) -> object:
        """Take effect on connections, for an unstored operation; return the result for the submitter."""
        raise NotImplementedError


class UnstoredOperation(Operation):
    """Unstored packets, at a point of the order."""

    is_stored = False
