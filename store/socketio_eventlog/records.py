"""The records of the store's interface: changes, the batches of the log, and the results of reads.

All records are immutable: the store writes a record as the caller submitted the record. The records of
every event are tuples: a tuple is made in a third of the time of a frozen dataclass. Times are seconds:
wall-clock times since the Unix epoch, uptimes on the uptime clock (see ``Batch.uptime``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
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


class RefusedRecovery(NamedTuple):
    """The session that a client asked for, and did not get back."""

    result: str
    """Why not; one of the results of a recovery."""
    sid: str | None = None
    """The session in the same namespace, if the server knows it."""
    pid_hash: bytes | None = None
    """SHA-256 of the private id that the client named: the log may know the session by it after its end."""


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A client received a new session. The session starts at the head of the log at this change.

    The node of the batch has the session, under claim 1.
    """

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
    instead_of: RefusedRecovery | None = None
    """For the histories of both sessions; None for a client that named no session."""


@dataclass(frozen=True, slots=True)
class SessionClaimed:
    """A returning client connected; the node of the batch has the session from here on.

    The store counts the claims of a session and gives the number out (``Committed.claim``): a fencing token.
    The last claim wins. Changes that name an earlier claim have no effect any more. A session that was
    connected counts as away from this change on; ``away_since`` of a session that is away stays, so a
    series of claims keeps no session alive. Without effect when the session has ended.
    """

    namespace: str
    sid: str


@dataclass(frozen=True, slots=True)
class SessionResumed:
    """The connect handler accepted the client that made the claim: the session is not away any more.

    Without effect, ``deferred`` included, when another claim or the session's end came between.
    """

    namespace: str
    sid: str
    claim: int
    resumed_at: float
    """Wall-clock time in seconds."""
    deferred: tuple[DataSaved | SessionBound | TokenAccepted | RoomJoined | RoomLeft, ...] = ()
    """Changes of the same session by the connect handler, which take effect with the acceptance."""
    missed: int = 0
    """The number of missed events, at most; for the history (see ``MissedSummary.at_most``)."""


@dataclass(frozen=True, slots=True)
class SessionAway:
    """No client has the session, which waits for the client's return.

    The transport ended in a way that is recoverable, or the claim was refused. Without effect when another
    claim or the session's end came between. ``away_since`` becomes the uptime of the batch, unless the
    session counts as away already.
    """

    namespace: str
    sid: str
    claim: int
    disconnected_at: float
    """Wall-clock time in seconds, for people."""
    confirmed: int
    """The confirmed sequence: the client has received every event up to the sequence."""
    left_by_client: bool = False
    """Whether the client itself called ``disconnect()``, perhaps to log in as another user. It stays true
    until a client resumes the session: a refused claim does not clear it."""
    reason: str = ""
    """Why the transport ended, for the history."""
    refusal: str | None = None
    """Why the claim was refused, for the history: one of the results of a recovery; None if it was not."""


class SessionEnd(Enum):
    """The reason for the end of a session."""

    TRANSPORT = "transport"
    """The transport ended in a way that is not recoverable."""
    REFUSED = "refused"
    """The connect handler refused a new session."""
    NEVER_ACCEPTED = "never_accepted"
    """The transport of a new session ended before the connect handler had decided."""
    DISCONNECTED = "disconnected"
    """The application disconnected the client, which receives a DISCONNECT packet."""
    REVOKED = "revoked"
    """The application revoked the session; the client's transport is closed, and the client may return."""
    EXPIRED = "expired"
    """The client did not return in time."""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The session ended for good and cannot be recovered."""

    namespace: str
    sid: str
    reason: SessionEnd
    claim: int | None = None
    """Without effect when another claim came between; None ends the session whatever its claim."""


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
class TokenAccepted:
    """The client of a session has shown a token, which is valid; the store has nothing else of the token."""

    namespace: str
    sid: str
    expires_at: float | None
    """The wall-clock time in seconds at which the token ends; None for a token without an end."""
    rooms: tuple[Room, ...]
    """The rooms that the token names. Their joins are changes of their own."""


@dataclass(frozen=True, slots=True)
class IdentityRevoked:
    """All sessions of an identity ended for good, in every namespace, also those bound just before."""

    identity: str


@dataclass(frozen=True, slots=True)
class EventHandled:
    """A client's event was handled exactly once; a repeated event receives the same acknowledgement.

    When the key is stored already, ``append`` fails with ConditionFailed, and nothing of its changes is
    stored: the emits of a second run of the handler must not stay.
    """

    namespace: str
    name: str
    """The event's name."""
    identity: str
    """The identity of the sender; empty for a session without an identity."""
    key: str
    """The idempotency key from the client."""
    acknowledgement: str
    """The JSON array of the acknowledgement's arguments."""


@dataclass(frozen=True, slots=True)
class Published:
    """The events right before this change were published together, under an idempotency key.

    When the key is stored already, ``append`` fails with ConditionFailed, and nothing of its changes is
    stored.
    """

    publisher: str
    """The name of the publisher; each publisher has its own keys."""
    key: str
    """The idempotency key."""
    digest: bytes
    """SHA-256 of the request: a repeat with another body is an error of the publisher."""
    events: int
    """The number of events."""


@dataclass(frozen=True, slots=True)
class RoomJoined:
    """A session joined a room; the membership covers the events after this change."""

    namespace: str
    sid: str
    room: Room


@dataclass(frozen=True, slots=True)
class RoomLeft:
    """A session left a room; the membership covers the events up to this change, or fewer."""

    namespace: str
    sid: str
    room: Room
    through: int | None = None
    """The sequence of the last event that the membership covers, which lies before this change; None for
    the last event before this change."""


