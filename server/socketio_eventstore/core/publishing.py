"""The operation of a publisher outside of the handlers: several events, stored together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from socketio_eventlog.changes import Batch, Change, Committed, Published
from socketio_eventlog.events import Event, Publication
from socketio_eventlog.offsets import parse
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.effects import emitted
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.operations import offset_of


@dataclass(eq=False)
class Publish(Operation):
    """Events stored in one batch, with the idempotency key of the publisher, if any.

    The result is the offset of the last event (see ``offsets_of``), None without recovery.
    """

    changes_recipients = False
    events: Sequence[Event]
    published: Published | None = None

    def __post_init__(self) -> None:
        self.size_bytes = sum(event.weight_bytes for event in self.events)

    def changes(self) -> Sequence[Change]:
        return self.events if self.published is None else (*self.events, self.published)

    def apply(self, context: Context, batch: Batch, committed: Sequence[Committed]) -> str | None:
        offset = None
        for change in committed[: len(self.events)]:
            offset = emitted(context, batch, change)
        return offset

    def outcome(self, context: Context, committed: Sequence[Committed]) -> str | None:
        return offset_of(context, committed[len(self.events) - 1].position)


def offsets_of(events: int, last: object) -> list[str | None]:
    """Return the offsets of events that were published together, from the last offset."""
    if not isinstance(last, str):
        return [None] * events
    return list(Publication(b"", parse(last), events).offsets)
