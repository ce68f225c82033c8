"""The turns in a session's life: it is opened, accepted or refused, goes away, comes back, ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from socketio_eventstore.server.dispatch import Dispatcher, Turn
from socketio_eventstore.server.packets import Frames
from socketio_eventstore.server.registry import Connection, Registry, Session, State
from socketio_eventstore.store.errors import StoreError
from socketio_eventstore.store.model import (
    Change,
    SessionAway,
    SessionEnded,
    SessionOpened,
    SessionResumed,
)


@dataclass(eq=False)
class Open(Turn):
    """A new session. It begins at this point of the order, and is on disk before anybody hears of it."""

    session: Session
    opened_at: float

    def changes(self, registry: Registry) -> Sequence[Change]:
        s = self.session
        return (SessionOpened(s.namespace, s.sid, s.pid_hash, s.former_offset, self.opened_at),)

    def apply(self, dispatcher: Dispatcher) -> None:
        session = self.session
        session.start = dispatcher.log.place(dispatcher.position)  # of this boot, whoever wrote the position
        session.confirmed = session.sent = session.mark = dispatcher.position
        dispatcher.registry.add(session)


@dataclass(eq=False)
class Accept(Turn):
    """The connect handler agreed: CONNECT, then what was missed, then live. Gives whether it came to that."""

    session: Session
    claim: int
    pid: str | None
    resumed_at: float
    displaced: Connection | None = None
    """The connection that the session was taken from."""

    def changes(self, registry: Registry) -> Sequence[Change]:
        s = self.session
        if s.recovered and _is_connecting(s, self.claim):
            return (SessionResumed(s.namespace, s.sid, self.resumed_at),)
        return ()

    def apply(self, dispatcher: Dispatcher) -> bool:
        session = self.session
        if not _is_connecting(session, self.claim) or session.connection is None:
            return False
        if self.displaced is not None:
            dispatcher.outbox.put(self.displaced, dispatcher.codec.disconnect(session.namespace))
        connect = dispatcher.codec.connect(session.namespace, session.sid, self.pid)
        dispatcher.outbox.put(session.connection, connect)
        session.move(State.REPLAYING)
        session.confirm(session.sent)
        dispatcher.catch_up(session)
        return True

    def refused(self, dispatcher: Dispatcher, error: StoreError) -> Sequence[Change]:
        if self.session.connection is not None and _is_connecting(self.session, self.claim):
            self.session.connection.abort("the store is not available")
        return ()


@dataclass(eq=False)
class Refuse(Turn):
    """The connect handler refused. A new session is deleted, a recovered one stays as it was."""

    session: Session
    claim: int
    error: Frames | None
    """The CONNECT_ERROR packet; None when the client is given another session instead."""
    refused_at: float
    displaced: bool
    """Whether the session was connected when it was claimed."""

    def changes(self, registry: Registry) -> Sequence[Change]:
        s = self.session
        if not _is_connecting(s, self.claim):
            return ()
        if not s.recovered:
            return (SessionEnded(s.namespace, s.sid),)
        if self.displaced:
            return (SessionAway(s.namespace, s.sid, self.refused_at, s.away_since, s.confirmed),)
        return ()

    def apply(self, dispatcher: Dispatcher) -> None:
        connection = self._step_back(dispatcher)
        if connection is not None and self.error is not None:
            dispatcher.outbox.put(connection, self.error)

    def refused(self, dispatcher: Dispatcher, error: StoreError) -> Sequence[Change]:
        owed = self.changes(dispatcher.registry)
        connection = self._step_back(dispatcher)
        if connection is not None:  # no CONNECT_ERROR: the client may try again when the store is back
            connection.abort("the store is not available")
        return owed

    def _step_back(self, dispatcher: Dispatcher) -> Connection | None:
        session = self.session
        if not _is_connecting(session, self.claim):
            return None
        connection = session.detach()
        if session.recovered:
            session.move(State.AWAY)
        else:
            session.move(State.ENDED)
            dispatcher.registry.remove(session)
        return connection


def _is_connecting(session: Session, claim: int) -> bool:
    return session.claim == claim and session.state is State.CONNECTING


@dataclass(eq=False)
class Away(Turn):
    """A transport ended in a recoverable way; the session waits for its owner."""

    session: Session
    claim: int
    disconnected_at: float

    def changes(self, registry: Registry) -> Sequence[Change]:
        s = self.session
        if s.claim != self.claim or s.state is not State.AWAY:
            return ()
        return (SessionAway(s.namespace, s.sid, self.disconnected_at, s.away_since, s.confirmed),)

    def apply(self, dispatcher: Dispatcher) -> None:
        """The connection is dead already; there is nobody to tell."""

    def refused(self, dispatcher: Dispatcher, error: StoreError) -> Sequence[Change]:
        return self.changes(dispatcher.registry)


@dataclass(eq=False)
class End(Turn):
    """A session is over for good; nobody can claim it from here on. Gives whether it was not already."""

    session: Session
    farewell: bool
    """Whether a connected client is told by a DISCONNECT packet, after which it does not return."""
    must: bool
    """Whether it ends in memory even if that cannot be stored now."""
    keep: bool
    """Whether it stays in the registry for a disconnect handler that asks for its rooms and data; who
    calls that handler removes it then."""

    def changes(self, registry: Registry) -> Sequence[Change]:
        if self.session.state is State.ENDED:
            return ()
        return (SessionEnded(self.session.namespace, self.session.sid),)

    def apply(self, dispatcher: Dispatcher) -> bool:
        session = self.session
        if session.state is State.ENDED:
            return False
        accepted = session.state in (State.LIVE, State.REPLAYING)
        connection = self._end(dispatcher)
        if connection is not None and self.farewell and accepted:
            dispatcher.outbox.put(connection, dispatcher.codec.disconnect(session.namespace))
        return True

    def refused(self, dispatcher: Dispatcher, error: StoreError) -> Sequence[Change]:
        if not self.must:
            return ()
        owed = self.changes(dispatcher.registry)
        if self.session.state is not State.ENDED:
            self._end(dispatcher)
        return owed

    def _end(self, dispatcher: Dispatcher) -> Connection | None:
        connection = self.session.detach()
        self.session.move(State.ENDED)
        if not self.keep:
            dispatcher.registry.remove(self.session)
        return connection
