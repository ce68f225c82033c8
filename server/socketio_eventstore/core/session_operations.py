"""The turns in a session's life: it is opened, accepted or refused, goes away, comes back, ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from socketio_eventlog.errors import StoreError
from socketio_eventlog.records import (
    Change,
    SessionAway,
    SessionEnded,
    SessionOpened,
    SessionResumed,
)
from socketio_eventstore.core.commit_queue import Dispatcher, Operation, PendingChange
from socketio_eventstore.core.packets import Frames
from socketio_eventstore.core.sessions import ClientConnection, Registry, Session, State


@dataclass(eq=False)
class OpenSession(Operation):
    """A new session. It begins at this point of the order, and is on disk before anybody hears of it."""

    session: Session
    opened_at: float

    def changes(self, registry: Registry) -> Sequence[Change]:
        s = self.session
        return (SessionOpened(s.namespace, s.sid, s.pid_hash, s.former_offset, self.opened_at),)

    def apply(self, dispatcher: Dispatcher) -> None:
        session = self.session
        session.start = dispatcher.log.offset_at(
            dispatcher.position
        )  # of this boot, whoever wrote the position
        session.confirmed = session.sent = session.pinged_position = dispatcher.position
        dispatcher.registry.add(session)


@dataclass(eq=False)
class AcceptSession(Operation):
    """The connect handler agreed: CONNECT, then what was missed, then live. Gives whether it came to that."""

    session: Session
    claim: int
    pid: str | None
    resumed_at: float
    deferred: Sequence[Operation] = ()
    """What the connect handler asked for a recovered session: done now, or never if it was refused."""
    _resumes: bool = False

    def changes(self, registry: Registry) -> Sequence[Change]:
        s = self.session
        self._resumes = s.recovered and _is_connecting(s, self.claim)
        if not self._resumes:
            return ()
        changes_deferred = [change for operation in self.deferred for change in operation.changes(registry)]
        return (SessionResumed(s.namespace, s.sid, self.resumed_at), *changes_deferred)

    def apply(self, dispatcher: Dispatcher) -> bool:
        session = self.session
        if self._resumes:
            for operation in self.deferred:
                operation.apply(dispatcher)
        if not _is_connecting(session, self.claim) or session.connection is None:
            return False
        for superseded in session.superseded:
            dispatcher.fan_out.put(superseded, dispatcher.encoder.disconnect(session.namespace))
        session.superseded.clear()
        connect = dispatcher.encoder.connect(session.namespace, session.sid, self.pid)
        dispatcher.fan_out.put(session.connection, connect)
        session.move(State.REPLAYING)
        session.confirm(session.sent)
        dispatcher.catch_up(session)
        return True

    def refused(self, dispatcher: Dispatcher, error: StoreError) -> Sequence[PendingChange]:
        if self.session.connection is not None and _is_connecting(self.session, self.claim):
            self.session.connection.abort("the store is not available")
        return ()


@dataclass(eq=False)
class RefuseSession(Operation):
    """The connect handler refused. A new session is deleted, a recovered one stays as it was."""

    session: Session
    claim: int
    error: Frames | None
    """The CONNECT_ERROR packet; None when the client is given another session instead."""
    refused_at: float

    def changes(self, registry: Registry) -> Sequence[PendingChange]:
        s = self.session
        if not _is_connecting(s, self.claim):
            return ()
        if not s.recovered:
            return (SessionEnded(s.namespace, s.sid),)
        if s.superseded:  # it was connected until it was claimed
            return (SessionAway(s.namespace, s.sid, self.refused_at, s.away_since, s.confirmed),)
        return ()

    def apply(self, dispatcher: Dispatcher) -> None:
        connection = self._step_back(dispatcher)
        if connection is not None and self.error is not None:
            dispatcher.fan_out.put(connection, self.error)

    def refused(self, dispatcher: Dispatcher, error: StoreError) -> Sequence[PendingChange]:
        pending = self.changes(dispatcher.registry)
        connection = self._step_back(dispatcher)
        if connection is not None:  # no CONNECT_ERROR: the client may try again when the store is back
            connection.abort("the store is not available")
        return pending

    def _step_back(self, dispatcher: Dispatcher) -> ClientConnection | None:
        session = self.session
        if not _is_connecting(session, self.claim):
            return None
        connection = session.detach()
        if session.recovered:
            session.move(State.AWAY)
            for superseded in session.superseded:  # whoever had it may come back for it
                superseded.abort("its session was claimed by somebody who was refused")
            session.superseded.clear()
        else:
            session.move(State.ENDED)
            dispatcher.registry.remove(session)
        return connection


def _is_connecting(session: Session, claim: int) -> bool:
    return session.claim == claim and session.state is State.CONNECTING


@dataclass(eq=False)
class MarkAway(Operation):
    """A transport ended in a recoverable way; the session waits for its owner."""

    session: Session
    claim: int
    disconnected_at: float

    def changes(self, registry: Registry) -> Sequence[PendingChange]:
        s = self.session
        if s.claim != self.claim or s.state is not State.AWAY:
            return ()
        return (SessionAway(s.namespace, s.sid, self.disconnected_at, s.away_since, s.confirmed),)

    def apply(self, dispatcher: Dispatcher) -> None:
        """The connection is dead already; there is nobody to tell."""

    def refused(self, dispatcher: Dispatcher, error: StoreError) -> Sequence[PendingChange]:
        return self.changes(dispatcher.registry)


@dataclass(frozen=True, slots=True)
class EndedSession:
    """What a session was at the moment of its end."""

    connection: ClientConnection | None
    was_accepted: bool


@dataclass(eq=False)
class EndSession(Operation):
    """A session is over for good; nobody can claim it from here on. Gives Ended, None if it was over.

    If that cannot be stored now it ends in memory all the same.
    """

    session: Session

    def changes(self, registry: Registry) -> Sequence[PendingChange]:
        if self.session.state is State.ENDED:
            return ()
        return (SessionEnded(self.session.namespace, self.session.sid),)

    def apply(self, dispatcher: Dispatcher) -> EndedSession | None:
        session = self.session
        if session.state is State.ENDED:
            return None
        accepted = session.state in (State.LIVE, State.REPLAYING)
        connection = session.detach()
        session.move(State.ENDED)
        if not session.running_disconnect_handlers:  # whose handlers may still ask for it
            dispatcher.registry.remove(session)
        return EndedSession(connection, accepted)

    def refused(self, dispatcher: Dispatcher, error: StoreError) -> Sequence[PendingChange]:
        pending = self.changes(dispatcher.registry)
        EndSession.apply(self, dispatcher)
        return pending


@dataclass(eq=False)
class RevokeSession(EndSession):
    """The application ends a session. If that cannot be stored, nothing has changed."""

    def refused(self, dispatcher: Dispatcher, error: StoreError) -> Sequence[PendingChange]:
        return ()


@dataclass(eq=False)
class DisconnectSession(RevokeSession):
    """The application disconnects a client, who is told by a DISCONNECT packet and does not return."""

    def apply(self, dispatcher: Dispatcher) -> EndedSession | None:
        ended = super().apply(dispatcher)
        if ended is not None:
            self.session.disconnected_by_server = True
            if ended.connection is not None and ended.was_accepted:
                farewell = dispatcher.encoder.disconnect(self.session.namespace)
                dispatcher.fan_out.put(ended.connection, farewell)
        return ended
