"""The effects of changes on this node, for own changes and those of other nodes.

A change takes effect when it comes out of the log: the registry is a fold of the log up to the position, the
same on every node. Only the connections differ. What only the submitter of a change gets is in the
operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from socketio_eventlog.changes import (
    Answered,
    Asked,
    Batch,
    Change,
    Committed,
    Departed,
    EventHandled,
    Heartbeat,
    NodeDied,
    NodeJoined,
    Pruned,
    Published,
    Redacted,
    Volatile,
)
from socketio_eventlog.events import Event, Room
from socketio_eventlog.session_changes import (
    DataSaved,
    IdentityRevoked,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionAway,
    SessionBound,
    SessionClaimed,
    SessionEnd,
    SessionEnded,
    SessionOpened,
    SessionResumed,
    TokenAccepted,
)
from socketio_eventlog.snapshot import NodeRecord
from socketio_eventstore.core import unstored
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.recent_events import RecentEvent
from socketio_eventstore.core.sessions import CONNECTED, Session, State


def take_effect(context: Context, batch: Batch, committed: Committed) -> Any:
    """Let a change take effect; the type of the result is that of the change's function below."""
    return _EFFECTS[type(committed.change)](context, batch, committed)


def emitted(
    context: Context, batch: Batch, committed: Committed, weight_bytes: int | None = None
) -> str | None:
    """Send an event to its live members; return the offset. ``weight_bytes`` is the event's, if known."""
    event, position = committed.change, committed.position
    assert type(event) is Event
    log, recent_events = context.log, context.recent_events
    recent_events.position = position
    offset = log.offset_text(position) if log.is_durable else None
    namespace, _, payload, attachments, rooms, skip, _ = event
    frames = context.encoder.event(namespace, payload, attachments, offset)
    context.fan_out.broadcast((namespace, rooms, skip), frames)
    recent_events.append(position, event, frames, weight_bytes)
    return offset


def pass_by(context: Context, changes: Sequence[Committed], start: int) -> int:
    """Let the next events take effect that have no recipients here; return the index of the next change.

    A node gets the events of all nodes, and has members for few of them: those cost it no frames.
    """
    registry, passed = context.registry, list[RecentEvent]()
    nobody: tuple[str, Sequence[Room] | None] | None = None
    for index in range(start, len(changes)):
        event, position, _, _ = changes[index]
        if type(event) is not Event:
            break
        namespace, _, payload, attachments, rooms, skip, _ = event
        if (namespace, rooms) != nobody:
            if registry.has_recipients(namespace, rooms):
                break
            nobody = namespace, rooms
        is_light = not attachments and not skip and (rooms is None or len(rooms) < 2)
        passed.append((position, event, None, len(payload) if is_light else event.weight_bytes))
    context.recent_events.extend(passed)
    context.fan_out.broadcasts += len(passed)
    return start + len(passed)


def _redacted(context: Context, batch: Batch, committed: Committed) -> bool:
    """Replace an event among the recent ones; return whether there was such an event in the log."""
    change, recent_events = committed.change, context.recent_events
    assert isinstance(change, Redacted)
    event = recent_events.find(change.sequence) if committed.took_effect else None
    if event is not None:
        event = event._replace(name=change.name, payload=change.payload, attachments=())
        offset = str(context.log.offset_of(change.sequence)) if context.log.is_durable else None
        frames = context.encoder.event(event.namespace, event.payload, (), offset)
        recent_events.replace(change.sequence, event, frames)
    return committed.took_effect


# Sessions ---------------------------------------------------------------------------------------------


def _opened(context: Context, batch: Batch, committed: Committed) -> Session:
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
    """Note the node whose handlers may run for the last claim of a session."""
    if batch.node == context.nodes.own:
        session.claimed_here = session.claim
    else:
        alive = context.nodes.get
        others = [one for one in session.departing if one[0] != batch.node and alive(one[0]) is not None]
        session.departing = (*others, (batch.node, session.claim))


def claimed(context: Context, batch: Batch, committed: Committed) -> Session | None:
    """Take the session off its connection to this node, if any; return the session, None after its end."""
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
        _abort_superseded(session)  # the client that was accepted has gone meanwhile
    for superseded in session.superseded:
        context.fan_out.put(superseded, context.encoder.disconnect(session.namespace))
    session.superseded = ()
    for deferred in change.deferred:
        take_effect(context, batch, Committed(deferred, committed.position))
    return session


def _away(context: Context, batch: Batch, committed: Committed) -> Session | None:
    """Return the session, or None when another claim or the end of the session came between."""
    session, change = _session(context, committed), committed.change
    assert isinstance(change, SessionAway)
    if session is None:
        return None
    session.left_by_client |= change.left_by_client
    session.confirm(change.confirmed)
    _leave_node(context, session, batch.uptime)
    return session


def _leave_node(context: Context, session: Session, uptime: float) -> None:
    """Let a session wait for its client, on no node."""
    session.node = None
    if session.away_since is None:
        session.away_since = uptime
    step_back(context, session)


def step_back(context: Context, session: Session) -> None:
    """Take a session off its connection; the log still has it on this node until SessionAway is stored."""
    context.registry.detach(session)
    session.move(State.AWAY)
    _abort_superseded(session)


def _abort_superseded(session: Session) -> None:
    """Close the connections that lost the session to a client that was not accepted.

    They get no DISCONNECT packet, so the owner of the session comes back.
    """
    superseded, session.superseded = session.superseded, ()
    for connection in superseded:
        connection.abort("the session was claimed by a client that was not accepted")


