"""Events, places of events in the log, and the missed events of a session.

The records of every event are tuples: a tuple is made in a third of the time of a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

Room: TypeAlias = str | int
"""A room's name. python-socketio takes any hashable; a log can keep only a type which reads back equal."""


NAME_BYTES: Final = 200
"""The memory of a room or sid beside an event: the text, and an entry of the index."""


class Event(NamedTuple):
    """An emitted event, as a change for a commit."""

    namespace: str
    """The Socket.IO namespace; ``/`` is the main namespace."""
    name: str
    """The event's name, the first element of ``payload``, repeated for readers of the table."""
    payload: str
    """The JSON array of name and arguments as on the wire, without the offset; a binary argument is
    ``{"_placeholder":true,"num":i}`` (Socket.IO protocol, "Encoding of binary packets")."""
    attachments: tuple[bytes, ...]
    """The binary arguments in place of the placeholders, by ``num``."""
    rooms: tuple[Room, ...] | None
    """The addressed rooms (each sid is a room, too); None addresses the whole namespace."""
    skip: tuple[str, ...]
    """The sids of sessions excluded from delivery."""
    emitted_at: float
    """Wall-clock time of the emit, in seconds."""

    @property
    def size_bytes(self) -> int:
        """The event's size in a replay: characters of payload plus bytes of attachments."""
        size = len(self.payload)
        return size + sum(map(len, self.attachments)) if self.attachments else size

    @property
    def weight_bytes(self) -> int:
        """The event's size in memory: ``size_bytes``, and NAME_BYTES for each room and skipped sid."""
        names = len(self.skip) + (0 if self.rooms is None else len(self.rooms))
        if names < 2 and not self.attachments:
            return len(self.payload)
        return self.size_bytes + names * NAME_BYTES if names > 1 else self.size_bytes


class LoggedEvent(NamedTuple):
    """An event and the event's sequence."""

    sequence: int
    event: Event


class Offset(NamedTuple):
    """A point of the log in the history of an epoch; clients see the text ``epoch.sequence``."""

    epoch: str
    """The random id of a life of the server's process (``boots.boot``); on PostgreSQL, of an epoch, which
    begins wherever history may have been lost (``epochs.epoch``)."""
    sequence: int
    """The sequence of the last event before the point."""

    def __str__(self) -> str:
        return f"{self.epoch}.{self.sequence}"


class Publication(NamedTuple):
    """The record of a publisher's idempotency key (see ``Published``)."""

    digest: bytes
    last: Offset
    """The offset of the last event."""
    events: int

    @property
    def offsets(self) -> tuple[str, ...]:
        """The offsets of the events, whose sequences are consecutive."""
        first = self.last.sequence - self.events + 1
        return tuple(str(Offset(self.last.epoch, first + number)) for number in range(self.events))


@dataclass(frozen=True, slots=True)
class Missed:
    """The missed events of a session."""

    sequences: tuple[int, ...]
    """The sequences of the events, ascending, each once."""
    size_bytes: int
    """The total of ``Event.size_bytes``."""


@dataclass(frozen=True, slots=True)
class MissedSummary:
    """The missed events of a session, in numbers."""

    ranges: tuple[tuple[int, int], ...]
    """Ranges of the log with the events, ascending. A range begins and ends with a missed event."""
    exceeds: bool
    """Whether the events are more, or larger, than the limits of the question."""
    is_incomplete: bool = False
    """Whether an event is lost, or an event's row was changed through SQL."""
    at_most: int = 0
    """An upper bound of the number of events: an event to several rooms may count once a room."""
