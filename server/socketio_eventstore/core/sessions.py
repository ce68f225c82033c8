"""The sessions in memory: who they are, which rooms they are in, how far they have got.

Pure state without I/O. It holds every session that is not over, connected or away, so that rooms can
be changed and events addressed while a client is gone. The store has the durable copy; a change is
made here when its turn was committed, in the order of the log.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from socketio_eventlog.records import Event, Membership, Offset, Room, StoredSession
from socketio_eventstore.core.packets import Frames


class State(Enum):
    """Where a session stands."""

    CONNECTING = auto()
    """Claimed by a connection whose connect handler has not accepted it yet; nothing is written."""
    REPLAYING = auto()
    """Accepted; it is sent what it missed, read from the log."""
    LIVE = auto()
    """It is sent every event at its turn."""
    AWAY = auto()
    """Its transport is gone; its owner may come back."""
    ENDED = auto()
    """Over; its pid opens nothing any more."""


_MOVES = {
    State.CONNECTING: {State.CONNECTING, State.REPLAYING, State.AWAY, State.ENDED},
    State.REPLAYING: {State.CONNECTING, State.LIVE, State.AWAY, State.ENDED},
    State.LIVE: {State.CONNECTING, State.AWAY, State.ENDED},
    State.AWAY: {State.CONNECTING, State.ENDED},
    State.ENDED: set(),
}


class ClientConnection(ABC):
    """One Engine.IO connection as the core sees it; several namespaces share it."""

    def __init__(self, connection_id: str) -> None:
        self.id = connection_id
        self.sessions: dict[str, Session] = {}
        """The sessions that it carries, by namespace."""

    @abstractmethod
    def write(self, batch: Sequence[Frames]) -> None:
        """Hand over frames in order, without waiting. A connection that is closed drops them."""

    @abstractmethod
    def abort(self, reason: str) -> None:
        """End the transport at once, without any packet that would keep the client from returning."""

    @property
    @abstractmethod
    def unsent_bytes(self) -> int:
        """What was handed over and has not left yet."""

    def ping_written(self, position: int, now: float) -> None:
        """Note what lies before a heartbeat in the connection's bytes; ``now`` is service time in seconds.

        Engine.IO heartbeats are receipts: what was written before a ping has arrived when its pong
        comes. A session that is not accepted yet was written nothing.
        """
        for session in self.sessions.values():
            if session.state is State.LIVE:
                session.pinged_position, session.pinged_at = position, now
            elif session.state is State.REPLAYING:
                session.pinged_position, session.pinged_at = session.sent, now

    def pong_received(self) -> None:
        """The client has answered the heartbeat."""
        for session in self.sessions.values():
            session.confirm(session.pinged_position)
            session.pong_at = session.pinged_at


@dataclass(eq=False, slots=True)
class Session:
    """One client in one namespace, over all its connections."""

    namespace: str
    sid: str
    pid_hash: bytes
    start: Offset
    former_offset: str | None = None
    identity: str | None = None
    """Who it belongs to, if the handlers have said so."""
    authenticated_as: str | None = None
    """Who the present connection is, as its connect handler has said."""
    data: str = "{}"
    """What the handlers saved, a JSON object."""
    saving: str | None = None
    """What was saved last, until it is on disk: the handlers see their own changes at once."""
    state: State = State.CONNECTING
    connection: ClientConnection | None = None
    superseded: list[ClientConnection] = field(default_factory=list)
    """Connections that lost it to the present one, which is not accepted yet."""
    claim: int = 0
    """Counts the connections that took the session over; a late word of an earlier one is ignored."""
    recovered: bool = False
    """Whether the present connection recovered the session."""
    joined: dict[Room, int] = field(default_factory=dict)
    """The rooms it is in, with the log's position at which it entered."""
    left: list[Membership] = field(default_factory=list)
    """Memberships that ended and may still be needed for a replay."""
    confirmed: int = 0
    """Events up to this number are known to have reached the client."""
    sent: int = 0
    """While it connects or replays: events up to this number need not be sent (again)."""
    pinged_position: int = 0
    """What will be confirmed when the outstanding heartbeat is answered."""
    pinged_at: float = 0.0
    """Service time in seconds at which that was written."""
    pong_at: float = 0.0
    """Service time in seconds at which the last heartbeat that it answered was written."""
    deferred_packets: list[tuple[int, Frames]] = field(default_factory=list)
    """Packets that are not in the log, with the position at which they belong into the replay."""
    deferred_bytes: int = 0
    away_since: float = 0.0
    """Service time in seconds at which it went away."""
    running_disconnect_handlers: int = 0
    """Disconnect handlers that are to run or running: meanwhile they can ask for its rooms and data."""
    disconnected_by_server: bool = False
    """Whether it ended by ``disconnect``, after which its client is not to come back by itself."""

    @classmethod
    def restore(cls, stored: StoredSession, away_since: float) -> Session:
        """The session as the database had it when the server started."""
        return cls(
            namespace=stored.namespace,
            sid=stored.sid,
            pid_hash=stored.pid_hash,
            start=stored.start,
            former_offset=stored.former_offset,
            identity=stored.identity,
            data=stored.data,
            state=State.AWAY,
            joined={m.room: m.after for m in stored.memberships if m.through is None and m.room is not None},
            left=[m for m in stored.memberships if m.through is not None],
            confirmed=stored.confirmed,
            away_since=away_since,
        )

    def move(self, state: State) -> None:
        """Enter another state. Raises RuntimeError for a step that no session can take."""
        if state not in _MOVES[self.state]:
            raise RuntimeError(f"session {self.sid} cannot go from {self.state.name} to {state.name}")
        self.state = state

    def attach(self, connection: ClientConnection, cursor: int) -> int:
        """Let a connection take the session over, whoever had it; return the number of its claim.

        This is no turn: the old connection must fall silent at once, and nothing else changes before
        the new one is accepted.
        """
        self.move(State.CONNECTING)
        if (superseded := self.detach()) is not None:
            self.superseded.append(superseded)
        self.claim += 1
        self.connection = connection
        self.authenticated_as = None
        connection.sessions[self.namespace] = self
        self.sent, self.pinged_position, self.pinged_at = cursor, self.confirmed, self.pong_at
        return self.claim

    def detach(self) -> ClientConnection | None:
        """Take the session off its connection, which falls silent for it."""
        connection, self.connection = self.connection, None
        if connection is not None and connection.sessions.get(self.namespace) is self:
            del connection.sessions[self.namespace]
        self.deferred_packets.clear()
        self.deferred_bytes = 0
        return connection

    def confirm(self, sequence: int) -> None:
        """The client has everything up to this number; memberships from before it are history."""
        if sequence > self.confirmed:
            self.confirmed = sequence
            if self.left:
                self.left = [m for m in self.left if m.through is None or m.through > sequence]

    def enter(self, room: Room, position: int) -> None:
        """Become a member for the events after the position."""
        self.joined.setdefault(room, position)

    def leave(self, room: Room, position: int) -> None:
        """Stay a member for the events up to the position only."""
        after = self.joined.pop(room, None)
        if after is not None and after < position:
            self.left.append(Membership(room, after, position))

    def memberships(self) -> Iterator[Membership]:
        """All stretches of the log in which something was for this session."""
        yield Membership(None, self.start.sequence, None)
        yield Membership(self.sid, self.start.sequence, None)
        for room, after in self.joined.items():
            yield Membership(room, after, None)
        yield from self.left

    def receives(self, event: Event, sequence: int) -> bool:
        """Whether a twin that never disconnected was sent this event."""
        if event.namespace != self.namespace or self.sid in event.skip or sequence <= self.start.sequence:
            return False
        if event.rooms is None or self.sid in event.rooms:
            return True
        for room in event.rooms:
            after = self.joined.get(room)
            if after is not None and after < sequence:
                return True
        return any(stay.room in event.rooms and stay.covers(sequence) for stay in self.left)


