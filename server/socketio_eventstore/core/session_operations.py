"""The operations in the life of a session: opened, claimed, accepted or refused, away, ended."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from socketio_eventlog.changes import Batch, Change, Committed
from socketio_eventlog.errors import StoreClosed, StoreError
from socketio_eventlog.session_changes import (
    IdentityRevoked,
    SessionAway,
    SessionClaimed,
    SessionEnd,
    SessionEnded,
    SessionOpened,
    SessionResumed,
)
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.effects import take_effect
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operation import Operation, UnstoredOperation
from socketio_eventstore.core.operations import SessionOperation
from socketio_eventstore.core.session_effects import claimed, end, resumed, step_back
from socketio_eventstore.core.sessions import ClientConnection, Session, SessionConnection, State

ENDED_MEANWHILE: Final = "the token ended while the client connected"


@dataclass(eq=False)
class OpenSession(Operation):
    """A new session, which begins at this point of the order and is on disk before the CONNECT packet.

    The submitter gets the session, connection included.
    """

    opened: SessionOpened
    connection: ClientConnection
    more: Sequence[Change] = field(default=(), kw_only=True)
    """Changes of the new session in the same transaction, from the client's token."""

    def changes(self) -> Sequence[Change]:
        return (self.opened, *self.more)

    def apply(self, context: Context, batch: Batch, committed: Sequence[Committed]) -> Session:
        session: Session = take_effect(context, batch, committed[0])
        for change in committed[1:]:
            take_effect(context, batch, change)
        session.attach(self.connection)
        return session

    def outcome(self, context: Context, committed: Sequence[Committed]) -> Session:
        raise StoreClosed


@dataclass(eq=False)
class OpenAcceptedSession(OpenSession):
    """A new session without a connect handler: opened and accepted in one transaction.

    A session with a closed connection stays unaccepted.
    """

    pid: str | None
    """The private id for the CONNECT packet; None when recovery is disabled."""
    accepted_at: float
    """The time on the monotonic clock, in seconds."""
    connected_at: float
    """The wall-clock time, in seconds."""

    def apply(self, context: Context, batch: Batch, committed: Sequence[Committed]) -> Session:
        session = super().apply(context, batch, committed)
        if not self.connection.closed:
            session.current.accepted_at = self.accepted_at
            session.current.connected_at = self.connected_at
            _accept(context, session, session.current, self.pid)
        return session


@dataclass(eq=False)
class ClaimSession(Operation):
    """A returning client has the session from this point on; any earlier connection falls silent.

    The submitter gets the connection's part of the session, or None when the session has ended.
    """

    session: Session
    connection: ClientConnection

    def changes(self) -> Sequence[Change]:
        return (SessionClaimed(self.session.namespace, self.session.sid),)

    def apply(
        self, context: Context, batch: Batch, committed: Sequence[Committed]
    ) -> SessionConnection | None:
        session = claimed(context, batch, committed[0])
        return None if session is None else session.attach(self.connection, recovered=True)

    def outcome(self, context: Context, committed: Sequence[Committed]) -> SessionConnection | None:
        raise StoreClosed


@dataclass(eq=False)
class AcceptSession(UnstoredOperation):
    """The connect handler has accepted a new session: CONNECT, then live events.

    The submitter gets whether the client was accepted: the connection may be closed, the session over.
    """

    session: Session
    attached: SessionConnection
    pid: str | None
    """The private id for the CONNECT packet; None when recovery is disabled."""

    def send(self, context: Context) -> bool:
        return _accept(context, self.session, self.attached, self.pid)


@dataclass(eq=False)
class ResumeSession(Operation):
    """The connect handler has accepted a returning client: CONNECT, the missed events, then live events.

    The submitter gets whether the client was accepted: another claim or the end of the session may have come
    before.
    """

    session: Session
    attached: SessionConnection
    pid: str
    """The private id for the CONNECT packet."""
    resumed_at: float
    """Wall-clock time in seconds."""
    deferred: Sequence[SessionOperation] = ()
    """The changes of the session by the connect handler: done now, or never after a refusal."""
    missed: int = 0
    """The number of missed events, at most, for the history."""

    def changes(self) -> Sequence[Change]:
        deferred = tuple([operation.change() for operation in self.deferred]) if self.deferred else ()
        session, claim = self.session, self.attached.claim
        namespace, sid = session.namespace, session.sid
        return (SessionResumed(namespace, sid, claim, self.resumed_at, deferred, self.missed),)

    def apply(self, context: Context, batch: Batch, committed: Sequence[Committed]) -> bool:
        session = resumed(context, batch, committed[0])
        return session is not None and _accept(context, session, self.attached, self.pid)

    def refused(self, context: Context, error: StoreError) -> None:
        if self.session.is_claimed_by(self.attached) and self.attached.connection is not None:
            self.attached.connection.abort("the store is not available")


