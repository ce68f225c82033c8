"""The effects of changes in the life of a session: opened, claimed, resumed, away, ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from socketio_eventlog.changes import Batch, Committed
from socketio_eventlog.session_changes import (
    IdentityRevoked,
    SessionAway,
    SessionEnd,
    SessionEnded,
    SessionOpened,
    SessionResumed,
)
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.membership_effects import MEMBERSHIP_EFFECTS
from socketio_eventstore.core.sessions import CONNECTED, Session, State

_NO_SESSIONS: Final[Mapping[str, Session]] = {}


def opened(context: Context, batch: Batch, committed: Committed) -> Session:
    """Add the new session to the registry; return the session."""
    change = committed.change
    assert isinstance(change, SessionOpened)
    session = Session(
        namespace=change.namespace,
        sid=change.sid,
        pid_hash=change.pid_hash,
        # An offset of the present epoch, although an earlier epoch may have stored the last event.
        start=context.log.offset_at(committed.position),
        former_offset=change.former_offset,
        auth_hash=change.auth_hash,
        state=State.CONNECTING if batch.node == context.nodes.own else State.ELSEWHERE,
        node=batch.node,
        claim=committed.claim,
        claimed_in=batch.number,
        confirmed=committed.position,
    )
    _note_claim(context, batch, session)
    context.registry.add(session)
    return session


def _note_claim(context: Context, batch: Batch, session: Session) -> None:
    """Note the node with handlers that may run for the last claim of a session."""
    if batch.node == context.nodes.own:
        session.claimed_here = session.claim
    else:
        alive = context.nodes.get
        others = [one for one in session.departing if one[0] != batch.node and alive(one[0]) is not None]
        session.departing = (*others, (batch.node, session.claim))


def claimed(context: Context, batch: Batch, committed: Committed) -> Session | None:
    """Take the session off a connection to this node, if any; return the session, None after its end."""
    session = _session(context, committed)
    if session is None:
        return None
    former, was_accepted = session.current.connection, session.state in CONNECTED
    if former is not None:
        context.registry.detach(session)
    session.claim, session.claimed_in, session.node = committed.claim, batch.number, batch.node
    if session.away_since is None:
        session.away_since = batch.uptime
    session.move(State.CONNECTING if batch.node == context.nodes.own else State.ELSEWHERE)
    if former is not None:
        session.superseded = (*session.superseded, former)
        if was_accepted:
            context.listener.superseded(session, former)
    _note_claim(context, batch, session)
    if session.claimed_here and batch.node != context.nodes.own:
        claim, session.claimed_here = session.claimed_here, 0
        context.listener.claimed_elsewhere(session, claim)
    return session


def resumed(context: Context, batch: Batch, committed: Committed) -> Session | None:
    """Return the session, or None when another claim or the end of the session came between."""
    session, change = _session(context, committed), committed.change
    assert isinstance(change, SessionResumed)
    if session is None:
        return None
    session.away_since = None
    session.left_by_client = False
    if batch.node == context.nodes.own and session.state is not State.CONNECTING:
        _abort_superseded(session)  # the accepted client has disconnected meanwhile
    for superseded in session.superseded:
        context.fan_out.put(superseded, context.encoder.disconnect(session.namespace))
    session.superseded = ()
    for deferred in change.deferred:
        MEMBERSHIP_EFFECTS[type(deferred)](context, batch, Committed(deferred, committed.position))
    return session


def away(context: Context, batch: Batch, committed: Committed) -> Session | None:
    """Return the session, or None when another claim or the end of the session came between."""
    session, change = _session(context, committed), committed.change
    assert isinstance(change, SessionAway)
    if session is None:
        return None
    session.left_by_client |= change.left_by_client
    session.confirm(change.confirmed)
    leave_node(context, session, batch.uptime)
    return session


def leave_node(context: Context, session: Session, uptime: float) -> None:
    """Let a session wait for the client, on no node."""
    session.node = None
    if session.away_since is None:
        session.away_since = uptime
    step_back(context, session)


def step_back(context: Context, session: Session) -> None:
    """Take a session off the connection; in the log, the session stays on this node until SessionAway."""
    context.registry.detach(session)
    session.move(State.AWAY)
    _abort_superseded(session)


def _abort_superseded(session: Session) -> None:
    """Close the connections that lost the session to a refused client.

    The connections get no DISCONNECT packet, so the owner of the session comes back.
    """
    superseded, session.superseded = session.superseded, ()
    for connection in superseded:
        connection.abort("the session was claimed by a client that was not accepted")


@dataclass(frozen=True, slots=True)
class EndedSession:
    """A session right after its end."""

    session: Session
    handler: Any
    """A future for the end of the disconnect handler, or None (see ``SessionListener.ended``)."""


def ended(context: Context, batch: Batch, committed: Committed) -> EndedSession | None:
    """End the session; None for an unknown or ended session."""
    change = committed.change
    assert isinstance(change, SessionEnded)
    session = context.registry.get(change.namespace, change.sid)
    if session is None or not (committed.took_effect or _is_row_gone(session, change)):
        return None
    return end(context, session, change.reason)


def end(context: Context, session: Session, reason: SessionEnd) -> EndedSession | None:
    """End a session in memory; None for an ended session."""
    if session.state is State.ENDED:
        return None
    was_accepted, connection = session.is_connected, context.registry.detach(session)
    session.move(State.ENDED)
    session.node = None
    _abort_superseded(session)
    if reason is SessionEnd.DISCONNECTED:
        session.disconnected_by_server = True
        if connection is not None and was_accepted:
            context.fan_out.put(connection, context.encoder.disconnect(session.namespace))
    handler = context.listener.ended(session, connection, reason, was_accepted=was_accepted)
    if not session.running_disconnect_handlers:  # handlers may still ask for rooms and data
        context.registry.remove(session)
    return EndedSession(session, handler)


def identity_revoked(context: Context, batch: Batch, committed: Committed) -> list[EndedSession]:
    """End all sessions of an identity; return the newly ended sessions."""
    change = committed.change
    assert isinstance(change, IdentityRevoked)
    bound = context.registry.of_identity(change.identity)
    ended = [end(context, session, SessionEnd.REVOKED) for session in bound]
    return [one for one in ended if one is not None]


def _session(context: Context, committed: Committed) -> Session | None:
    """The session of an effective change; None after the session's end."""
    change: Any = committed.change
    session = context.registry.namespaces.get(change.namespace, _NO_SESSIONS).get(change.sid)
    if session is None or session.state is State.ENDED:
        return None
    if committed.took_effect:
        return session
    if _is_row_gone(session, change):
        end(context, session, SessionEnd.REVOKED)
    return None


def _is_row_gone(session: Session, change: Any) -> bool:
    """Whether a change without effect shows that the session was deleted through SQL.

    The claim is the last claim, and the log has no end of the session.
    """
    return getattr(change, "claim", None) in (None, session.claim)