@dataclass(frozen=True, slots=True)
class EndedSession:
    """A session that has just ended."""

    session: Session
    handler: Any
    """A future for the end of the disconnect handler, or None (see ``SessionListener.ended``)."""


def _ended(context: Context, batch: Batch, committed: Committed) -> EndedSession | None:
    change = committed.change
    assert isinstance(change, SessionEnded)
    session = context.registry.get(change.namespace, change.sid)
    if session is None or not (committed.took_effect or _is_row_gone(session, change)):
        return None
    return end(context, session, change.reason)


def end(context: Context, session: Session, reason: SessionEnd) -> EndedSession | None:
    """End a session in memory; None when it has ended already."""
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


def _identity_revoked(context: Context, batch: Batch, committed: Committed) -> list[EndedSession]:
    change = committed.change
    assert isinstance(change, IdentityRevoked)
    bound = context.registry.of_identity(change.identity)
    ended = [end(context, session, SessionEnd.REVOKED) for session in bound]
    return [one for one in ended if one is not None]


def _session(context: Context, committed: Committed) -> Session | None:
    """The session of a change that took effect; None when there is none any more."""
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

    Its claim is the last one, and there was no end in the log.
    """
    return getattr(change, "claim", None) in (None, session.claim)


_NO_SESSIONS: Final[Mapping[str, Session]] = {}


# Rooms and data ---------------------------------------------------------------------------------------


def _known(context: Context, change: Any) -> Session | None:
    """The session of a change by handlers; after its end it is known until the disconnect handlers end."""
    return context.registry.get(change.namespace, change.sid)


def _joined(context: Context, batch: Batch, committed: Committed) -> None:
    change = committed.change
    assert isinstance(change, RoomJoined)
    if (session := _known(context, change)) is not None:
        context.registry.enter(session, change.room, committed.position)


def _left(context: Context, batch: Batch, committed: Committed) -> None:
    change = committed.change
    assert isinstance(change, RoomLeft)
    if (session := _known(context, change)) is not None:
        through = committed.position if change.through is None else change.through
        context.registry.leave(session, change.room, through)


def _closed(context: Context, batch: Batch, committed: Committed) -> None:
    change = committed.change
    assert isinstance(change, RoomClosed)
    for session in list(context.registry.rooms.get((change.namespace, change.room), {})):
        context.registry.leave(session, change.room, committed.position)


def _saved(context: Context, batch: Batch, committed: Committed) -> None:
    change = committed.change
    assert isinstance(change, DataSaved)
    if (session := _known(context, change)) is not None:
        session.data = change.data


def _bound(context: Context, batch: Batch, committed: Committed) -> None:
    change = committed.change
    assert isinstance(change, SessionBound)
    if (session := _known(context, change)) is not None:
        context.registry.bind(session, change.identity)


def _token_accepted(context: Context, batch: Batch, committed: Committed) -> None:
    change = committed.change
    assert isinstance(change, TokenAccepted)
    if (session := _known(context, change)) is not None:
        session.token_expires_at, session.token_rooms = change.expires_at, change.rooms


def _nothing(context: Context, batch: Batch, committed: Committed) -> None:
    """Do nothing: the change concerns the store only."""


# Nodes ------------------------------------------------------------------------------------------------


def _node_joined(context: Context, batch: Batch, committed: Committed) -> None:
    floor = context.log.pruned_through  # no session of this node has lost more
    context.nodes.set(NodeRecord(batch.node, batch.uptime, batch.number, floor))


def _heartbeat(context: Context, batch: Batch, committed: Committed) -> None:
    change = committed.change
    assert isinstance(change, Heartbeat)
    behind = max(batch.number - 1 - change.applied, 0)
    context.nodes.set(NodeRecord(batch.node, batch.uptime, change.applied, change.floor, behind))
    if change.notes_position:
        context.position_history.note(batch.uptime, committed.position)


def _node_died(context: Context, batch: Batch, committed: Committed) -> None:
    change = committed.change
    assert isinstance(change, NodeDied)
    record = context.nodes.remove(change.node) if committed.took_effect else None
    if record is None:
        return
    for session in list(context.registry):
        if session.node == change.node and session.state is not State.ENDED:
            # The floor says nothing about a session which the node had not claimed yet when it wrote it.
            if record.applied >= session.claimed_in:
                session.confirm(record.floor)
            if (connection := session.current.connection) is not None:
                # This node was declared dead, and its clients must go to another one.
                connection.abort("the other nodes took this node for dead")
            _leave_node(context, session, batch.uptime)
        if any(node == change.node for node, _ in session.departing):
            context.listener.departed(session)


_Effect = Callable[[Context, Batch, Committed], object]

_EFFECTS: Final[dict[type[Change], _Effect]] = {
    Event: emitted,
    SessionOpened: _opened,
    SessionClaimed: claimed,
    SessionResumed: resumed,
    SessionAway: _away,
    SessionEnded: _ended,
    IdentityRevoked: _identity_revoked,
    RoomJoined: _joined,
    RoomLeft: _left,
    RoomClosed: _closed,
    DataSaved: _saved,
    SessionBound: _bound,
    TokenAccepted: _token_accepted,
    EventHandled: _nothing,
    Published: _nothing,
    Pruned: _nothing,
    Redacted: _redacted,
    NodeJoined: _node_joined,
    Heartbeat: _heartbeat,
    NodeDied: _node_died,
    Departed: unstored.departed,
    Volatile: unstored.volatile,
    Asked: unstored.asked,
    Answered: unstored.answered,
}
