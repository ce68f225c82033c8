"""The operations for events, packets, rooms and data: the stored changes and the effects of each.

The operations in the life of a session are in ``session_operations``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from socketio_eventlog.records import (
    Change,
    DataSaved,
    Event,
    EventHandled,
    Room,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionBound,
)
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operation import Context, Operation
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import (
    NOT_CONNECTED,
    ClientConnection,
    Session,
    SessionConnection,
    State,
)

MAX_DEFERRED_PACKETS = 1000
"""Packets outside the log that may wait for the replay of a session. Beyond, the transport is closed."""
MAX_DEFERRED_BYTES = 1_000_000


@dataclass(eq=False)
class Emit(Operation):
    """A recoverable event: stored, then sent to the live members. The result is the offset."""

    only_broadcasts = True
    event: Event

    @property
    def size_bytes(self) -> int:
        return self.event.size_bytes

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (self.event,)

    def apply(self, context: Context, changes: Sequence[Change]) -> str | None:
        offset = context.offset
        frames = _broadcast(context, self.event, offset)
        context.recent_events.append(context.recent_events.position, self.event, frames)
        return offset


@dataclass(eq=False)
class EmitVolatile(Operation):
    """An event that is not stored.

    The frames end in the present offset, because a client takes any last text argument as its offset
    (socket.io-client 4.6, ``_lastOffset``).
    """

    only_broadcasts = True
    may_store = False
    event: Event

    @property
    def size_bytes(self) -> int:
        return self.event.size_bytes

    def apply(self, context: Context, changes: Sequence[Change]) -> None:
        _broadcast(context, self.event, context.offset)


def _broadcast(context: Context, event: Event, offset: str | None) -> Frames:
    frames = context.encoder.event(event.namespace, event.payload, event.attachments, offset)
    context.fan_out.broadcast((event.namespace, event.rooms, event.skip), frames)
    return frames


@dataclass(eq=False)
class EmitWithAck(Operation):
    """An event that asks for an acknowledgement: each recipient gets a packet of its own; not stored."""

    may_store = False
    event: Event
    packet_for: Callable[[Session], Frames]

    @property
    def size_bytes(self) -> int:
        return self.event.size_bytes

    def apply(self, context: Context, changes: Sequence[Change]) -> None:
        for session in context.registry.members(self.event.namespace, self.event.rooms):
            if session.current.connection is not None and session.sid not in self.event.skip:
                _send_or_defer(context, session, self.packet_for(session))


@dataclass(eq=False)
class SendPacket(Operation):
    """A packet for one connection, such as an acknowledgement; not stored."""

    may_store = False
    connection: ClientConnection
    namespace: str
    frames: Frames

    @property
    def size_bytes(self) -> int:
        return self.frames.size_bytes

    def apply(self, context: Context, changes: Sequence[Change]) -> None:
        session = self.connection.sessions.get(self.namespace)
        if session is None:
            context.fan_out.put(self.connection, self.frames)
        else:
            _send_or_defer(context, session, self.frames)


def _send_or_defer(context: Context, session: Session, frames: Frames) -> None:
    """Send a packet that is not in the log, or keep the packet until the replay reaches its position."""
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


@dataclass(eq=False)
class SessionOperation(Operation):
    """A change of one session by the handlers."""

    session: Session


def _is_known(session: Session) -> bool:
    """Whether the session is in the registry: after its end only until the disconnect handlers have ended."""
    return session.state is not State.ENDED or session.running_disconnect_handlers > 0


@dataclass(eq=False)
class JoinRoom(SessionOperation):
    """A session joins a room, for the events after this point."""

    room: Room

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (RoomJoined(self.session.namespace, self.session.sid, self.room),)

    def apply(self, context: Context, changes: Sequence[Change]) -> None:
        if _is_known(self.session):
            context.registry.enter(self.session, self.room, context.position)


@dataclass(eq=False)
class LeaveRoom(SessionOperation):
    """A session leaves a room; events before this point are still for the session."""

    room: Room

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (RoomLeft(self.session.namespace, self.session.sid, self.room),)

    def apply(self, context: Context, changes: Sequence[Change]) -> None:
        if _is_known(self.session):
            context.registry.leave(self.session, self.room, context.position)


@dataclass(eq=False)
class CloseRoom(Operation):
    """All sessions leave a room, including sessions that are away."""

    namespace: str
    room: Room

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (RoomClosed(self.namespace, self.room),)

    def apply(self, context: Context, changes: Sequence[Change]) -> None:
        for session in list(context.registry.rooms.get((self.namespace, self.room), {})):
            context.registry.leave(session, self.room, context.position)


@dataclass(eq=False)
class SaveData(SessionOperation):
    """The saved data of a session are replaced."""

    data: str

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (DataSaved(self.session.namespace, self.session.sid, self.data),)

    def apply(self, context: Context, changes: Sequence[Change]) -> None:
        self.session.data = self.data


@dataclass(eq=False)
class BindIdentity(SessionOperation):
    """A session belongs to an identity from here on."""

    attached: SessionConnection
    """The connection that has authenticated as the identity."""
    identity: str

    @property
    def size_bytes(self) -> int:
        return len(self.identity)

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (SessionBound(self.session.namespace, self.session.sid, self.identity),)

    def apply(self, context: Context, changes: Sequence[Change]) -> None:
        self.session.identity = self.identity
        if self.attached is not NOT_CONNECTED:
            self.attached.authenticated_as = self.identity


@dataclass(eq=False)
class StoreIdempotencyKey(Operation):
    """An event of a client was handled; stored together with the deferred operations of the handler."""

    handled: EventHandled

    @property
    def size_bytes(self) -> int:
        return len(self.handled.acknowledgement)

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (self.handled,)

    def apply(self, context: Context, changes: Sequence[Change]) -> None:
        """Do nothing: the acknowledgement follows as an operation of its own."""
