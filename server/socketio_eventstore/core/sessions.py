"""Sessions in memory: identity, rooms, progress of the client, and the present connection.

Pure state without I/O and without an event loop. The store has the durable copy of a session. A change is
made here when the change comes out of the log (see ``effects``). Only the end of a connection counts at once:
the session is AWAY before the log has the change.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Any, Final

from socketio_eventlog.events import Event, Offset, Room
from socketio_eventlog.snapshot import Membership, StoredSession
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.suspicion import NO_SUSPICION, Suspicion


class State(Enum):
    """The state of a session."""

    __hash__ = object.__hash__  # Enum's own is a function of Python, and each transition looks a state up

    CONNECTING = auto()
    """Claimed by a connection and not accepted yet by the connect handler; nothing is written."""
    REPLAYING = auto()
    """Accepted; the missed events are sent, read from the log."""
    LIVE = auto()
    """Every event is sent as soon as the event takes effect."""
    AWAY = auto()
    """The transport is gone; the client may come back."""
    ELSEWHERE = auto()
    """Another node has the session."""
    ENDED = auto()
    """Over; the private id opens nothing any more."""


_WITHOUT_CONNECTION = {State.CONNECTING, State.AWAY, State.ELSEWHERE, State.ENDED}
_TRANSITIONS = {
    State.CONNECTING: {State.REPLAYING, *_WITHOUT_CONNECTION},
    State.REPLAYING: {State.LIVE, *_WITHOUT_CONNECTION},
    State.LIVE: _WITHOUT_CONNECTION,
    State.AWAY: _WITHOUT_CONNECTION,
    State.ELSEWHERE: _WITHOUT_CONNECTION,
    State.ENDED: set(),
}

CONNECTED = (State.REPLAYING, State.LIVE)
"""The states in which the client was accepted and is connected."""


class ClientConnection(ABC):
    """One Engine.IO connection, as the core uses it; several namespaces share it."""

    closed = False
    """Whether the connection has ended, or is about to."""

    def __init__(self, connection_id: str) -> None:
        self.id = connection_id
        self.closed_in_order = False
        """Whether the client closed the connection after all bytes had arrived; never known for polling."""
        self.takes_offsets = True
        """Whether events end in the offset; without offsets a client cannot recover a session."""
        self.sessions: dict[str, Session] = {}
        """The sessions on this connection, by namespace."""

    @abstractmethod
    def write(self, batch: Sequence[Frames]) -> None:
        """Hand over frames in order, without waiting. A closed connection drops the frames."""

    @abstractmethod
    def abort(self, reason: str) -> None:
        """End the transport at once, without a packet that would prevent the client's return."""

    @property
    @abstractmethod
    def unsent_bytes(self) -> int:
        """Bytes handed over and not sent yet."""

    def sessions_left(self) -> None:
        """Called after the last session was taken off the connection."""
        return

    def ping_written(self, position: int, now: float) -> None:
        """Record the position before a ping; ``now`` is the uptime in seconds.

        Engine.IO heartbeats are receipts: everything written before a ping has arrived when the pong comes
        (Engine.IO protocol 4, "Heartbeat"). Nothing is written for an unaccepted session.
        """
        for session in self.sessions.values():
            current = session.current
            if session.state is State.LIVE:
                current.pinged_position, current.pinged_at = position, now
            elif session.state is State.REPLAYING:
                current.pinged_position, current.pinged_at = current.sent, now

    def pong_received(self) -> None:
        """Confirm the positions of the last ping."""
        for session in self.sessions.values():
            session.confirm(session.current.pinged_position)
            session.pong_at = session.current.pinged_at


