"""Disconnections: lost transports, DISCONNECT packets, sessions ended by the application."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from socketio_eventlog.changes import Departed
from socketio_eventlog.errors import StoreError
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.adapter.application import Application
from socketio_eventstore.adapter.departure_barrier import DepartureBarrier
from socketio_eventstore.adapter.handlers import HandlerCalls, HandlerSlot
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.operations import SayDeparted
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.senders import Sender, current_sender
from socketio_eventstore.core.session_operations import (
    EndSession,
    EndWithTransport,
    MarkAway,
    RevokeIdentity,
)
from socketio_eventstore.core.sessions import ClientConnection, Session, State

logger = logging.getLogger(__name__)

SESSIONS_PER_STEP = 25
"""Sessions of a connection in a step, before the event loop serves others; a thousand take 20 ms."""


class Departures:
    """Takes sessions off connections and calls the disconnect handlers."""

    def __init__(self, application: Application, runtime: Runtime, calls: HandlerCalls) -> None:
        self._application = application
        self._runtime = runtime
        self._calls = calls
        self._barrier = DepartureBarrier(runtime.context, calls)
        self._promised: dict[Session, int] = {}
        """The claims for which another node waits until the handlers of the session have ended."""

    def transport_closed(self, connection: ClientConnection, reason: str) -> Sequence[asyncio.Task[None]]:
        """Mark the sessions of a closed transport as away; very many sessions in steps.

        Return the tasks of the disconnect handlers.
        """
        sessions = list(connection.sessions.values())
        now = time.monotonic()
        for session in sessions:
            session.transport_closed(now)
        tasks = self._depart_all(connection, sessions[:SESSIONS_PER_STEP], reason)
        if rest := sessions[SESSIONS_PER_STEP:]:
            tasks.append(self._calls.start(self._depart_in_steps(connection, rest, reason)))
        return tasks

    def _depart_all(
        self, connection: ClientConnection, sessions: Sequence[Session], reason: str
    ) -> list[asyncio.Task[None]]:
        is_recoverable = self._recovers(connection)
        tasks = [self._depart(session, reason, is_recoverable=is_recoverable) for session in sessions]
        return [task for task in tasks if task is not None]

    async def _depart_in_steps(
        self, connection: ClientConnection, sessions: Sequence[Session], reason: str
    ) -> None:
        """Mark sessions as away, some at a time, and wait for the disconnect handlers.

        The store takes 10 µs for each session: between the steps, the changes of others are appended.
        """
        sender = Sender(SESSIONS_PER_STEP)
        current_sender.set(sender)
        tasks: list[asyncio.Task[None]] = []
        for start in range(0, len(sessions), SESSIONS_PER_STEP):
            if sender.is_held:
                await asyncio.wait([sender.ready()])
            else:
                await asyncio.sleep(0)
            # Meanwhile a session may have been claimed by another client, or ended.
            left = [
                session
                for session in sessions[start : start + SESSIONS_PER_STEP]
                if connection.sessions.get(session.namespace) is session
            ]
            # Waiting for finished tasks, too, would take a step of the event loop for all at once.
            tasks = [task for task in tasks if not task.done()]
            tasks += self._depart_all(connection, left, reason)
        if tasks:
            await asyncio.wait(tasks)

    def client_disconnected(self, connection: ClientConnection, namespace: str) -> None:
        """Act on a DISCONNECT packet of the client."""
        session = connection.sessions.get(namespace)
        if session is not None:
            options = self._runtime.options
            is_recoverable = options.recover_client_disconnect and self._recovers(connection)
            reason = self._application.reason.CLIENT_DISCONNECT
            self._depart(session, reason, is_recoverable=is_recoverable, by_client=True)

    def never_accepted(self, session: Session) -> None:
        """End a new session if the connection was closed before the acceptance."""
        if session.state is State.CONNECTING:
            self._enqueue(EndWithTransport(session, SessionEnd.NEVER_ACCEPTED, session.claim))

    def superseded(self, session: Session, connection: ClientConnection) -> None:
        """Call the disconnect handler for a connection that lost the session to a claim."""
        self._application.forget_callbacks(session.sid)
        _ = self._start_handler(session, connection.id, self._application.reason.TRANSPORT_CLOSE)

    def claimed_elsewhere(self, session: Session, claim: int) -> None:
        """Tell the claiming node of a session when the handlers for the former claim have ended here."""
        self._barrier.look_again(session)
        if session.running_disconnect_handlers:
            self._promised[session] = claim
        else:
            self._say_departed(session, claim)

    def departed(self, session: Session) -> None:
        """Take note of the end of a session's handlers on another node."""
        self._barrier.look_again(session)

    async def departed_elsewhere(self, session: Session, is_needed: Callable[[], bool]) -> None:
        """Wait for the handlers of a session on other nodes (see ``DepartureBarrier.wait``)."""
        await self._barrier.wait(session, is_needed)

    def _say_departed(self, session: Session, claim: int) -> None:
        self._enqueue(SayDeparted(Departed(session.namespace, session.sid, claim)))

    def ended(
        self, session: Session, connection: ClientConnection | None, reason: SessionEnd, *, was_accepted: bool
    ) -> asyncio.Task[None] | None:
        """Call the disconnect handler for a session that the application has ended, if connected."""
        self._application.forget_callbacks(session.sid)
        may_return = reason in (SessionEnd.REVOKED, SessionEnd.EXPIRED)
        if not was_accepted:
            if may_return and connection is not None:
                connection.abort("the session was revoked while the client connected")
            return None
        connection_id = None if connection is None else connection.id
        handler = self._start_handler(session, connection_id, self._application.reason.SERVER_DISCONNECT)
        if may_return and connection is not None:
            handler.add_done_callback(lambda _: connection.abort("the session was revoked"))
        return handler

    def _start_handler(self, session: Session, connection_id: str | None, reason: str) -> asyncio.Task[None]:
        slot = self._reserve(session)
        return self._calls.start(self._call_handler(slot, session, connection_id, reason))

    async def end(self, operation: EndSession | RevokeIdentity) -> None:
        """End sessions, connected or away, and wait for the disconnect handlers on this node.

        Raises StoreError; then the sessions are unchanged.
        """
        submitted = self._runtime.queue.submit(operation)  # the order of calls is the order
        # An operation in the queue takes effect. A cancelled caller must not skip the disconnect handler.
        await asyncio.shield(self._calls.start(self._end(submitted)))

    async def _end(self, submitted: asyncio.Future[object]) -> None:
        result: Any = await submitted
        ended = result if isinstance(result, list) else [result]
        handlers = [one.handler for one in ended if one is not None and one.handler is not None]
        await asyncio.gather(*handlers)

    def _recovers(self, connection: ClientConnection) -> bool:
        return self._runtime.is_enabled and connection.takes_offsets

    def _depart(
        self, session: Session, reason: str, *, is_recoverable: bool, by_client: bool = False
    ) -> asyncio.Task[None] | None:
        was_accepted, attached = session.is_connected, session.current
        connection = self._runtime.registry.detach(session)
        session.move(State.AWAY)
        self._application.forget_callbacks(session.sid)
        slot = self._reserve(session) if was_accepted else None
        is_recoverable = is_recoverable and self._application.recovers(session.namespace)
        if is_recoverable and (was_accepted or attached.recovered):
            left = by_client and was_accepted
            self._enqueue(MarkAway(session, attached.claim, time.time(), left_by_client=left, reason=reason))
        else:  # a client without a CONNECT packet has no private id
            was_ever = was_accepted or attached.recovered
            reason_of_end = SessionEnd.TRANSPORT if was_ever else SessionEnd.NEVER_ACCEPTED
            self._enqueue(EndWithTransport(session, reason_of_end, attached.claim))
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
            await slot.wait()
            await self._calls.disconnect(session, connection_id, reason)
        finally:
            slot.release()
            self.handler_ended(session)

    def handler_ended(self, session: Session) -> bool:
        """Forget an ended session after the last disconnect handler; return whether it is forgotten."""
        session.running_disconnect_handlers -= 1
        if not session.running_disconnect_handlers and session in self._promised:
            self._say_departed(session, self._promised.pop(session))
        is_over = session.state is State.ENDED and not session.running_disconnect_handlers
        if is_over:
            self._runtime.registry.remove(session)
        return is_over

    def _enqueue(self, operation: Operation) -> None:
        try:
            self._runtime.queue.enqueue(operation)
        except StoreError as error:
            self._calls.failures.failed("departure", f"A disconnection could not be stored. {error}")
