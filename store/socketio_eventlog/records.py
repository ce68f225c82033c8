"""The records of the store's interface: the changes for a commit, and the results of reads.

All records are immutable: the store writes a record as the caller submitted the record. The records of
every event are tuples: a tuple is made in a third of the time of a frozen dataclass. Times are seconds:
wall-clock times since the Unix epoch, uptimes on the uptime clock (see ``SessionAway.away_since``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

Room: TypeAlias = str | int
"""A room's name. python-socketio takes any hashable; a log can keep only a type which reads back equal."""


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


class LoggedEvent(NamedTuple):
    """An event with its sequence."""

    sequence: int
    event: Event


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A client received a new session. The session starts at the head of the log at this change."""

    namespace: str
    sid: str
    pid_hash: bytes
    """SHA-256 of the private id; the pid itself is never stored."""
    former_offset: str | None
    """The offset of the client from an earlier session. The client repeats the offset until an event
    arrives, so on a reconnection the same text means "nothing received yet"."""
    opened_at: float
    """Wall-clock time in seconds."""
    auth_hash: bytes | None = None
    """SHA-256 of the client's credentials, the pid included; the credentials themselves are never stored."""


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
    """Uptime in seconds. The uptime clock starts at zero with the database, runs only while a server
    runs, and cannot be set. So neither a long downtime nor a jump of the wall clock expires a session."""
    confirmed: int
    """The confirmed sequence: the client has received every event up to the sequence."""
    left_by_client: bool = False
    """Whether the client itself called ``disconnect()``, perhaps to log in as another user."""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The session ended for good and cannot be recovered."""

    namespace: str
    sid: str


@dataclass(frozen=True, slots=True)
class DataSaved:
    """The handlers replaced the data of a session."""

    namespace: str
    sid: str
    data: str
    """A JSON object."""


@dataclass(frozen=True, slots=True)
class SessionBound:
    """A session was bound to an identity; no other identity can recover the session."""

    namespace: str
    sid: str
    identity: str


@dataclass(frozen=True, slots=True)
class IdentityRevoked:
    """All sessions of an identity ended for good, in every namespace, also those bound just before."""

    identity: str


@dataclass(frozen=True, slots=True)
class EventHandled:
    """A client's event was handled exactly once; a repeated event receives the same acknowledgement."""

    namespace: str
    name: str
    """The event's name."""
    identity: str
    """The identity of the sender; empty for a session without an identity."""
    key: str
    """The idempotency key from the client."""
    acknowledgement: str
    """The JSON array of the acknowledgement's arguments."""
    handled_at: float
    """Uptime in seconds (see ``SessionAway.away_since``)."""


@dataclass(frozen=True, slots=True)
class RoomJoined:
    """A session joined a room; the membership covers the events after this change."""

    namespace: str
    sid: str
    room: Room


@dataclass(frozen=True, slots=True)
class RoomLeft:
    """A session left a room; the membership covers the events up to this change."""

    namespace: str
    sid: str
    room: Room


@dataclass(frozen=True, slots=True)
class RoomClosed:
    """All members left a room, also members since an earlier change of the same transaction."""

    namespace: str
    room: Room


Change: TypeAlias = (
    Event
    | SessionOpened
    | SessionResumed
    | SessionAway
    | SessionEnded
    | SessionBound
    | IdentityRevoked
    | DataSaved
    | RoomJoined
    | RoomLeft
    | RoomClosed
    | EventHandled
)


@dataclass(frozen=True, slots=True)
class Membership:
    """A range of the log in which a session was a member of a room.

    A session with a join at head 5 and a leave at head 9 receives the room's events 6, 7, 8 and 9:
    nothing from before the join, and everything in flight at the leave.
    """

    room: Room | None
    """None stands for the namespace itself: for events without addressed rooms."""
    after: int
    """The head at the beginning of the membership; later events are covered."""
    through: int | None
    """The head at the end of the membership; None for a membership without an end."""

    def covers(self, sequence: int) -> bool:
        """Return whether the event with the sequence fell into the membership."""
        return self.after < sequence and (self.through is None or sequence <= self.through)


class Offset(NamedTuple):
    """A point of the log in the history of one epoch; clients see the text ``epoch.sequence``."""

    epoch: str
    """The random id of a node, that is, of a life of the server's process (``boots.boot``)."""
    sequence: int
    """The sequence of the last event before the point."""

    def __str__(self) -> str:
        return f"{self.epoch}.{self.sequence}"


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session in the database at the start of the server."""

    namespace: str
    sid: str
    pid_hash: bytes
    start: Offset
    """The beginning of the session. Its epoch tells offsets of earlier epochs from a lost future."""
    former_offset: str | None
    data: str
    """A JSON object."""
    away_since: float | None
    """Uptime in seconds; None for a session without a disconnection before a crash."""
    confirmed: int
    """The confirmed sequence (see ``SessionAway``), at least the sequence of ``start``."""
    memberships: tuple[Membership, ...]
    """Joined rooms, and left rooms with events in the log; without the namespace and the sid's room."""
    identity: str | None = None
    """The identity of a bound session."""
    auth_hash: bytes | None = None
    """See ``SessionOpened``; None for a session from before this field."""
    left_by_client: bool = False
    """See ``SessionAway``."""


@dataclass(frozen=True, slots=True)
class Missed:
    """The events that a session has not received."""

    sequences: tuple[int, ...]
    """The sequences of the events, ascending, each once."""
    size_bytes: int
    """The total of ``Event.size_bytes``."""