@dataclass(eq=False, slots=True)
class SessionConnection:
    """The part of a session that belongs to a connection; compared by identity."""

    connection: ClientConnection | None = None
    """None before the first connection, and after the session was taken off the connection."""
    claim: int = 0
    """The number of the connection's claim."""
    recovered: bool = False
    """Whether this connection recovered the session."""
    refusal: str | None = None
    """The reason for a new session instead of the requested session (see ``RecoveryResult``)."""
    authenticated_as: str | None = None
    """The identity bound by the connect handler of the connection."""
    claims: Mapping[str, Any] | None = None
    """The claims of the connection's token; None without a token."""
    expires_at: float | None = None
    """The wall-clock time in seconds at which the token and the connection end; None for never."""
    sent: int = 0
    """During a replay: events up to this sequence need not be sent (again)."""
    first_sent: int = 0
    """The first event sent by the replay; 0 for none."""
    replayed: int = 0
    """The number of events sent by the replay."""
    accepted_at: float = 0.0
    """The monotonic time in seconds at which the connection was accepted."""
    connected_at: float = 0.0
    """The wall-clock time in seconds at which the connection was accepted, for people; 0 before."""
    pinged_position: int = 0
    """The position confirmed by the outstanding heartbeat."""
    pinged_at: float = 0.0
    """The uptime in seconds at which the outstanding heartbeat was written."""
    deferred_packets: deque[tuple[int, Frames]] | None = None
    """Unstored packets with their positions in the replay; None before the first packet."""
    deferred_bytes: int = 0

    def is_over(self, now: float) -> bool:
        """Whether the token of the connection has ended; ``now`` is the wall-clock time in seconds."""
        return self.expires_at is not None and self.expires_at <= now


PID_HASH_BYTES: Final = 32
"""The length of a SHA-256. A session without private id has fewer random bytes in place of the hash."""

_MEMBERSHIP: Final[Callable[[tuple[Any, ...]], Membership]] = partial(tuple.__new__, Membership)
"""Makes a membership in C."""

NOT_CONNECTED: Final = SessionConnection()
"""The value for a session without any connection so far; shared, and never changed."""


