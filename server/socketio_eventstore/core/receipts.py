"""How far the client of a session is known to have the log."""

from __future__ import annotations

from socketio_eventlog.snapshot import NodeRecord
from socketio_eventstore.core.nodes import Nodes
from socketio_eventstore.core.sessions import Session, State


def covering(session: Session, nodes: Nodes) -> NodeRecord | None:
    """Return the other node with a floor that covers a session, if any.

    A floor from before the node's claim does not cover the session.
    """
    if session.state is not State.ELSEWHERE:
        return None
    record = nodes.get(session.node)
    return record if record is not None and record.applied >= session.claimed_in else None


def confirmed(session: Session, nodes: Nodes) -> int:
    """Return the confirmed position of a session's client.

    A client of another node has confirmed at least the last floor of that node.
    """
    record = covering(session, nodes)
    return max(session.confirmed, session.start.sequence, 0 if record is None else record.floor)