@dataclass(frozen=True, slots=True)
class RoomClosed:
    """All members left a room, also members since an earlier change of the same transaction."""

    namespace: str
    room: Room


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node joined the log; the node of the batch. The node has no sessions yet."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The node of the batch is alive. The uptime clock runs while nodes write heartbeats."""

    applied: int
    """The number of the last batch that has taken effect on the node."""
    floor: int
    """Every client that is connected to the node has received all events up to this sequence, as far as
    the node knew its sessions at ``applied``."""
    notes_position: bool = False
    """Whether the store notes the position and the uptime of this batch, for pruning by age."""


@dataclass(frozen=True, slots=True)
class NodeDied:
    """A node is gone: the sessions of the node are away, and later appends of the node fail.

    Without effect for another node that has written within ``log.LEASE_SECONDS`` of uptime; a node may
    declare itself dead at any time, to leave.

    A session's ``confirmed`` rises to the node's last ``Heartbeat.floor``, if ``Heartbeat.applied`` was at
    least the batch of the session's claim. Without effect for an unknown node.
    """

    node: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """The events up to a sequence were deleted, with the memberships that ended before all events left."""

    through: int


@dataclass(frozen=True, slots=True)
class Redacted:
    """The name and the arguments of an event were replaced; who receives it, and its offset, stay.

    Whoever has not received the event yet receives the replacement. Without effect when there is no event.
    """

    sequence: int
    name: str
    payload: str
    """As in ``Event``, without attachments."""


@dataclass(frozen=True, slots=True)
class Departed:
    """The disconnect handlers of a session have ended on the node of the batch, for its claims up to one.

    Unstored, as the following changes are: only the batch has it, and a node that joins later never sees it.
    """

    namespace: str
    sid: str
    claim: int


@dataclass(frozen=True, slots=True)
class Volatile:
    """An event for those who are connected now, on several nodes. Unstored."""

    event: Event


@dataclass(frozen=True, slots=True)
class Asked:
    """An event whose recipients on other nodes are to acknowledge it. Unstored."""

    request: int
    """The number of the request; each node counts its own."""
    event: Event


@dataclass(frozen=True, slots=True)
class Answered:
    """A client has acknowledged the event of a request. Unstored."""

    node: str
    """The node that has asked."""
    request: int
    arguments: str
    """The JSON array of the arguments; a binary one is a placeholder as in ``Event.payload``."""
    attachments: tuple[bytes, ...] = ()


Change: TypeAlias = (
    Event
    | SessionOpened
    | SessionClaimed
    | SessionResumed
    | SessionAway
    | SessionEnded
    | SessionBound
    | TokenAccepted
    | IdentityRevoked
    | DataSaved
    | RoomJoined
    | RoomLeft
    | RoomClosed
    | EventHandled
    | Published
    | NodeJoined
    | Heartbeat
    | NodeDied
    | Pruned
    | Redacted
    | Departed
    | Volatile
    | Asked
    | Answered
)


class Committed(NamedTuple):
    """A change at its place in the order, with the outcome that the store decided there."""

    change: Change
    position: int
    """The sequence of the last event at this change: an event's own sequence."""
    took_effect: bool = True
    """False for a change whose condition did not hold at its place, such as a late word of a former claim."""
    claim: int = 0
    """The number of the claim, for SessionOpened and SessionClaimed."""


class Batch(NamedTuple):
    """Changes that one node appended together: what takes effect, everywhere, in the order of the batches."""

    number: int
    """The place of the batch in the order; consecutive."""
    node: str
    """The id of the node that appended the batch."""
    own: int | None
    """For a batch of this node: the number of the call of ``append``, from 1, failed calls included.

    None for a batch of another node."""
    uptime: float
    """Seconds on the uptime clock. The clock starts at zero with the database and runs only while a node
    writes: a step counts at most two heartbeats. So neither a downtime nor a frozen process nor a jump of
    the wall clock expires a session."""
    changes: Sequence[Committed]


class Membership(NamedTuple):
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
class StoredSession:
    """A session in the snapshot that a node begins with."""

    namespace: str
    sid: str
    pid_hash: bytes
    start: Offset
    """The beginning of the session. Its epoch tells offsets of earlier epochs from a lost future."""
    former_offset: str | None
    data: str
    """A JSON object."""
    away_since: float | None
    """The uptime since which no accepted client has the session; None for a connected session."""
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
    token_expires_at: float | None = None
    """See ``TokenAccepted``."""
    token_rooms: tuple[Room, ...] | None = None
    """See ``TokenAccepted``; None for a session without a token."""
    claim: int = 1
    """The number of claims so far."""
    claimed_in: int = 0
    """The number of the batch with the last claim; 0 when it is older than all batches of living nodes."""
    node: str | None = None
    """The node that has the session, since a client connected to it; None while no node has it."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node that is alive, by its last heartbeat."""

    node: str
    """A random id: one life of a process."""
    alive: float
    """The uptime in seconds of its last heartbeat."""
    applied: int
    """See ``Heartbeat``."""
    floor: int
    """See ``Heartbeat``."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state at one point of the order, from which a node begins; ``batches`` continue right after it."""

    batch: int
    """The number of the last batch in the snapshot."""
    position: int
    """The sequence of the last event."""
    uptime: float
    """The uptime clock, in seconds."""
    nodes: tuple[NodeRecord, ...]
    """The nodes that are alive, in the order in which they joined, this one included."""
    positions: tuple[tuple[float, int], ...]
    """Noted positions, ascending: each an uptime and the sequence of the last event at that time."""
    sessions: tuple[StoredSession, ...]
    """All sessions, in the order of their opening. The sessions of nodes that are gone are away."""


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