@dataclass(eq=False, slots=True)
class Session:
    """One client in one namespace, over all connections of the client."""

    namespace: str
    sid: str
    pid_hash: bytes
    start: Offset
    """The position at which the session began."""
    former_offset: str | None = None
    """The offset of an earlier session, sent by the client until the first event."""
    identity: str | None = None
    """The identity to which the handlers have bound the session."""
    auth_hash: bytes | None = None
    """A hash of the credentials at the opening of the session; None for unknown credentials."""
    left_by_client: bool = False
    """Whether the client itself called ``disconnect()``, perhaps to log in as another user."""
    token_expires_at: float | None = None
    """The wall-clock time in seconds at which the client's last token ends; None without an end."""
    token_rooms: Sequence[Room] | None = None
    """The rooms in the client's last token; None for a session without a token."""
    data: str = "{}"
    """The saved data of the handlers, a JSON object."""
    saving: str | None = None
    """The last saved data, until the commit: handlers see their own changes at once."""
    state: State = State.CONNECTING
    current: SessionConnection = NOT_CONNECTED
    """The present connection, or the last connection while the client is away."""
    node: str | None = None
    """The node of the session, from a client's connection on; None while no node has the session."""
    claim: int = 1
    """The number of claims so far, which the store gives out: a fencing token."""
    claimed_in: int = 0
    """The number of the batch with the last claim."""
    claimed_here: int = 0
    """The last claim of this node; 0 after this node has promised to report the end of the handlers."""
    departing: tuple[tuple[str, int], ...] = ()
    """Other nodes with their last claims, until their reports that the handlers have ended.

    A dead node may be among these nodes."""
    superseded: tuple[ClientConnection, ...] = ()
    """Connections to this node that lost the session to an undecided claim."""
    joined: dict[Room, int] = field(default_factory=dict)
    """The rooms of the session, each with the position of the log at the join."""
    left: list[Membership] = field(default_factory=list)
    """Ended memberships that a replay may still need."""
    confirmed: int = 0
    """The confirmed position: events up to this sequence have reached the client."""
    pong_at: float = 0.0
    """The uptime in seconds at which the last answered heartbeat was written."""
    away_since: float | None = None
    """The uptime in seconds since which no accepted client has the session; None for a connected session.

    In the order of the log: the end of a transport counts from its place in the order.
    """
    suspected: Suspicion = NO_SUSPICION
    """The event on which the client may be closing its connections."""
    lacks: int = 0
    """An event that a replay did not find in the log; 0 for none."""
    running_disconnect_handlers: int = 0
    """Running or scheduled disconnect handlers, which can still ask for rooms and data."""
    disconnected_by_server: bool = False
    """Whether ``disconnect`` ended the session: the client then does not come back by itself."""

    @classmethod
    def restore(cls, stored: StoredSession) -> Session:
        """Make a session from a snapshot; a new node has no sessions of its own.

        A session without private id has ended with the transport.
        """
        is_recoverable = len(stored.pid_hash) == PID_HASH_BYTES or stored.node is not None
        return cls(
            namespace=stored.namespace,
            sid=stored.sid,
            pid_hash=stored.pid_hash,
            start=stored.start,
            former_offset=stored.former_offset,
            identity=stored.identity,
            auth_hash=stored.auth_hash,
            left_by_client=stored.left_by_client,
            token_expires_at=stored.token_expires_at,
            token_rooms=stored.token_rooms,
            data=stored.data,
            state=State.AWAY if stored.node is None else State.ELSEWHERE,
            node=stored.node,
            claim=stored.claim,
            claimed_in=stored.claimed_in,
            departing=() if stored.node is None else ((stored.node, stored.claim),),
            joined={m.room: m.after for m in stored.memberships if m.through is None and m.room is not None},
            left=[m for m in stored.memberships if m.through is not None],
            confirmed=stored.confirmed,
            away_since=stored.away_since if is_recoverable else -math.inf,
        )

    @property
    def is_connected(self) -> bool:
        """Whether the client was accepted and is connected."""
        return self.state in CONNECTED

    @property
    def is_elsewhere(self) -> bool:
        """Whether the client is accepted by and connected to another node, in the state of the log.

        A new session counts as accepted from the beginning.
        """
        return self.state is State.ELSEWHERE and self.away_since is None

    def is_claimed_by(self, attached: SessionConnection) -> bool:
        """Whether a connection holds the latest claim and the connect handler has not decided yet."""
        return self.current is attached and self.state is State.CONNECTING

    def move(self, state: State) -> None:
        """Enter another state. Raises RuntimeError for a forbidden transition."""
        if state not in _TRANSITIONS[self.state]:
            raise RuntimeError(f"session {self.sid} cannot go from {self.state.name} to {state.name}")
        self.state = state

    def attach(self, connection: ClientConnection, *, recovered: bool = False) -> SessionConnection:
        """Give the session to the connection of the last claim."""
        self.current = SessionConnection(
            connection,
            self.claim,
            recovered=recovered,
            sent=self.confirmed,
            pinged_position=self.confirmed,
            pinged_at=self.pong_at,
        )
        connection.sessions[self.namespace] = self
        return self.current

    def detach(self) -> ClientConnection | None:
        """Take the session off the connection, which falls silent for the namespace."""
        current = self.current
        connection = current.connection
        if connection is not None:
            current.connection = None
            current.deferred_packets, current.deferred_bytes = None, 0
            if connection.sessions.get(self.namespace) is self:
                del connection.sessions[self.namespace]
                if not connection.sessions:
                    connection.sessions_left()
        return connection

    def transport_closed(self, now: float) -> None:
        """Take note of the end of the transport, before ``detach``; ``now`` is monotonic, in seconds."""
        current = self.current
        if current.connection is None or not self.is_connected or not current.recovered:
            return
        is_receipt = current.first_sent <= self.confirmed
        if current.connection.closed_in_order and not is_receipt:
            seconds = now - current.accepted_at
            self.suspected = self.suspected.after_close(current.first_sent, seconds)
        else:
            self.suspected = NO_SUSPICION

    def confirm(self, sequence: int) -> None:
        """Record the confirmed position; forget older memberships."""
        if sequence > self.confirmed:
            self.confirmed = sequence
            if self.left:
                self.left = [m for m in self.left if m.through is None or m.through > sequence]

    def enter(self, room: Room, position: int) -> None:
        """Become a member of a room for the events after the position."""
        self.joined.setdefault(room, position)

    def leave(self, room: Room, position: int) -> None:
        """Stay a member of a room for the events up to the position only."""
        after = self.joined.pop(room, None)
        if after is not None and after < position:
            self.left.append(Membership(room, after, position))

    def memberships(self) -> list[Membership]:
        """Return all ranges of the log with events for the session."""
        start = self.start.sequence
        found: list[tuple[Room | None, int, int | None]] = [(None, start, None), (self.sid, start, None)]
        for room, after in self.joined.items():
            found.append((room, after, None))
        return [*map(_MEMBERSHIP, found), *self.left]

    def receives(self, event: Event, sequence: int) -> bool:
        """Whether a twin without disconnections was sent the event."""
        if event.namespace != self.namespace or self.sid in event.skip or sequence <= self.start.sequence:
            return False
        if event.rooms is None or self.sid in event.rooms:
            return True
        for room in event.rooms:
            after = self.joined.get(room)
            if after is not None and after < sequence:
                return True
        return any(stay.room in event.rooms and stay.covers(sequence) for stay in self.left)
