"""The state at one point of the order, from which a node begins. All records are immutable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from socketio_eventlog.events import Offset, Room


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
    behind: int = field(default=0, compare=False)
    """How many batches before that heartbeat it had not applied; 0 until a heartbeat after the snapshot."""


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
