"""The invariants of the order of a shared log, and of the registries made from the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from socketio_eventlog.changes import Batch, Committed, Heartbeat, NodeDied, NodeJoined
from socketio_eventlog.events import Event
from socketio_eventlog.session_changes import (
    SessionAway,
    SessionClaimed,
    SessionEnd,
    SessionEnded,
    SessionOpened,
    SessionResumed,
)
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import Session, State
from support.simulated_server import DURATION
from support.simulated_state import LogState, Row, SessionKey
from support.simulated_twins import text_of

if TYPE_CHECKING:
    from support.cluster_world import Cluster, Node


class Judge:
    """Follows the batches in order."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._uptime = 0.0
        self._texts: set[str] = set()
        self._dead: set[str] = set()
        self._owners: dict[SessionKey, str | None] = {}
        self._claimed_at: dict[SessionKey, float] = {}
        self._gone_since: dict[SessionKey, float] = {}
        """The uptime since which a session has no accepted client, by session."""
        self.gone_at: dict[SessionKey, float] = {}
        """The same time in seconds of the simulated world, by session."""
        self._expired: dict[SessionKey, Node] = {}
        """The node with the call of ``session_expired``, by session."""

    def add(self, batch: Batch) -> None:
        assert batch.uptime >= self._uptime, "the uptime went back"
        self._uptime = batch.uptime
        assert batch.node not in self._dead, f"{batch.node} appends after its death"
        for committed in batch.changes:
            if committed.took_effect:
                self._add(batch, committed)

    def _add(self, batch: Batch, committed: Committed) -> None:
        match committed.change:
            case Event() as event:
                assert text_of(event) not in self._texts, f"{text_of(event)} was emitted twice"
                self._texts.add(text_of(event))
            case Heartbeat(applied, floor):
                assert applied < batch.number, "a node has applied the future"
                reached = self._cluster.shared.heads[applied]
                assert floor <= reached, f"a floor of {floor} by a node that has applied {reached}"
            case SessionOpened(namespace, sid):
                self._owners[namespace, sid] = batch.node
            case SessionClaimed(namespace, sid):
                self._owners[namespace, sid] = batch.node
                self._claimed_at[namespace, sid] = batch.uptime
                self._goes((namespace, sid))
            case SessionAway(namespace, sid):
                self._owners[namespace, sid] = None
                self._goes((namespace, sid))
            case SessionResumed(namespace, sid):
                self._resumed((namespace, sid))
            case SessionEnded(namespace, sid, reason):
                if reason is SessionEnd.EXPIRED:
                    assert (namespace, sid) in self._expired, f"{sid} ended without its session_expired"
                self._owners.pop((namespace, sid))
            case NodeDied(node):
                self._died(node)
            case NodeJoined() | _:
                pass

    def _died(self, node: str) -> None:
        self._dead.add(node)
        for key, owner in self._owners.items():
            if owner == node:
                self._owners[key] = None
                self._goes(key)

    def _goes(self, key: SessionKey) -> None:
        self._gone_since.setdefault(key, self._uptime)
        self.gone_at.setdefault(key, self._cluster.seconds)

    def _resumed(self, key: SessionKey) -> None:
        assert key not in self._expired, f"{key} was let in after its session_expired"
        del self.gone_at[key]
        seconds = self._claimed_at[key] - self._gone_since.pop(key)
        assert seconds <= DURATION, f"{key} was let in after {seconds} seconds without a client"

    def session_expired(self, node: Node, session: Session) -> None:
        """Take note of a call of the handler: another call is allowed if the first node died inside the
        handler.
        """
        key = session.namespace, session.sid
        former = self._expired.setdefault(key, node)
        assert former is node or not former.is_member, f"session_expired twice for {key}"
        self._expired[key] = node


def compare(registry: Registry, fold: LogState, node: str) -> None:
    """Check that the registry of a node is the fold of the log."""
    known = {(s.namespace, s.sid): s for s in registry if s.state is not State.ENDED}
    assert known.keys() == fold.sessions.keys(), f"{node} knows {[*known]}, the log {[*fold.sessions]}"
    for key, session in known.items():
        differences = _differences(session, fold.sessions[key], node, fold.pruned_through)
        assert not differences, f"{key} at {node}: {differences}"


def _differences(
    session: Session, row: Row, node: str, pruned_through: int
) -> list[tuple[str, object, object]]:
    needed = max(session.confirmed, pruned_through)  # older memberships may be forgotten
    departed = (
        session.state is State.AWAY and row.node == node
    )  # the transport has ended, the log says so soon
    state = State.AWAY if row.node is None else State.ELSEWHERE
    pairs: dict[str, tuple[object, object]] = {
        "node": (session.node, row.node),
        "claim": (session.claim, row.claim),
        "claimed in": (session.claimed_in, row.claimed_in),
        "away since": (session.away_since, row.away_since),
        "data": (session.data, row.data),
        "identity": (session.identity, row.identity),
        "start": (session.start, row.start),
        "joined": (session.joined, row.joined),
        "left": (
            {m for m in session.left if m.through is not None and m.through > needed},
            row.left_after(needed),
        ),
        "confirmed": (session.confirmed, max(session.confirmed, row.confirmed)),
        "is here": (departed or session.state not in (State.AWAY, State.ELSEWHERE), row.node == node),
    }
    if row.node != node:
        pairs["state"] = (session.state, state)
    if not departed and row.node is not None:
        pairs["left by client"] = (session.left_by_client, row.left_by_client)
    return [(name, mine, its) for name, (mine, its) in pairs.items() if mine != its]
