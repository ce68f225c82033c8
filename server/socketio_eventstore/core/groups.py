"""Groups of operations, from the queue to the effect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.senders import Sender

BATCH_OPERATIONS = 1024
BATCH_BYTES = 8_000_000
"""Limits of one transaction. A larger transaction is not faster and delays the operations behind. A group is
never divided: a group beyond the limits is a separate batch."""


Group: TypeAlias = tuple[Sequence[Operation], "asyncio.Future[object] | None", int, Sender | None]
"""Operations to be stored together or not at all; the future for the result of the last operation, None
without a waiting caller; the weight in bytes; and the client as the sender, if any. A plain tuple takes a
fifth of the time of a named tuple."""


@dataclass(frozen=True, slots=True)
class Appended:
    """An appended batch of this node, before its effect."""

    own: int
    """The number of the call of ``Log.append``."""
    groups: Sequence[Group]
    counts: Sequence[int]
    """The number of changes of each operation."""
    pending: int
    """The number of pending changes in front of the operations' changes."""
    taken_effect: asyncio.Future[None]
    begun: float
    """The time of the append on the performance counter, in seconds."""


@dataclass(frozen=True, slots=True)
class Unsettled:
    """An unanswered batch at the end of this node's life, perhaps in the log."""

    appended: Appended
    place: asyncio.Future[int]
    """The future of ``Log.append``."""


def fail(groups: Iterable[Group], error: Exception) -> None:
    """Raise an error in all waiting callers."""
    for _, result, _, _ in groups:
        if result is not None and not result.done():
            result.set_exception(error)


def leave(groups: Iterable[Group]) -> None:
    """Subtract groups that do not wait any more from their senders."""
    senders: set[Sender] = set()
    for operations, _, size_bytes, sender in groups:
        if sender is not None:  # without a call for each event
            sender.waiting_operations -= len(operations)
            sender.waiting_bytes -= size_bytes
            senders.add(sender)
    for sender in senders:
        if sender.awaited is not None:
            sender.look_at_room()
