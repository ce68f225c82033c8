"""The operations for events, packets, rooms and data.

The operations in the life of a session are in ``session_operations``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    Pruned,
    Redacted,
    Volatile,
)
from socketio_eventlog.events import NAME_BYTES, Event, Room
from socketio_eventlog.session_changes import (
    DataSaved,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionBound,
    TokenAccepted,
)
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.effects import emitted
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operation import Operation, UnstoredOperation
from socketio_eventstore.core.sessions import (
    NOT_CONNECTED,
    ClientConnection,
    Session,
    SessionConnection,
    State,
)
from socketio_eventstore.core.unstored import ask, broadcast, send_or_defer


class Emit(Operation):
    """A recoverable event: stored, then sent to the live members. The result is the offset."""

    changes_recipients = False

    def __init__(self, event: Event) -> None:
        self.event = event
        _, _, payload, attachments, rooms, skip, _ = event
        is_usual = not attachments and not skip and (rooms is None or len(rooms) < 2)
        self.size_bytes = len(payload) if is_usual else event.weight_bytes

    def changes(self) -> Sequence[Change]:
        return (self.event,)

    def apply(self, context: Context, batch: Batch, committed: Sequence[Committed]) -> str | None:
        return emitted(
            context, batch, committed[0], self.size_bytes
        )  # the default, with two calls less for each event

    def outcome(self, context: Context, committed: Sequence[Committed]) -> str | None:
        return offset_of(context, committed[0].position)


def offset_of(context: Context, position: int) -> str | None:
    """Return the offset of an event in this node's last batch; None without recovery."""
    return context.log.offset_text(position) if context.log.is_durable else None


class EmitVolatile(UnstoredOperation):
    """An unstored event for the clients of this node only.

    The frames end in the present offset (see ``unstored.volatile``).
    """

    changes_recipients = False

    def __init__(self, event: Event) -> None:
        self.event = event
        self.size_bytes = event.weight_bytes

    def send(self, context: Context) -> None:
        broadcast(context, self.event, context.offset)


class EmitVolatileEverywhere(Operation):
    """An unstored event for the clients of several nodes."""

    changes_recipients = False

    def __init__(self, event: Event) -> None:
        self.event = event
        self.size_bytes = event.weight_bytes

    def changes(self) -> Sequence[Change]:
        return (Volatile(self.event),)


class EmitWithAck(UnstoredOperation):
    """An event with acknowledgements: each recipient gets a separate packet; not stored."""

    def __init__(self, event: Event, packet_for: Callable[[Session], Frames]) -> None:
        self.event = event
        self._packet_for = packet_for
        self.size_bytes = event.weight_bytes

    def send(self, context: Context) -> None:
        ask(context, self.event, self._packet_for)


class EmitWithAckEverywhere(Operation):
    """The same for clients of several nodes."""

    def __init__(self, asked: Asked, packet_for: Callable[[Session], Frames]) -> None:
        """``packet_for`` makes the packets for the clients of this node."""
        self.event = asked.event
        self._asked = asked
        self._packet_for = packet_for
        self.size_bytes = asked.event.weight_bytes

    def changes(self) -> Sequence[Change]:
        return (self._asked,)

    def apply(self, context: Context, batch: Batch, committed: Sequence[Committed]) -> None:
        ask(context, self.event, self._packet_for)


class SendPacket(UnstoredOperation):
    """A packet for one connection, such as an acknowledgement; not stored."""

    changes_recipients = False

    def __init__(self, connection: ClientConnection, namespace: str, frames: Frames) -> None:
        self._connection = connection
        self._namespace = namespace
        self._frames = frames
        self.size_bytes = frames.size_bytes

    def send(self, context: Context) -> None:
        session = self._connection.sessions.get(self._namespace)
        if session is None or session.state is State.LIVE:
            context.fan_out.put(self._connection, self._frames)
        else:
            send_or_defer(context, session, self._frames)


@dataclass(eq=False)
class SessionOperation(Operation):
    """A change of a session by the handlers."""

    size_bytes = NAME_BYTES
    session: Session

    @abstractmethod
    def change(self) -> DataSaved | SessionBound | TokenAccepted | RoomJoined | RoomLeft:
        """Return the change of the session."""

    def changes(self) -> Sequence[Change]:
        return (self.change(),)


@dataclass(eq=False)
class JoinRoom(SessionOperation):
    """A session joins a room, for the events after this point."""

    room: Room

    def change(self) -> RoomJoined:
        return RoomJoined(self.session.namespace, self.session.sid, self.room)


