"""The state with which a node begins, at a point of the order. All records are immutable."""

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
    """A session in a snapshot."""

    namespace: str
    sid: str
    pid_hash: bytes
    start: Offset
    """The beginning of the session. The epoch tells offsets of earlier epochs from a lost future."""
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
    """See ``SessionOpened``; None for a session from before the field existed."""
    left_by_client: bool = False
    """See ``SessionAway``."""
    token_expires_at: float | None = None
    """See ``TokenAccepted``."""
    token_rooms: tuple[Room, ...] | None = None
    """See ``TokenAccepted``; None for a session without a token."""
    claim: int = 1
    """The number of claims so far."""
    claimed_in: int = 0
    """The number of the batch with the last claim; 0 for a claim older than all batches of living nodes."""
    node: str | None = None
    """The node of the session, from a client's connection on; None while no node has the session."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A living node, from the node's last heartbeat."""

    node: str
    """A random id of a life of a process."""
    alive: float
    """The uptime of the last heartbeat, in seconds."""
    applied: int
    """See ``Heartbeat``."""
    floor: int
    """See ``Heartbeat``."""
    behind: int = field(default=0, compare=False)
    """The number of batches not applied at the last heartbeat; 0 until a heartbeat after the snapshot."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state with which a node begins, at a point of the order; ``batches`` continues from there."""

    batch: int
    """The number of the last batch in the snapshot."""
    position: int
    """The sequence of the last event."""
    uptime: float
    """The uptime clock, in seconds."""
    nodes: tuple[NodeRecord, ...]
    """The living nodes, in the order of joining, the own node included."""
    positions: tuple[tuple[float, int], ...]
    """Noted positions, ascending: uptime, and sequence of the last event at the time."""
    sessions: tuple[StoredSession, ...]
    """All sessions, in the order of opening. The sessions of dead nodes are away."""
