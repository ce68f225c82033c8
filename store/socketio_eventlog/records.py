"""The records that cross the border of the store: what is written, and what comes back.

None of them can change: what was handed to the store goes to disk as it was. Those that come with every
event are tuples, which are made in a third of the time that a frozen dataclass takes.
Times are seconds; wall-clock times count from the Unix epoch, service times from the first start
of this database and only while a server runs (see ``SessionAway``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

Room: TypeAlias = str | int
"""A room's name. python-socketio takes any hashable; a log can only keep what reads back the same."""


class Event(NamedTuple):
    """One emitted event, as it goes into the log."""

    namespace: str
    """The Socket.IO namespace, ``/`` being the main one."""
    name: str
    """The event's name, the first element of ``payload``, repeated for people who read the table."""
    payload: str
    """The JSON array of name and arguments as on the wire, without the offset; binary arguments are
    ``{"_placeholder":true,"num":i}`` (Socket.IO protocol, "Encoding of binary packets")."""
    attachments: tuple[bytes, ...]
    """The binary arguments that the placeholders stand for, by ``num``."""
    rooms: tuple[Room, ...] | None
    """The rooms it is addressed to (a sid is a room of its own), or None for the whole namespace."""
    skip: tuple[str, ...]
    """The sids that do not receive it."""
    emitted_at: float
    """Wall-clock time of the emit, in seconds."""

    @property
    def size_bytes(self) -> int:
        """What the event weighs in a replay: characters of payload plus bytes of attachments."""
        size = len(self.payload)
        return size + sum(map(len, self.attachments)) if self.attachments else size


class LoggedEvent(NamedTuple):
    """An event with its place in the log."""

    sequence: int
    event: Event


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A client was given a new session; it starts at the log's position at this point."""

    namespace: str
    sid: str
    pid_hash: bytes
    """SHA-256 of the private id; the pid itself is never stored."""
    former_offset: str | None
    """The offset that the client brought along from an earlier session. The client keeps sending it
    until it receives an event, so on a reconnection the same text means "nothing received yet"."""
    opened_at: float
    """Wall-clock time in seconds."""


@dataclass(frozen=True, slots=True)
class SessionResumed:
    """The client of an existing session is connected again."""

    namespace: str
    sid: str
    resumed_at: float
    """Wall-clock time in seconds."""


@dataclass(frozen=True, slots=True)
class SessionAway:
    """The transport of a session ended in a recoverable way."""

    namespace: str
    sid: str
    disconnected_at: float
    """Wall-clock time in seconds, for people."""
    away_since: float
    """Service time in seconds: a clock that runs only while a server runs and is not set by anybody,
    so neither a long downtime nor a jump of the wall clock expires a session."""
    confirmed: int
    """Every event up to this number is known to have reached the client."""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The session is over for good; nobody can recover it."""

    namespace: str
    sid: str


@dataclass(frozen=True, slots=True)
class DataSaved:
    """The handlers' data of a session was replaced."""

    namespace: str
    sid: str
    data: str
    """A JSON object."""


@dataclass(frozen=True, slots=True)
class SessionBound:
    """A session belongs to an identity from now on; nobody else may have it back."""

    namespace: str
    sid: str
    identity: str


@dataclass(frozen=True, slots=True)
class EventHandled:
    """A client's event was handled, once and for all; a repeat of it gets the same answer."""

    namespace: str
    name: str
    """The event's name."""
    identity: str
    """Who sent it; empty for a session that is bound to nobody."""
    key: str
    """The idempotency key that the client gave it."""
    acknowledgement: str
    """The JSON array of the acknowledgement's arguments."""
    handled_at: float
    """Service time in seconds (see ``SessionAway.away_since``)."""


@dataclass(frozen=True, slots=True)
class RoomJoined:
    """A session entered a room; it is a member for the events after this point."""

    namespace: str
    sid: str
    room: Room


@dataclass(frozen=True, slots=True)
class RoomLeft:
    """A session left a room; it was a member for the events up to this point."""

    namespace: str
    sid: str
    room: Room


@dataclass(frozen=True, slots=True)
class RoomClosed:
    """Whoever is in a room at this point leaves it, also who joined it in the same transaction."""

    namespace: str
    room: Room


Change: TypeAlias = (
    Event
    | SessionOpened
    | SessionResumed
    | SessionAway
    | SessionEnded
    | SessionBound
    | DataSaved
    | RoomJoined
    | RoomLeft
    | RoomClosed
    | EventHandled
)


@dataclass(frozen=True, slots=True)
class Membership:
    """A stretch of the log in which a session was a member of a room.

    A session that joined at position 5 and left at position 9 receives the room's events 6, 7, 8
    and 9: nothing from before it joined, and what was in flight when it left.
    """

    room: Room | None
    """None stands for the namespace itself: events that are addressed to everyone."""
    after: int
    """The log's position when the membership began; the events after it count."""
    through: int | None
    """The log's position when it ended; None while it lasts."""

    def covers(self, sequence: int) -> bool:
        """Whether the event with this number fell into the membership."""
        return self.after < sequence and (self.through is None or sequence <= self.through)


class Offset(NamedTuple):
    """A position in the log as one boot of the server knows it; its text is what clients call offset."""

    epoch: str
    """The random id of the server start during which it was given out."""
    sequence: int
    """Events up to and including this number lie before it."""

    def __str__(self) -> str:
        return f"{self.epoch}.{self.sequence}"


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session as the store has it when the server starts."""

    namespace: str
    sid: str
    pid_hash: bytes
    start: Offset
    """Where the session began. Its boot tells offsets of earlier boots from those of a lost future."""
    former_offset: str | None
    data: str
    """A JSON object."""
    away_since: float | None
    """Service time in seconds; None when a crash left the session open."""
    confirmed: int
    """Every event up to this number is known to have reached the client (at least the start's number)."""
    memberships: tuple[Membership, ...]
    """Rooms joined, and those left that may still matter; not the namespace nor the sid's own room."""
    identity: str | None = None
    """Who it belongs to, if it was bound."""


@dataclass(frozen=True, slots=True)
class Missed:
    """What a session has not received."""

    sequences: tuple[int, ...]
    """The numbers of the events, ascending, each once."""
    size_bytes: int
    """Their weight together, as ``Event.size_bytes`` counts."""
