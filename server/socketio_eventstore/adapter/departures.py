"""How clients go: lost transports, DISCONNECT packets, sessions that the application ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from socketio_eventlog.errors import StoreError
from socketio_eventstore.adapter.application import Application
from socketio_eventstore.adapter.handlers import HandlerCalls, HandlerSlot
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.session_operations import (
    DisconnectSession,
    EndedSession,
    EndSession,
    MarkAway,
    RevokeIdentity,
    RevokeSession,
)
from socketio_eventstore.core.sessions import ClientConnection, Session, State

logger = logging.getLogger(__name__)


class Departures:
    """Takes sessions off their connections and calls the disconnect handlers."""

    def __init__(self, application: Application, runtime: Runtime, calls: HandlerCalls) -> None:
        self._application = application
        self._runtime = runtime
        self._calls = calls

    def transport_closed(self, connection: ClientConnection, reason: str) -> Sequence[asyncio.Task[None]]:
        """Mark the sessions of a closed transport as away, at once.

        Return the tasks that call the disconnect handlers.
        """
        is_recoverable = self._recovers(connection)
        sessions = list(connection.sessions.values())
        now = self._runtime.clock()
        for session in sessions:
            session.transport_closed(now)
        tasks = [self._depart(session, reason, is_recoverable=is_recoverable) for session in sessions]
        return [task for task in tasks if task is not None]

    def client_disconnected(self, connection: ClientConnection, namespace: str) -> None:
        """Act on a DISCONNECT packet of the client."""
        session = connection.sessions.get(namespace)
        if session is not None:
            options = self._runtime.options
            is_recoverable = options.recover_client_disconnect and self._recovers(connection)
            reason = self._application.reason.CLIENT_DISCONNECT
            self._depart(session, reason, is_recoverable=is_recoverable, by_client=True)

    def superseded(self, session: Session, connection_id: str) -> None:
        """Call the disconnect handler for a connection that has just lost the session to another one."""
        slot = self._reserve(session)
        reason = self._application.reason.TRANSPORT_CLOSE
        _ = self._calls.start(self._call_handler(slot, session, connection_id, reason))

    async def end(self, operation: DisconnectSession | RevokeSession) -> ClientConnection | None:
        """End a session, connected or away, and call the disconnect handler if a client was connected.

        Return the connection that the session had. Raises StoreError; then the session is unchanged.
        """
        # An operation in the queue takes effect. A cancelled caller must not skip the disconnect handler.
        return await asyncio.shield(self._calls.start(self._end(operation)))

    async def end_identity(self, identity: str) -> Sequence[ClientConnection]:
        """End all sessions of an identity and call the disconnect handlers of those that were connected.

        Return the connections that the sessions had. Raises StoreError; then the sessions are unchanged.
        """
        submitted = self._runtime.queue.submit(RevokeIdentity(identity))  # the order of calls is the order
        return await asyncio.shield(self._calls.start(self._end_identity(submitted)))

    async def _end_identity(self, submitted: asyncio.Future[object]) -> Sequence[ClientConnection]:
        ended = await submitted
        assert isinstance(ended, dict)
        handlers, connections = [], []
        for session, end in ended.items():
            connection: ClientConnection | None = end.connection
            if connection is not None:
                connections.append(connection)
            if end.was_accepted:
                connection_id = None if connection is None else connection.id
                reason = self._application.reason.SERVER_DISCONNECT
                slot = self._calls.reserve(session)
                handlers.append(self._calls.start(self._call_handler(slot, session, connection_id, reason)))
            self._application.forget_callbacks(session.sid)
        await asyncio.gather(*handlers)
        return connections

    def _recovers(self, connection: ClientConnection) -> bool:
        return self._runtime.is_enabled and connection.takes_offsets

    def _depart(
        self, session: Session, reason: str, *, is_recoverable: bool, by_client: bool = False
    ) -> asyncio.Task[None] | None:
        was_accepted, attached = session.is_connected, session.current
        connection = session.detach()
        if was_accepted:
            session.away_since = self._runtime.clock()
            session.left_by_client = by_client
        session.move(State.AWAY)
        self._application.forget_callbacks(session.sid)
        slot = self._reserve(session) if was_accepted else None
        is_recoverable = is_recoverable and self._application.recovers(session.namespace)
        if is_recoverable and (was_accepted or attached.recovered):
            self._enqueue(MarkAway(session, attached, time.time()))
        else:  # a client that never received CONNECT does not know the private id
            self._enqueue(EndSession(session))
        if slot is None:
            return None
        # Only now: where tasks begin at once (asyncio.eager_task_factory), the emits of the handler do, too.
        connection_id = None if connection is None else connection.id
        return self._calls.start(self._call_handler(slot, session, connection_id, reason))

    def _reserve(self, session: Session) -> HandlerSlot:
        session.running_disconnect_handlers += 1
        return self._calls.reserve(session)

    async def _call_handler(
        self, slot: HandlerSlot, session: Session, connection_id: str | None, reason: str
    ) -> None:
        try:
            async with slot:
                await self._calls.disconnect(session, connection_id, reason)
        finally:
            self.handler_ended(session)

    async def _end(self, operation: DisconnectSession | RevokeSession) -> ClientConnection | None:
        session = operation.session
        session.running_disconnect_handlers += 1  # until it is known whether a handler is called
        try:
            ended = await self._runtime.queue.submit(operation)
            if isinstance(ended, EndedSession) and ended.was_accepted:
                connection_id = None if ended.connection is None else ended.connection.id
                reason = self._application.reason.SERVER_DISCONNECT
                await self._call_handler(self._reserve(session), session, connection_id, reason)
        finally:
            if self.handler_ended(session):
                self._application.forget_callbacks(session.sid)
        return ended.connection if isinstance(ended, EndedSession) else None

    def handler_ended(self, session: Session) -> bool:
        """Forget an ended session after the last disconnect handler; return whether that happened."""
        session.running_disconnect_handlers -= 1
        is_over = session.state is State.ENDED and not session.running_disconnect_handlers
        if is_over:
            self._runtime.registry.remove(session)
        return is_over

    def _enqueue(self, operation: Operation) -> None:
        try:
            self._runtime.queue.enqueue(operation)
        except StoreError as error:
            self._calls.failures.failed("departure", f"A disconnection could not be stored. {error}")
