"""The operations in the life of a session: opened, accepted or refused, away, ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from socketio_eventlog.errors import StoreError
from socketio_eventlog.records import (
    Change,
    IdentityRevoked,
    SessionAway,
    SessionEnded,
    SessionOpened,
    SessionResumed,
)
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operation import Context, Operation
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import ClientConnection, Session, SessionConnection, State


@dataclass(eq=False)
class OpenSession(Operation):
    """A new session, which begins at this point of the order and is on disk before its CONNECT."""

    session: Session
    opened_at: float
    """Wall-clock time in seconds."""

    def changes(self, registry: Registry) -> Sequence[Change]:
        s = self.session
        return (SessionOpened(s.namespace, s.sid, s.pid_hash, s.former_offset, self.opened_at, s.auth_hash),)

    def apply(self, context: Context, changes: Sequence[Change]) -> None:
        session = self.session
        # An offset of the present epoch, although an earlier epoch may have stored the last event.
        session.start = context.log.offset_at(context.position)
        session.confirmed = context.position
        context.registry.add(session)


@dataclass(eq=False)
class AcceptSession(Operation):
    """The connect handler has accepted: CONNECT, then the missed events, then live events.

    The result is whether the client was accepted: another connection may have claimed the session.
    """

    session: Session
    attached: SessionConnection
    pid: str | None
    """The private id for the CONNECT packet; None when recovery is disabled."""
    resumed_at: float
    """Wall-clock time in seconds."""
    deferred: Sequence[Operation] = ()
    """The changes of a recovered session by the connect handler: done now, or never after a refusal."""

    @property
    def may_store(self) -> bool:
        return self.attached.recovered

    def changes(self, registry: Registry) -> Sequence[Change]:
        s = self.session
        if not self.attached.recovered or not s.is_claimed_by(self.attached):
            return ()
        deferred = [change for operation in self.deferred for change in operation.changes(registry)]
        return (SessionResumed(s.namespace, s.sid, self.resumed_at), *deferred)

    def apply(self, context: Context, changes: Sequence[Change]) -> bool:
        session, attached = self.session, self.attached
        if changes:
            for operation in self.deferred:
                operation.apply(context, ())
        if not session.is_claimed_by(attached) or attached.connection is None:
            return False
        for superseded in attached.superseded:
            context.fan_out.put(superseded, context.encoder.disconnect(session.namespace))
        attached.superseded = ()
        connect = context.encoder.connect(session.namespace, session.sid, self.pid)
        context.fan_out.put(attached.connection, connect)
        session.move(State.REPLAYING)
        session.left_by_client = False
        session.confirm(attached.sent)
        context.begin_replay(session)
        return True

    def refused(self, context: Context, error: StoreError) -> None:
        if self.session.is_claimed_by(self.attached) and self.attached.connection is not None:
            self.attached.connection.abort("the store is not available")


@dataclass(eq=False)
class RefuseSession(Operation):
    """The connect handler has refused. A new session is deleted; a recovered one stays as before."""

    has_happened = True
    session: Session
    attached: SessionConnection
    error: Frames | None
    """The CONNECT_ERROR packet; None when the client gets another session instead."""
    refused_at: float
    """Wall-clock time in seconds."""

    def changes(self, registry: Registry) -> Sequence[Change]:
        s = self.session
        if not s.is_claimed_by(self.attached):
            return ()
        if not self.attached.recovered:
            return (SessionEnded(s.namespace, s.sid),)
        if self.attached.superseded:  # the session was connected until this connection claimed it
            return (SessionAway(s.namespace, s.sid, self.refused_at, s.away_since, s.confirmed),)
        return ()

    def apply(self, context: Context, changes: Sequence[Change]) -> None:
        connection = self._step_back(context)
        if connection is not None and self.error is not None:
            context.fan_out.put(connection, self.error)

    def refused(self, context: Context, error: StoreError) -> None:
        connection = self._step_back(context)
        if connection is not None:  # without CONNECT_ERROR: the client tries again when the store is back
            connection.abort("the store is not available")

    def _step_back(self, context: Context) -> ClientConnection | None:
        session = self.session
        if not session.is_claimed_by(self.attached):
            return None
        connection = session.detach()
        if self.attached.recovered:
            session.move(State.AWAY)
            abort_superseded(self.attached)
        else:
            session.move(State.ENDED)
            context.registry.remove(session)
        return connection


def abort_superseded(attached: SessionConnection) -> None:
    """Close the connections that lost the session to a client that was not accepted.

    They get no DISCONNECT packet, so the owner of the session comes back.
    """
    for superseded in attached.superseded:
        superseded.abort("the session was claimed by a client that was not accepted")
    attached.superseded = ()


@dataclass(eq=False)
class MarkAway(Operation):
    """A transport ended in a recoverable way; the session waits for its client."""

    has_happened = True
    session: Session
    attached: SessionConnection
    disconnected_at: float
    """Wall-clock time in seconds."""

    def changes(self, registry: Registry) -> Sequence[Change]:
        s = self.session
        if s.current is not self.attached or s.state is not State.AWAY:
            return ()
        return (
            SessionAway(
                s.namespace, s.sid, self.disconnected_at, s.away_since, s.confirmed, s.left_by_client
            ),
        )

    def apply(self, context: Context, changes: Sequence[Change]) -> None:
        """Do nothing: memory has the change already, and the connection is gone."""


@dataclass(frozen=True, slots=True)
class EndedSession:
    """A session at the moment of its end."""

    connection: ClientConnection | None
    was_accepted: bool


@dataclass(eq=False)
class EndSession(Operation):
    """A session is over for good; no client can claim the session from here on.

    When the store refuses the change, the session ends in memory all the same. The result is an
    EndedSession, or None when the session was over already.
    """

    has_happened = True
    session: Session

    def changes(self, registry: Registry) -> Sequence[Change]:
        if self.session.state is State.ENDED:
            return ()
        return (SessionEnded(self.session.namespace, self.session.sid),)

    def apply(self, context: Context, changes: Sequence[Change]) -> EndedSession | None:
        return self._end(context)

    def refused(self, context: Context, error: StoreError) -> None:
        self._end(context)

    def _end(self, context: Context) -> EndedSession | None:
        session = self.session
        if session.state is State.ENDED:
            return None
        was_accepted = session.is_connected
        connection = session.detach()
        session.move(State.ENDED)
        if not session.running_disconnect_handlers:  # handlers may still ask for rooms and data
            context.registry.remove(session)
        return EndedSession(connection, was_accepted)


@dataclass(eq=False)
class RevokeSession(EndSession):
    """The application ends a session. When the store refuses the change, nothing has changed."""

    has_happened = False

    def refused(self, context: Context, error: StoreError) -> None:
        return


@dataclass(eq=False)
class DisconnectSession(RevokeSession):
    """The application disconnects a client with a DISCONNECT packet, after which the client stays away."""

    def apply(self, context: Context, changes: Sequence[Change]) -> EndedSession | None:
        ended = self._end(context)
        if ended is not None:
            self.session.disconnected_by_server = True
            if ended.connection is not None and ended.was_accepted:
                context.fan_out.put(ended.connection, context.encoder.disconnect(self.session.namespace))
        return ended


@dataclass(eq=False)
class RevokeIdentity(Operation):
    """The application ends all sessions of an identity, in every namespace, connected or away.

    The result is a dict of the sessions, each with an EndedSession. A disconnect handler counts as running
    for each session whose client was connected: the caller is to run it. When the store refuses the change,
    nothing has changed.
    """

    identity: str

    @property
    def size_bytes(self) -> int:
        return len(self.identity)

    def changes(self, registry: Registry) -> Sequence[Change]:
        # Not the sessions of this moment: an earlier operation of the batch may bind one more.
        return (IdentityRevoked(self.identity),)

    def apply(self, context: Context, changes: Sequence[Change]) -> dict[Session, EndedSession]:
        ended: dict[Session, EndedSession] = {}
        for session in list(context.registry):
            if session.identity != self.identity or session.state is State.ENDED:
                continue
            was_accepted = session.is_connected
            ended[session] = EndedSession(session.detach(), was_accepted)
            session.move(State.ENDED)
            session.running_disconnect_handlers += was_accepted
            if not session.running_disconnect_handlers:
                context.registry.remove(session)
        return ended
