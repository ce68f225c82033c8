"""The effects of changes on this node, for own changes and changes of other nodes.

A change takes effect when it comes out of the log: the registry is a fold of the log up to the position, the
same on every node. Only the connections differ. The results for the submitter of a change are in the
operations.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    IdentityRevoked,
    SessionAway,
    SessionClaimed,
    SessionEnded,
    SessionOpened,
    SessionResumed,
)
from socketio_eventlog.snapshot import NodeRecord
from socketio_eventstore.core import unstored
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.membership_effects import MEMBERSHIP_EFFECTS, Effect
from socketio_eventstore.core.recent_events import RecentEvent
from socketio_eventstore.core.session_effects import (
    away,
    claimed,
    ended,
    identity_revoked,
    leave_node,
    opened,
    resumed,
)
from socketio_eventstore.core.sessions import State


def take_effect(context: Context, batch: Batch, committed: Committed) -> Any:
    """Let a change take effect; the result is of the change's function below."""
    return _EFFECTS[type(committed.change)](context, batch, committed)


def emitted(
    context: Context, batch: Batch, committed: Committed, weight_bytes: int | None = None
) -> str | None:
    """Send an event to the live members; return the offset. ``weight_bytes``: of the event, if known."""
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
    """Let the next events without recipients here take effect; return the index of the next change.

    A node gets the events of all nodes, and has members for few: the other events cost no frames.
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
    """Replace an event among the recent events; return whether the event was in the log."""
    change, recent_events = committed.change, context.recent_events
    assert isinstance(change, Redacted)
    event = recent_events.find(change.sequence) if committed.took_effect else None
    if event is not None:
        event = event._replace(name=change.name, payload=change.payload, attachments=())
        offset = str(context.log.offset_of(change.sequence)) if context.log.is_durable else None
        frames = context.encoder.event(event.namespace, event.payload, (), offset)
        recent_events.replace(change.sequence, event, frames)
    return committed.took_effect


def _nothing(context: Context, batch: Batch, committed: Committed) -> None:
    """Do nothing: the change concerns the store only."""


# Nodes ------------------------------------------------------------------------------------------------


def _node_joined(context: Context, batch: Batch, committed: Committed) -> None:
    floor = context.log.pruned_through  # no session of this node has lost more events
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
            # The floor does not cover a session that the node claimed after the write of the floor.
            if record.applied >= session.claimed_in:
                session.confirm(record.floor)
            if (connection := session.current.connection) is not None:
                # This node was declared dead: its clients must go to another node.
                connection.abort("the other nodes took this node for dead")
            leave_node(context, session, batch.uptime)
        # The sessions of this node have none as a rule, and this is a look at all sessions.
        if session.departing and any(node == change.node for node, _ in session.departing):
            context.listener.departed(session)


_EFFECTS: Final[dict[type[Change], Effect]] = {
    **MEMBERSHIP_EFFECTS,
    Event: emitted,
    SessionOpened: opened,
    SessionClaimed: claimed,
    SessionResumed: resumed,
    SessionAway: away,
    SessionEnded: ended,
    IdentityRevoked: identity_revoked,
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
