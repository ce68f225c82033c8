"""Packets outside the log: volatile events, and events with acknowledgements.

Packets for clients of other nodes go there as changes in a batch only. Such changes need a client of another
node in the registry, so a single node never appends such changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from socketio_eventlog.changes import Answered, Asked, Batch, Committed, Departed, Volatile
from socketio_eventlog.events import Event
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.sessions import Session, State

MAX_DEFERRED_PACKETS: Final = 1000
"""The most packets outside the log that wait for a session's replay; beyond, the transport is closed."""
MAX_DEFERRED_BYTES: Final = 1_000_000


def broadcast(context: Context, event: Event, offset: str | None) -> None:
    """Send an event to the live members of its rooms."""
    frames = context.encoder.event(event.namespace, event.payload, event.attachments, offset)
    context.fan_out.broadcast((event.namespace, event.rooms, event.skip), frames)


def ask(context: Context, event: Event, packet_for: Callable[[Session], Frames]) -> None:
    """Send an event to the recipients on this node, in a separate packet for each recipient."""
    context.fan_out.asking_events += 1
    for session in context.registry.members(event.namespace, event.rooms):
        if session.current.connection is not None and session.sid not in event.skip:
            context.fan_out.deliveries += 1
            send_or_defer(context, session, packet_for(session))


def send_or_defer(context: Context, session: Session, frames: Frames) -> None:
    """Send a packet outside the log, or keep the packet until the replay reaches the packet's position."""
    current = session.current
    connection = current.connection
    if session.state is State.LIVE and connection is not None:
        context.fan_out.put(connection, frames)
        return
    if current.deferred_packets is None:
        current.deferred_packets = deque()
    current.deferred_packets.append((context.position, frames))
    current.deferred_bytes += frames.size_bytes
    too_many = len(current.deferred_packets) > MAX_DEFERRED_PACKETS
    if (too_many or current.deferred_bytes > MAX_DEFERRED_BYTES) and connection is not None:
        connection.abort("too many packets wait for the replay")


# Changes that only a batch has ------------------------------------------------------------------------


def volatile(context: Context, batch: Batch, committed: Committed) -> None:
    """Send a volatile event to the live members on this node.

    The frames end in the present offset, because a client takes any last text argument as the offset
    (socket.io-client 4.6, ``_lastOffset``).
    """
    change = committed.change
    assert isinstance(change, Volatile)
    broadcast(context, change.event, context.offset)


def asked(context: Context, batch: Batch, committed: Committed) -> None:
    """Ask the recipients on this node for the acknowledgement of an event of another node."""
    change = committed.change
    assert isinstance(change, Asked)
    ask(context, change.event, context.listener.asked(batch.node, change))


def answered(context: Context, batch: Batch, committed: Committed) -> None:
    """Hand an acknowledgement to the requesting node."""
    change = committed.change
    assert isinstance(change, Answered)
    if change.node == context.nodes.own:
        context.listener.answered(change)


def departed(context: Context, batch: Batch, committed: Committed) -> None:
    """Note that the handlers of a session have ended on another node."""
    change = committed.change
    assert isinstance(change, Departed)
    session = context.registry.get(change.namespace, change.sid)
    if session is not None and session.departing:
        left = [one for one in session.departing if one[0] != batch.node or one[1] > change.claim]
        session.departing = tuple(left)
        context.listener.departed(session)
