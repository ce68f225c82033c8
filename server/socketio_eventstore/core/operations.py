"""The turns of events, packets, rooms and data: what each stores and what it does.

Those of sessions that begin, are claimed and end are in ``session_turns``.

A turn's ``changes`` are committed first; ``apply`` runs after that, on the event loop, in the order of
the log. What a turn finds in memory is therefore exactly what the turns before it left there.
"""

from __future__ import annotations

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
from socketio_eventstore.core.commit_queue import Dispatcher, Operation
from socketio_eventstore.core.packets import Frames
from socketio_eventstore.core.sessions import ClientConnection, Registry, Session, State

MAX_DEFERRED_PACKETS = 1000
"""Packets outside the log that may wait for a session's replay; beyond that its transport is closed."""
MAX_DEFERRED_BYTES = 1_000_000


def defer_packet(session: Session, frames: Frames, position: int) -> None:
    """Keep a packet that is not in the log until the session's replay has come to its position."""
    session.deferred_packets.append((position, frames))
    session.deferred_bytes += frames.size_bytes
    too_much = (
        len(session.deferred_packets) > MAX_DEFERRED_PACKETS or session.deferred_bytes > MAX_DEFERRED_BYTES
    )
    if too_much and session.connection is not None:
        session.connection.abort("too much is waiting for the replay")


@dataclass(eq=False)
class Emit(Operation):
    """A recoverable event: stored, then sent to the members that are live. Gives its offset."""

    broadcasts = True
    event: Event

    @property
    def size_bytes(self) -> int:
        return self.event.size_bytes

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (self.event,)

    def apply(self, dispatcher: Dispatcher) -> str | None:
        offset = dispatcher.offset
        dispatcher.recent_events.append(
            dispatcher.position, self.event, _broadcast(dispatcher, self.event, offset)
        )
        return offset


@dataclass(eq=False)
class EmitVolatile(Operation):
    """An event that is not stored. It ends in the present offset, since clients read one from it."""

    broadcasts = True
    event: Event

    @property
    def size_bytes(self) -> int:
        return self.event.size_bytes

    def apply(self, dispatcher: Dispatcher) -> None:
        _broadcast(dispatcher, self.event, dispatcher.offset)


def _broadcast(dispatcher: Dispatcher, event: Event, offset: str | None) -> Frames:
    frames = dispatcher.encoder.event(event.namespace, event.payload, event.attachments, offset)
    dispatcher.fan_out.broadcast((event.namespace, event.rooms, event.skip), frames)
    return frames


@dataclass(eq=False)
class EmitWithAck(Operation):
    """An event that asks for an acknowledgement: each recipient gets its own packet; not stored."""

    event: Event
    packet_for: Callable[[Session], Frames]

    @property
    def size_bytes(self) -> int:
        return self.event.size_bytes

    def apply(self, dispatcher: Dispatcher) -> None:
        for session in dispatcher.registry.members(self.event.namespace, self.event.rooms):
            if session.connection is not None and session.sid not in self.event.skip:
                _send_or_defer(dispatcher, session, self.packet_for(session))


@dataclass(eq=False)
class SendPacket(Operation):
    """A packet for one connection, such as an acknowledgement; not stored."""

    connection: ClientConnection
    namespace: str
    frames: Frames

    @property
    def size_bytes(self) -> int:
        return self.frames.size_bytes

    def apply(self, dispatcher: Dispatcher) -> None:
        session = self.connection.sessions.get(self.namespace)
        if session is None:
            dispatcher.fan_out.put(self.connection, self.frames)
        else:
            _send_or_defer(dispatcher, session, self.frames)


def _send_or_defer(dispatcher: Dispatcher, session: Session, frames: Frames) -> None:
    if session.state is State.LIVE and session.connection is not None:
        dispatcher.fan_out.put(session.connection, frames)
    else:
        defer_packet(session, frames, dispatcher.position)


@dataclass(eq=False)
class SessionOperation(Operation):
    """A change of one session by the handlers."""

    session: Session


@dataclass(eq=False)
class JoinRoom(SessionOperation):
    """A session enters a room, for the events after this point."""

    room: Room

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (RoomJoined(self.session.namespace, self.session.sid, self.room),)

    def apply(self, dispatcher: Dispatcher) -> None:
        if self.session.state is not State.ENDED:
            dispatcher.registry.enter(self.session, self.room, dispatcher.position)


@dataclass(eq=False)
class LeaveRoom(SessionOperation):
    """A session leaves a room; what came before this point is still for it."""

    room: Room

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (RoomLeft(self.session.namespace, self.session.sid, self.room),)

    def apply(self, dispatcher: Dispatcher) -> None:
        if self.session.state is not State.ENDED:
            dispatcher.registry.leave(self.session, self.room, dispatcher.position)


@dataclass(eq=False)
class CloseRoom(Operation):
    """Everybody leaves a room, those that are away as well."""

    namespace: str
    room: Room

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (RoomClosed(self.namespace, self.room),)

    def apply(self, dispatcher: Dispatcher) -> None:
        for session in list(dispatcher.registry.rooms.get((self.namespace, self.room), {})):
            dispatcher.registry.leave(session, self.room, dispatcher.position)


@dataclass(eq=False)
class SaveData(SessionOperation):
    """The handlers' data of a session is replaced."""

    data: str

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (DataSaved(self.session.namespace, self.session.sid, self.data),)

    def apply(self, dispatcher: Dispatcher) -> None:
        self.session.data = self.data


@dataclass(eq=False)
class BindIdentity(SessionOperation):
    """A session belongs to an identity from here on."""

    identity: str

    @property
    def size_bytes(self) -> int:
        return len(self.identity)

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (SessionBound(self.session.namespace, self.session.sid, self.identity),)

    def apply(self, dispatcher: Dispatcher) -> None:
        self.session.identity = self.session.authenticated_as = self.identity


@dataclass(eq=False)
class StoreIdempotencyKey(Operation):
    """A client's event was handled; this is stored with what its handler asked for, or not at all."""

    handled: EventHandled

    @property
    def size_bytes(self) -> int:
        return len(self.handled.acknowledgement)

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (self.handled,)

    def apply(self, dispatcher: Dispatcher) -> None:
        """The acknowledgement follows as a turn of its own."""