@dataclass(eq=False)
class LeaveRoom(SessionOperation):
    """A session leaves a room; events before this point are still for the session."""

    room: Room
    through: int | None = None
    """The sequence of the last event for the session, if earlier than this point."""

    def change(self) -> RoomLeft:
        return RoomLeft(self.session.namespace, self.session.sid, self.room, self.through)


@dataclass(eq=False)
class CloseRoom(Operation):
    """All sessions leave a room, including sessions that are away."""

    namespace: str
    room: Room

    def changes(self) -> Sequence[Change]:
        return (RoomClosed(self.namespace, self.room),)


@dataclass(eq=False)
class SaveData(SessionOperation):
    """The saved data of a session are replaced."""

    data: str

    def __post_init__(self) -> None:
        self.size_bytes = NAME_BYTES + len(self.data)

    def change(self) -> DataSaved:
        return DataSaved(self.session.namespace, self.session.sid, self.data)


@dataclass(eq=False)
class BindIdentity(SessionOperation):
    """A session belongs to an identity from here on."""

    attached: SessionConnection
    """The connection authenticated as the identity."""
    identity: str

    def __post_init__(self) -> None:
        self.size_bytes = NAME_BYTES + len(self.identity)

    def change(self) -> SessionBound:
        return SessionBound(self.session.namespace, self.session.sid, self.identity)

    def apply(self, context: Context, batch: Batch, committed: Sequence[Committed]) -> None:
        super().apply(context, batch, committed)
        if self.attached is not NOT_CONNECTED:
            self.attached.authenticated_as = self.identity


@dataclass(eq=False)
class AcceptToken(SessionOperation):
    """The client of a session has shown a token, which ends later and may name other rooms."""

    expires_at: float | None
    """The wall-clock time in seconds; None for a token without an end."""
    rooms: tuple[Room, ...]

    def change(self) -> TokenAccepted:
        return TokenAccepted(self.session.namespace, self.session.sid, self.expires_at, self.rooms)


@dataclass(eq=False)
class StoreIdempotencyKey(Operation):
    """An event of a client was handled; stored together with the deferred operations of the handler."""

    handled: EventHandled

    def __post_init__(self) -> None:
        self.size_bytes = len(self.handled.acknowledgement)

    def changes(self) -> Sequence[Change]:
        return (self.handled,)


@dataclass(eq=False)
class WriteHeartbeat(Operation):
    """The node is alive, and the uptime goes on."""

    passes_full_queue = True
    heartbeat: Callable[[], Heartbeat]
    """Asked when the heartbeat is appended."""

    def changes(self) -> Sequence[Change]:
        return (self.heartbeat(),)


@dataclass(eq=False)
class DeclareDead(Operation):
    """A node without a heartbeat for too long is dead; its sessions are away."""

    passes_full_queue = True
    node: str

    def changes(self) -> Sequence[Change]:
        return (NodeDied(self.node),)


@dataclass(eq=False)
class SayDeparted(Operation):
    """The handlers of a session have ended on this node; another node waits for the end."""

    passes_full_queue = True
    departed: Departed

    def changes(self) -> Sequence[Change]:
        return (self.departed,)


@dataclass(eq=False)
class Answer(Operation):
    """A client has acknowledged an event of another node."""

    answered: Answered

    def __post_init__(self) -> None:
        self.size_bytes = len(self.answered.arguments) + sum(map(len, self.answered.attachments))

    def changes(self) -> Sequence[Change]:
        return (self.answered,)


@dataclass(eq=False)
class Prune(Operation):
    """The events up to a sequence are deleted."""

    passes_full_queue = True
    through: int

    def changes(self) -> Sequence[Change]:
        return (Pruned(self.through),)


@dataclass(eq=False)
class Redact(Operation):
    """The name and the arguments of an event are replaced. The result: whether there was such an event."""

    changes_recipients = False
    redacted: Redacted

    def __post_init__(self) -> None:
        self.size_bytes = len(self.redacted.payload)

    def changes(self) -> Sequence[Change]:
        return (self.redacted,)

    def outcome(self, context: Context, committed: Sequence[Committed]) -> bool:
        return committed[0].took_effect


@dataclass(eq=False)
class CatchUp(Operation):
    """The submitter goes on when all earlier changes have taken effect on this node."""

    def changes(self) -> Sequence[Change]:
        return (Pruned(0),)  # deletes nothing
