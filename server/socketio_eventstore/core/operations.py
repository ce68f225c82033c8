"""The turns of events, packets, rooms and data: what each stores and what it does.

Those of sessions that begin, are claimed and end are in ``session_turns``.

A turn's ``changes`` are committed first; ``apply`` runs after that, on the event loop, in the order of
the log. What a turn finds in memory is therefore exactly what the turns before it left there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from socketio_eventlog.records import (
    Answered,
    Change,
    DataSaved,
    Event,
    Room,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionBound,
)
from socketio_eventstore.core.commit_queue import Dispatcher, Turn
from socketio_eventstore.core.packets import Frames
from socketio_eventstore.core.sessions import Connection, Registry, Session, State

HELD_PACKETS = 1000
"""Packets outside the log that may wait for a session's replay; beyond that its transport is closed."""
HELD_BYTES = 1_000_000


def hold(session: Session, frames: Frames, position: int) -> None:
    """Keep a packet that is not in the log until the session's replay has come to its position."""
    session.held.append((position, frames))
    session.held_bytes += frames.size_bytes
    too_much = len(session.held) > HELD_PACKETS or session.held_bytes > HELD_BYTES
    if too_much and session.connection is not None:
        session.connection.abort("too much is waiting for the replay")


@dataclass(eq=False)
class Emit(Turn):
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
        dispatcher.tail.append(dispatcher.position, self.event, _broadcast(dispatcher, self.event, offset))
        return offset


@dataclass(eq=False)
class Volatile(Turn):
    """An event that is not stored. It ends in the present offset, since clients read one from it."""

    broadcasts = True
    event: Event

    @property
    def size_bytes(self) -> int:
        return self.event.size_bytes

    def apply(self, dispatcher: Dispatcher) -> None:
        _broadcast(dispatcher, self.event, dispatcher.offset)


def _broadcast(dispatcher: Dispatcher, event: Event, offset: str | None) -> Frames:
    frames = dispatcher.codec.event(event.namespace, event.payload, event.attachments, offset)
    dispatcher.outbox.broadcast((event.namespace, event.rooms, event.skip), frames)
    return frames


@dataclass(eq=False)
class Acknowledged(Turn):
    """An event that asks for an acknowledgement: each recipient gets its own packet; not stored."""

    event: Event
    packet_for: Callable[[Session], Frames]

    @property
    def size_bytes(self) -> int:
        return self.event.size_bytes

    def apply(self, dispatcher: Dispatcher) -> None:
        for session in dispatcher.registry.members(self.event.namespace, self.event.rooms):
            if session.connection is not None and session.sid not in self.event.skip:
                _send_or_hold(dispatcher, session, self.packet_for(session))


@dataclass(eq=False)
class Reply(Turn):
    """A packet for one connection, such as an acknowledgement; not stored."""

    connection: Connection
    namespace: str
    frames: Frames

    @property
    def size_bytes(self) -> int:
        return self.frames.size_bytes

    def apply(self, dispatcher: Dispatcher) -> None:
        session = self.connection.sessions.get(self.namespace)
        if session is None:
            dispatcher.outbox.put(self.connection, self.frames)
        else:
            _send_or_hold(dispatcher, session, self.frames)


def _send_or_hold(dispatcher: Dispatcher, session: Session, frames: Frames) -> None:
    if session.state is State.LIVE and session.connection is not None:
        dispatcher.outbox.put(session.connection, frames)
    else:
        hold(session, frames, dispatcher.position)


@dataclass(eq=False)
class SessionTurn(Turn):
    """A change of one session by the handlers."""

    session: Session


@dataclass(eq=False)
class Join(SessionTurn):
    """A session enters a room, for the events after this point."""

    room: Room

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (RoomJoined(self.session.namespace, self.session.sid, self.room),)

    def apply(self, dispatcher: Dispatcher) -> None:
        if self.session.state is not State.ENDED:
            dispatcher.registry.enter(self.session, self.room, dispatcher.position)


@dataclass(eq=False)
class Leave(SessionTurn):
    """A session leaves a room; what came before this point is still for it."""

    room: Room

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (RoomLeft(self.session.namespace, self.session.sid, self.room),)

    def apply(self, dispatcher: Dispatcher) -> None:
        if self.session.state is not State.ENDED:
            dispatcher.registry.leave(self.session, self.room, dispatcher.position)


@dataclass(eq=False)
class CloseRoom(Turn):
    """Everybody leaves a room, those that are away as well."""

    namespace: str
    room: Room

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (RoomClosed(self.namespace, self.room),)

    def apply(self, dispatcher: Dispatcher) -> None:
        for session in list(dispatcher.registry.rooms.get((self.namespace, self.room), {})):
            dispatcher.registry.leave(session, self.room, dispatcher.position)


@dataclass(eq=False)
class Save(SessionTurn):
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
class Bind(SessionTurn):
    """A session belongs to an identity from here on."""

    identity: str

    @property
    def size_bytes(self) -> int:
        return len(self.identity)

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (SessionBound(self.session.namespace, self.session.sid, self.identity),)

    def apply(self, dispatcher: Dispatcher) -> None:
        self.session.identity = self.session.vouched = self.identity


@dataclass(eq=False)
class KeepAnswer(Turn):
    """A client's event was handled; this is stored with what its handler asked for, or not at all."""

    answered: Answered

    @property
    def size_bytes(self) -> int:
        return len(self.answered.answer)

    def changes(self, registry: Registry) -> Sequence[Change]:
        return (self.answered,)

    def apply(self, dispatcher: Dispatcher) -> None:
        """The acknowledgement follows as a turn of its own."""