def _accept(context: Context, session: Session, attached: SessionConnection, pid: str | None) -> bool:
    connection = attached.connection
    if session.current is not attached or session.state is not State.CONNECTING or connection is None:
        return False
    if attached.expires_at is not None and attached.is_over(time.time()):
        connection.abort(ENDED_MEANWHILE)  # without CONNECT_ERROR: the client comes back with a new token
        return False
    context.fan_out.put(connection, context.encoder.connect(session.namespace, session.sid, pid))
    session.move(State.REPLAYING)
    session.confirm(attached.sent)
    context.begin_replay(session)
    return True


@dataclass(eq=False)
class RefuseSession(Operation):
    """The connect handler has refused. A new session ends; a recovered session stays as before.

    The submitter gets whether the refusal had an effect: another claim may have come before.
    """

    has_happened = passes_full_queue = True
    session: Session
    attached: SessionConnection
    error: Frames | None
    """The CONNECT_ERROR packet; None when the client gets another session instead."""
    refused_at: float
    """Wall-clock time in seconds."""
    result: str | None = None
    """Why a recovered session was refused, for the history; None when the client has gone meanwhile."""

    def changes(self) -> Sequence[Change]:
        session, claim = self.session, self.attached.claim
        if self.attached.recovered:
            return (
                SessionAway(
                    session.namespace,
                    session.sid,
                    claim,
                    self.refused_at,
                    session.confirmed,
                    session.left_by_client,
                    refusal=self.result,
                ),
            )
        return (SessionEnded(session.namespace, session.sid, SessionEnd.REFUSED, claim),)

    def apply(self, context: Context, batch: Batch, committed: Sequence[Committed]) -> bool:
        connection = self._present_connection()
        take_effect(context, batch, committed[0])
        if connection is not None and self.error is not None:
            context.fan_out.put(connection, self.error)
        return committed[0].took_effect

    def refused(self, context: Context, error: StoreError) -> None:
        connection = self._present_connection()
        if self.session.is_claimed_by(self.attached):
            if self.attached.recovered:
                step_back(context, self.session)
            else:
                end(context, self.session, SessionEnd.REFUSED)
        if connection is not None:  # without CONNECT_ERROR: the client tries again when the store is back
            connection.abort("the store is not available")

    def _present_connection(self) -> ClientConnection | None:
        return self.attached.connection if self.session.is_claimed_by(self.attached) else None


@dataclass(eq=False)
class MarkAway(Operation):
    """A transport ended in a recoverable way; the session waits for its client.

    The session is AWAY on this node already: the connection has ended.
    """

    has_happened = passes_full_queue = True
    session: Session
    claim: int
    """The claim of the ended connection."""
    disconnected_at: float
    """Wall-clock time in seconds."""
    left_by_client: bool = False
    """Whether the client itself left. The session says so when the log does, as on all other nodes."""
    reason: str = ""
    """Why the transport ended, for the history."""

    def changes(self) -> Sequence[Change]:
        session = self.session
        return (
            SessionAway(
                session.namespace,
                session.sid,
                self.claim,
                self.disconnected_at,
                session.confirmed,
                session.left_by_client or self.left_by_client,
                self.reason,
            ),
        )

    def refused(self, context: Context, error: StoreError) -> None:
        session = self.session
        if session.claim == self.claim and session.state is State.AWAY:
            session.left_by_client |= self.left_by_client
            step_back(context, session)


@dataclass(eq=False)
class EndSession(Operation):
    """A session is over for good; no client can claim the session from here on.

    The submitter gets an EndedSession, or None when the session was over already.
    """

    session: Session
    reason: SessionEnd
    caller: contextvars.Context = field(default_factory=contextvars.copy_context, kw_only=True)
    """The context variables of the caller, for the disconnect handler."""

    def changes(self) -> Sequence[Change]:
        return (SessionEnded(self.session.namespace, self.session.sid, self.reason),)

    def apply(self, context: Context, batch: Batch, committed: Sequence[Committed]) -> object:
        return self.caller.run(super().apply, context, batch, committed)


@dataclass(eq=False)
class EndWithTransport(EndSession):
    """A transport ended unrecoverably.

    When the store refuses the change, the session ends in memory all the same.
    """

    has_happened = passes_full_queue = True
    claim: int
    """The claim of the ended connection."""

    def changes(self) -> Sequence[Change]:
        return (SessionEnded(self.session.namespace, self.session.sid, self.reason, self.claim),)

    def refused(self, context: Context, error: StoreError) -> None:
        if self.session.claim == self.claim:
            end(context, self.session, self.reason)


@dataclass(eq=False)
class RevokeIdentity(Operation):
    """The application ends all sessions of an identity, in every namespace, connected or away.

    The submitter gets an EndedSession for each. When the store refuses the change, nothing has changed.
    """

    identity: str
    caller: contextvars.Context = field(default_factory=contextvars.copy_context, kw_only=True)
    """The context variables of the caller, for the disconnect handlers."""

    def __post_init__(self) -> None:
        self.size_bytes = len(self.identity)

    def apply(self, context: Context, batch: Batch, committed: Sequence[Committed]) -> object:
        return self.caller.run(super().apply, context, batch, committed)

    def changes(self) -> Sequence[Change]:
        # Not the present sessions: an earlier operation of the batch may bind another session.
        return (IdentityRevoked(self.identity),)
