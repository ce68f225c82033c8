"""The changes as a caller appends them, and the batches as ``Log.batches`` gives them out to all nodes.

All records are immutable: the store writes a record as the caller submitted it. Times are seconds: wall-clock
times since the Unix epoch, uptimes on the uptime clock (see ``Batch.uptime``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from socketio_eventlog.events import Event
from socketio_eventlog.session_changes import (
    DataSaved,
    IdentityRevoked,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionAway,
    SessionBound,
    SessionClaimed,
    SessionEnded,
    SessionOpened,
    SessionResumed,
    TokenAccepted,
)


@dataclass(frozen=True, slots=True)
class EventHandled:
    """A client's event was handled exactly once; a repeated event receives the same acknowledgement.

    If the key is stored already, ``append`` fails with ConditionFailed and stores none of the changes: the
    emits of a second run of the handler must not stay.
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
    """The events right before this change were published together under an idempotency key.

    If the key is stored already, ``append`` fails with ConditionFailed and stores none of the changes.
    """

    publisher: str
    """The name of the publisher; publishers have separate keys."""
    key: str
    """The idempotency key."""
    digest: bytes
    """SHA-256 of the request: a repeat with another body is an error of the publisher."""
    events: int
    """The number of events."""


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node joined the log; the node of the batch. The node has no sessions yet."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The node of the batch is alive. The uptime clock runs while nodes write heartbeats."""

    applied: int
    """The number of the last batch with effect on the node."""
    floor: int
    """Each client connected to the node has received all events up to the floor. Sessions that were claimed
    on the node after ``applied`` do not count."""
    notes_position: bool = False
    """Whether the store notes the position and the uptime of the batch, for pruning by age."""


@dataclass(frozen=True, slots=True)
class NodeDied:
    """A node is gone: the sessions of the node are away, and later appends of the node fail.

    Without effect on another node that has written within ``log.LEASE_SECONDS`` of uptime; a node that leaves
    may declare its own death at any time.

    A session's ``confirmed`` rises to the node's last ``Heartbeat.floor``, if ``Heartbeat.applied`` was at
    least the batch of the session's claim. Without effect for an unknown node.
    """

    node: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """The events up to a sequence were deleted, with the memberships that ended before the rest."""

    through: int


@dataclass(frozen=True, slots=True)
class Redacted:
    """The name and the arguments of an event were replaced; recipients and offset stay.

    Clients without the event receive the replacement. Without effect on an absent event.
    """

    sequence: int
    name: str
    payload: str
    """As in ``Event``, without attachments."""


@dataclass(frozen=True, slots=True)
class Departed:
    """The disconnect handlers of a session have ended on the node of the batch, for claims up to ``claim``.

    Unstored, as the following changes are: only the batch contains the change, and a later node never sees
    the change.
    """

    namespace: str
    sid: str
    claim: int


@dataclass(frozen=True, slots=True)
class Volatile:
    """An event for the clients connected at present, on several nodes. Unstored."""

    event: Event


@dataclass(frozen=True, slots=True)
class Asked:
    """An event with acknowledgements from recipients on other nodes. Unstored."""

    request: int
    """The number of the request, counted by the node."""
    event: Event


@dataclass(frozen=True, slots=True)
class Answered:
    """A client has acknowledged the event of a request. Unstored."""

    node: str
    """The node of the request."""
    request: int
    arguments: str
    """The JSON array of the arguments; a binary argument is a placeholder, as in ``Event.payload``."""
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
    """A change at its place in the order, with the outcome from the store."""

    change: Change
    position: int
    """The sequence of the last event at the change. For an event: the event's own sequence."""
    took_effect: bool = True
    """False for a change with an unmet condition, such as the late change of a former claim."""
    claim: int = 0
    """The number of the claim, for SessionOpened and SessionClaimed."""


class Batch(NamedTuple):
    """Changes that a node appended together. Batches take effect in order, on every node."""

    number: int
    """The place of the batch in the order; consecutive."""
    node: str
    """The id of the appending node."""
    own: int | None
    """For a batch of the own node: the number of the call of ``append``, from 1, failed calls included.

    None for a batch of another node."""
    uptime: float
    """Seconds on the uptime clock. The clock starts at zero with the database and runs only while a node
    writes: a step counts at most two heartbeats. So neither a downtime nor a frozen process nor a jump of
    the wall clock expires a session."""
    changes: Sequence[Committed]