class Registry:
    """All sessions that are not over, by sid, by room and by pid."""

    def __init__(self) -> None:
        self.namespaces: dict[str, dict[str, Session]] = {}
        self.rooms: dict[tuple[str, Room], dict[Session, None]] = {}
        self._by_pid: dict[bytes, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        for sessions in self.namespaces.values():
            yield from sessions.values()

    def add(self, session: Session) -> None:
        """Take in a session with the rooms that it is in."""
        self.namespaces.setdefault(session.namespace, {})[session.sid] = session
        self._by_pid[session.pid_hash] = session
        for room in session.joined:
            self.rooms.setdefault((session.namespace, room), {})[session] = None

    def remove(self, session: Session) -> None:
        """Forget a session; what is addressed to it from now on is for nobody."""
        sessions = self.namespaces.get(session.namespace, {})
        if sessions.pop(session.sid, None) is None:
            return
        if not sessions:
            del self.namespaces[session.namespace]
        del self._by_pid[session.pid_hash]
        for room in session.joined:
            self._drop(session, room)

    def get(self, namespace: str, sid: object) -> Session | None:
        """The session with this sid, connected or away."""
        return self.namespaces.get(namespace, {}).get(sid) if isinstance(sid, str) else None

    def with_pid(self, pid_hash: bytes) -> Session | None:
        """The session that a private id opens, in whatever namespace; None when it is over."""
        session = self._by_pid.get(pid_hash)
        return None if session is None or session.state is State.ENDED else session

    def enter(self, session: Session, room: Room, position: int) -> None:
        """Put a session into a room for the events after the position."""
        session.enter(room, position)
        self.rooms.setdefault((session.namespace, room), {})[session] = None

    def leave(self, session: Session, room: Room, position: int) -> None:
        """Take a session out of a room; events up to the position are still for it."""
        session.leave(room, position)
        self._drop(session, room)

    def members(self, namespace: str, rooms: Sequence[Room] | None) -> Iterable[Session]:
        """The sessions in any of the rooms (a sid is a room too), each once; None means the namespace."""
        sessions = self.namespaces.get(namespace, {})
        if rooms is None:
            return sessions.values()
        if len(rooms) == 1 and rooms[0] not in sessions:
            return self.rooms.get((namespace, rooms[0]), {})
        found: dict[Session, None] = {}
        for room in rooms:
            if isinstance(room, str) and (own := sessions.get(room)) is not None:
                found[own] = None
            found.update(self.rooms.get((namespace, room), {}))
        return found

    def _drop(self, session: Session, room: Room) -> None:
        members = self.rooms.get((session.namespace, room))
        if members is not None:
            members.pop(session, None)
            if not members:
                del self.rooms[session.namespace, room]
