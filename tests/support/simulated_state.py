"""The state of a log: sessions, nodes and events, change by change, by the rules of the contract. No I/O.

The module is written from the contract (``socketio_eventlog.changes``) alone, without the core, for
comparison with the registry of every node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from socketio_eventlog.changes import (
    Answered,
    Asked,
    Batch,
    Change,
    Committed,
    Departed,
    Heartbeat,
    NodeDied,
    NodeJoined,
    Pruned,
    Volatile,
)
from socketio_eventlog.events import Event, Offset, Room
from socketio_eventlog.log import HEARTBEAT_SECONDS, LEASE_SECONDS
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
from socketio_eventlog.snapshot import Membership, NodeRecord, StoredSession

SessionKey = tuple[str, str]
"""Namespace and sid."""
LONGEST_STEP_SECONDS = 2 * HEARTBEAT_SECONDS
"""The longest step of the uptime clock."""


@dataclass(frozen=True)
class Written:
    """The changes of an append, before the decision of the outcomes."""

    node: str
    own: int
    uptime: float
    first: int
    """The sequence of the first event."""
    changes: tuple[Change, ...]


@dataclass
class Row:
    """A session of the log."""

    opened: SessionOpened
    start: Offset
    confirmed: int
    node: str | None
    claimed_in: int
    claim: int = 1
    data: str = "{}"
    identity: str | None = None
    away_since: float | None = None
    left_by_client: bool = False
    token_expires_at: float | None = None
    token_rooms: tuple[Room, ...] | None = None
    memberships: list[Membership] = field(default_factory=list)

    @property
    def joined(self) -> dict[Room | None, int]:
        return {m.room: m.after for m in self.memberships if m.through is None}

    def left_after(self, sequence: int) -> set[Membership]:
        """The ended memberships in events after a sequence."""
        return {m for m in self.memberships if m.through is not None and m.through > sequence}

    def enter(self, room: Room, position: int) -> None:
        if room not in self.joined:
            self.memberships.append(Membership(room, position, None))

    def leave(self, room: Room, position: int) -> None:
        self.memberships = [
            Membership(room, m.after, position) if m.room == room and m.through is None else m
            for m in self.memberships
            if m.room != room or m.through is not None or m.after < position
        ]

    def go_away(self, uptime: float, confirmed: int) -> None:
        self.node = None
        self.confirmed = max(self.confirmed, confirmed)
        if self.away_since is None:
            self.away_since = uptime

    def stored(self, pruned_through: int) -> StoredSession:
        opened, needed = self.opened, max(pruned_through, self.confirmed)
        memberships = [m for m in self.memberships if m.through is None or m.through > needed]
        return StoredSession(
            opened.namespace,
            opened.sid,
            opened.pid_hash,
            self.start,
            opened.former_offset,
            self.data,
            self.away_since,
            self.confirmed,
            tuple(memberships),
            self.identity,
            opened.auth_hash,
            self.left_by_client,
            self.token_expires_at,
            self.token_rooms,
            self.claim,
            self.claimed_in,
            self.node,
        )


class LogState:
    """The fold of a log up to a batch."""

    def __init__(self) -> None:
        self.epoch = ""
        self.batch = self.head = self.pruned_through = 0
        self.uptime = 0.0
        self.events: dict[int, Event] = {}
        self.sessions: dict[SessionKey, Row] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self.positions: list[tuple[float, int]] = []
        self.written_at: dict[str, float] = {}
        """The uptime of the last batch, by node."""

    def begin_epoch(self, epoch: str, began_after: int) -> None:
        """Let a single node begin: the sessions of all earlier nodes are away."""
        self.epoch, self.head = epoch, max(self.head, began_after)
        for row in self.sessions.values():
            if row.node is not None or row.away_since is None:
                row.go_away(self.uptime, row.confirmed)

    def apply(self, written: Written) -> Batch:
        """Give the changes places and outcomes."""
        self.batch += 1
        self.uptime = self.written_at[written.node] = written.uptime
        sequence, committed = written.first - 1, list[Committed]()
        for change in written.changes:
            if isinstance(change, Event):
                self.head = sequence = sequence + 1
                self.events[sequence] = change
                committed.append(Committed(change, sequence))
            else:
                committed.append(Committed(change, self.head, *self._decide(change, written)))
        return Batch(self.batch, written.node, written.own, written.uptime, committed)

    def _decide(self, change: Change, written: Written) -> tuple[bool, int]:
        """Let a change take effect; return whether it had an effect, and the number of the claim."""
        match change:
            case SessionOpened(namespace, sid):
                start = Offset(self.epoch, self.head)
                self.sessions[namespace, sid] = Row(change, start, self.head, written.node, self.batch)
                return True, 1
            case SessionClaimed(namespace, sid):
                return self.claim((namespace, sid), written.node)
            case SessionResumed() | SessionAway() | SessionEnded():
                return self.decide_by_claim(change), 0
            case NodeJoined():
                floor = self.pruned_through
                self.nodes[written.node] = NodeRecord(written.node, self.uptime, self.batch, floor)
            case Heartbeat(applied, floor, notes_position):
                self.nodes[written.node] = NodeRecord(written.node, self.uptime, applied, floor)
                if notes_position:
                    self.positions.append((self.uptime, self.head))
            case NodeDied(node):
                return (node == written.node or self._is_silent(node)) and self._bury(node), 0
            case Departed() | Volatile() | Asked() | Answered():
                pass  # only in the batch
            case Pruned(through):
                self._prune(min(through, self.head))
            case _:
                self._change_session(change)
        return True, 0

    def claim(self, key: SessionKey, node: str) -> tuple[bool, int]:
        row = self.sessions.get(key)
        if row is None:
            return False, 0
        row.claim, row.claimed_in, row.node = row.claim + 1, self.batch, node
        if row.away_since is None:
            row.away_since = self.uptime
        return True, row.claim

    def decide_by_claim(self, change: SessionResumed | SessionAway | SessionEnded) -> bool:
        """Let a word of a claim take effect, unless another claim or the end came between."""
        row = self.sessions.get((change.namespace, change.sid))
        if row is None or not self.is_latest(row, change.claim):
            return False
        match change:
            case SessionResumed():
                row.away_since, row.left_by_client = None, False
                for deferred in change.deferred:
                    self._change_session(deferred)
            case SessionAway():
                row.go_away(self.uptime, change.confirmed)
                row.left_by_client |= change.left_by_client
            case SessionEnded():
                del self.sessions[change.namespace, change.sid]
        return True

    def is_latest(self, row: Row, claim: int | None) -> bool:
        return claim in (None, row.claim)

    def _is_silent(self, node: str) -> bool:
        """Whether a node has written nothing for longer than a lease."""
        return self.uptime - self.written_at.get(node, 0.0) > LEASE_SECONDS

    def _bury(self, node: str) -> bool:
        record = self.nodes.pop(node, None)
        if record is None:
            return False
        for row in self.sessions.values():
            if row.node == node:
                row.go_away(self.uptime, record.floor if self.is_covered(row, record) else row.confirmed)
        return True

    def is_covered(self, row: Row, record: NodeRecord) -> bool:
        """Whether the floor of a node speaks for a session of the node."""
        return record.applied >= row.claimed_in

    def _prune(self, through: int) -> None:
        for sequence in range(self.pruned_through + 1, through + 1):
            self.events.pop(sequence, None)
        self.pruned_through = max(self.pruned_through, through)

    def _change_sessions(self, change: RoomClosed | IdentityRevoked) -> None:
        if isinstance(change, IdentityRevoked):
            revoked = change.identity
            self.sessions = {key: row for key, row in self.sessions.items() if row.identity != revoked}
            return
        for (namespace, _), member in self.sessions.items():
            if namespace == change.namespace:
                member.leave(change.room, self.head)

    def _change_session(self, change: Change) -> None:
        if isinstance(change, RoomClosed | IdentityRevoked):
            self._change_sessions(change)
            return
        known = DataSaved | SessionBound | TokenAccepted | RoomJoined | RoomLeft
        assert isinstance(change, known), f"unknown: {change}"
        row = self.sessions.get((change.namespace, change.sid))
        if row is None:
            return
        match change:
            case DataSaved(data=data):
                row.data = data
            case SessionBound(identity=identity):
                row.identity = identity
            case TokenAccepted(expires_at=expires_at, rooms=rooms):
                row.token_expires_at, row.token_rooms = expires_at, rooms
            case RoomJoined(room=room):
                row.enter(room, self.head)
            case RoomLeft(room=room, through=through):
                row.leave(room, self.head if through is None else through)

    def stored_sessions(self) -> tuple[StoredSession, ...]:
        return tuple(row.stored(self.pruned_through) for row in self.sessions.values())

    def next_uptime(self, passed_seconds: float) -> float:
        """The uptime of a batch after a time since the last batch."""
        return self.uptime + min(max(passed_seconds, 0.0), LONGEST_STEP_SECONDS)

    def missed(
        self, namespace: str, memberships: Sequence[Membership], after: int, through: int
    ) -> dict[int, int]:
        """The events of the memberships, with sizes in bytes."""
        found = {}
        for sequence in range(max(after, self.pruned_through) + 1, through + 1):
            event = self.events.get(sequence)
            if event is not None and event.namespace == namespace:
                rooms = (None,) if event.rooms is None else event.rooms
                if any(m.room in rooms and m.covers(sequence) for m in memberships):
                    found[sequence] = event.size_bytes
        return found
