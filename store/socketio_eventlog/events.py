"""Events, their places in the log, and what a session has missed of them.

The records of every event are tuples: a tuple is made in a third of the time of a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

Room: TypeAlias = str | int
"""A room's name. python-socketio takes any hashable; a log can keep only a type which reads back equal."""


NAME_BYTES: Final = 200
"""What a room or sid takes in memory beside an event: the text, and an entry of the index."""


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
        """The event's size in memory: ``size_bytes``, and what the addressed rooms and skipped sids take."""
        names = len(self.skip) + (0 if self.rooms is None else len(self.rooms))
        if names < 2 and not self.attachments:
            return len(self.payload)
        return self.size_bytes + names * NAME_BYTES if names > 1 else self.size_bytes


class LoggedEvent(NamedTuple):
    """An event with its sequence."""

    sequence: int
    event: Event


class Offset(NamedTuple):
    """A point of the log in the history of one epoch; clients see the text ``epoch.sequence``."""

    epoch: str
    """The random id of a life of the server's process (``boots.boot``); on PostgreSQL, of an epoch, which
    begins wherever history may have been lost (``epochs.epoch``)."""
    sequence: int
    """The sequence of the last event before the point."""

    def __str__(self) -> str:
        return f"{self.epoch}.{self.sequence}"


class Publication(NamedTuple):
    """What the log keeps about an idempotency key of a publisher (see ``Published``)."""

    digest: bytes
    last: Offset
    """The offset of the last event."""
    events: int

    @property
    def offsets(self) -> tuple[str, ...]:
        """The offsets of the events: events that are appended together have consecutive sequences."""
        first = self.last.sequence - self.events + 1
        return tuple(str(Offset(self.last.epoch, first + number)) for number in range(self.events))


@dataclass(frozen=True, slots=True)
class Missed:
    """The events that a session has not received."""

    sequences: tuple[int, ...]
    """The sequences of the events, ascending, each once."""
    size_bytes: int
    """The total of ``Event.size_bytes``."""


@dataclass(frozen=True, slots=True)
class MissedSummary:
    """The events that a session has not received, in numbers."""

    ranges: tuple[tuple[int, int], ...]
    """Ranges of the log, ascending, that hold the events: each begins and ends with one of the events."""
    exceeds: bool
    """Whether the events are more, or larger, than the limits of the question."""
    is_incomplete: bool = False
    """Whether the log has lost one of the events, or its row was changed through SQL."""
    at_most: int = 0
    """The number of the events, at most: one to several rooms of the session may count for each of them."""
