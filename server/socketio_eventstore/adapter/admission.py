"""How a client comes and goes: CONNECT, its handler, acceptance or refusal, takeover, disconnection.

A session is on disk before its connect handler runs; nothing is written to the client before the
handler accepts it. What happens between is decided by turns (see ``session_turns``), so it has one place
in the order of the log.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from socketio import packet

from socketio_eventlog.errors import StoreError
from socketio_eventstore.adapter.encoder import frames_of
from socketio_eventstore.adapter.handlers import HandlerCalls, HandlerSlot
from socketio_eventstore.core.commit_queue import Operation
from socketio_eventstore.core.handler_transaction import handler_transaction
from socketio_eventstore.core.operations import SendPacket
from socketio_eventstore.core.packets import Frames
from socketio_eventstore.core.recovery import RecoveryResult, Restore, hash_pid
from socketio_eventstore.core.session_operations import (
    AcceptSession,
    DisconnectSession,
    EndedSession,
    EndSession,
    MarkAway,
    OpenSession,
    RefuseSession,
    RevokeSession,
)
from socketio_eventstore.core.sessions import ClientConnection, Session, State
from socketio_eventstore.transport.connection import EngineConnection

if TYPE_CHECKING:
    from socketio_eventstore.adapter.server import AsyncServer
    from socketio_eventstore.core.runtime import Runtime

logger = logging.getLogger(__name__)

MAX_FORMER_OFFSET_CHARACTERS = 100
"""A longer text is no offset of ours and not worth keeping."""


@dataclass(eq=False, slots=True)
class Attempt:
    """A session that a connection has claimed, until its connect handler has decided."""

    session: Session
    claim: int
    pid: str | None
    slot: HandlerSlot
    """In the line of the session's handler calls."""
    offset: object = None
    """What the client sent, and goes on sending until it receives something."""

    @property
    def is_current(self) -> bool:
        """Whether nobody has claimed the session since."""
        return self.session.claim == self.claim


class Admission:
    """Connects and disconnects the clients of a server."""

    def __init__(self, server: AsyncServer, runtime: Runtime) -> None:
        self._server = server
        self._runtime = runtime
        self._calls = HandlerCalls(server)
        self._connecting: set[tuple[str, str]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def connect(self, connection: EngineConnection, namespace: str, auth: Any) -> None:
        """Answer a CONNECT packet, in a task of its own: a slow handler holds up nobody else."""
        key = (connection.id, namespace)
        if not self._server.serves(namespace):
            self._reply(connection, namespace, self._error(namespace, {"message": "Invalid namespace"}))
            return
        if namespace in connection.sessions or key in self._connecting:
            # An error would make the client drop a socket that the server goes on sending to; the
            # reference closes the transport, too (socket.io 4.8, Client.ondecoded, "invalid state").
            connection.close_after_flush(self._server.reason.TRANSPORT_ERROR)
            return
        self._connecting.add(key)
        task = self._spawn(self._connect(connection, namespace, auth))
        task.add_done_callback(lambda _: self._connecting.discard(key))

    def is_connecting(self, connection: EngineConnection) -> bool:
        """Whether a CONNECT of this connection waits for its answer."""
        return any(connection_id == connection.id for connection_id, _ in self._connecting)

    def disconnected(self, connection: EngineConnection, reason: str) -> Sequence[asyncio.Task[None]]:
        """A transport has ended: its sessions are away, at once. Returns what calls their handlers."""
        recoverable = self._runtime.enabled
        sessions = list(connection.sessions.values())
        tasks = [self._depart(session, reason, recoverable=recoverable) for session in sessions]
        return [task for task in tasks if task is not None]

    def client_left(self, connection: EngineConnection, namespace: str) -> None:
        """The client sent a DISCONNECT packet."""
        session = connection.sessions.get(namespace)
        if session is not None:
            recoverable = self._runtime.enabled and self._runtime.options.recover_client_disconnect
            self._depart(session, self._server.reason.CLIENT_DISCONNECT, recoverable=recoverable)

    async def end(self, operation: DisconnectSession | RevokeSession) -> ClientConnection | None:
        """End a session, connected or away, and call its disconnect handler if it was connected.

        Returns the connection that it had. Raises StoreError; the session is unchanged then.
        """
        # Once its turn is in the queue it will end; that its caller is cancelled must not skip the rest.
        return await asyncio.shield(self._spawn(self._end(operation)))

    async def finish(self) -> None:
        """Wait for the handlers that are running."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cancel(self) -> None:
        """Give up on the handlers that are still running."""
        for task in self._tasks:
            task.cancel()

    # Coming -----------------------------------------------------------------------------------------

    async def _connect(self, connection: EngineConnection, namespace: str, auth: Any) -> None:
        pid, offset = None, None
        if self._runtime.enabled and isinstance(auth, dict):
            pid, offset = auth.get("pid"), auth.get("offset")
            auth = {key: value for key, value in auth.items() if key not in ("pid", "offset")}
        try:
            attempt = await self._claim(connection, namespace, pid, offset)
            if attempt is not None:
                await self._try(connection, attempt, auth or None)
        except StoreError as error:
            logger.error("%s could not connect to %s. %s", connection.id, namespace, error)
            connection.abort("the store is not available")  # and no CONNECT_ERROR: it is to try again
        except Exception:  # a fault of ours, or an answer of the handler that cannot be sent
            logger.exception("%s could not connect to %s", connection.id, namespace)
            connection.abort("its CONNECT could not be answered")

    async def _claim(
        self, connection: EngineConnection, namespace: str, pid: Any, offset: Any
    ) -> Attempt | None:
        runtime = self._runtime
        if pid is not None:
            position = runtime.dispatcher.position
            answer = await runtime.recovery.decide(namespace, pid, offset, position, runtime.clock)
            if connection.closed:
                return None
            if isinstance(answer, Restore):
                return self._take_over(connection, answer, pid, offset)
            runtime.recovery.count(answer)
        return await self._open(connection, namespace, offset)

    async def _open(self, connection: EngineConnection, namespace: str, offset: Any) -> Attempt | None:
        """A new session, on disk before anybody hears of it."""
        runtime = self._runtime
        pid = secrets.token_urlsafe(18) if runtime.enabled else None
        session = Session(
            namespace=namespace,
            sid=self._server.eio.generate_id(),
            pid_hash=hash_pid(pid) if pid else secrets.token_bytes(16),
            start=runtime.log.offset_at(0),
            former_offset=_former_offset(offset),
        )
        await runtime.dispatcher.submit(OpenSession(session, time.time()))
        if connection.closed:
            await runtime.dispatcher.submit(EndSession(session))
            return None
        claim = session.attach(connection, session.start.sequence)
        return Attempt(session, claim, pid, self._calls.slot(session))

    def _take_over(self, connection: EngineConnection, answer: Restore, pid: str, offset: Any) -> Attempt:
        session, runtime = answer.session, self._runtime
        former = session.connection
        was_connected = session.state in (State.LIVE, State.REPLAYING)
        if was_connected:
            session.away_since = runtime.clock()
        claim = session.attach(connection, answer.cursor)
        session.recovered = True
        self._server.manager.callbacks.pop(session.sid, None)
        if was_connected and former is not None:
            reason = self._server.reason.TRANSPORT_CLOSE
            _ = self._spawn(self._leave(self._running_disconnect(session), session, former.id, reason))
        return Attempt(session, claim, pid, self._calls.slot(session), offset)

    async def _try(self, connection: EngineConnection, attempt: Attempt, auth: Any) -> None:
        session, admitted = attempt.session, False
        try:
            async with attempt.slot:
                if attempt.is_current and not connection.closed:
                    admitted = await self._admit(connection, attempt, auth)
        finally:
            attempt.slot.give_up()
            if not admitted:
                self._server.manager.callbacks.pop(session.sid, None)
            if not admitted and attempt.is_current:
                for superseded in session.superseded:  # nobody has the session now; they may come back for it
                    superseded.abort("its session was claimed by somebody who did not get it")
                session.superseded.clear()

    async def _admit(self, connection: EngineConnection, attempt: Attempt, auth: Any) -> bool:
        """Call the connect handler and do what it decides; return whether the client was let in."""
        session, runtime = attempt.session, self._runtime
        # Only its connect handler can say whether the client is the one that a session is bound to.
        skipped = session.recovered and runtime.options.skip_middlewares and session.identity is None
        # A recovered session is its owner's: only the handler can say whether this is him.
        early = self._server.always_connect and not session.recovered
        if early and not await self._accept(attempt, ()):
            return False
        refusal, deferred = None, list[Operation]()
        if session.recovered and not early:
            with handler_transaction(
                only=session
            ) as deferred:  # a refusal must leave the owner's session as it was
                refusal = None if skipped else await self._calls.connect(session, connection.id, auth)
        elif not skipped:
            refusal = await self._calls.connect(session, connection.id, auth)
        if (
            session.recovered
            and session.identity != session.authenticated_as
            and (refusal is None or session.authenticated_as)
        ):
            return await self._start_over(connection, attempt, auth)
        if refusal is not None:
            await self._refuse(attempt, refusal, early=early)
            return False
        if early or await self._accept_after_handler(attempt, deferred, connection, skipped=skipped):
            return True
        if (
            session.state is State.ENDED and session.disconnected_by_server
        ):  # by its connect handler: a refusal, too
            error = self._error(session.namespace, {"message": "Unable to connect"})
            self._reply(connection, session.namespace, error)
        elif session.state is State.ENDED:
            connection.abort("its session was revoked while it connected")
        return False

    async def _accept_after_handler(
        self, attempt: Attempt, deferred: Sequence[Operation], connection: EngineConnection, *, skipped: bool
    ) -> bool:
        accepted = False
        try:
            accepted = await self._accept(attempt, deferred)
        finally:
            if not accepted and not skipped:  # the application believes that the client is connected
                reason = self._server.reason.TRANSPORT_CLOSE
                await self._calls.disconnect(attempt.session, connection.id, reason)
        return accepted

    async def _accept(self, attempt: Attempt, deferred: Sequence[Operation]) -> bool:
        session = attempt.session
        operation = AcceptSession(session, attempt.claim, attempt.pid, time.time(), deferred)
        accepted = bool(await self._runtime.dispatcher.submit(operation))
        if accepted and session.recovered:
            self._runtime.recovery.count(RecoveryResult.RECOVERED, session.sid)
        return accepted

    async def _refuse(self, attempt: Attempt, refusal: Any, *, early: bool) -> None:
        session, runtime = attempt.session, self._runtime
        if session.recovered:
            runtime.recovery.count(RecoveryResult.REFUSED, session.sid)
        if early:
            await runtime.dispatcher.submit(DisconnectSession(session))
        else:
            error = self._error(session.namespace, refusal)
            await runtime.dispatcher.submit(RefuseSession(session, attempt.claim, error, time.time()))

    async def _start_over(self, connection: EngineConnection, attempt: Attempt, auth: Any) -> bool:
        """The client is somebody else: a new session for it, and the old one stays with its owner."""
        session, runtime = attempt.session, self._runtime
        runtime.recovery.count(RecoveryResult.REFUSED, session.sid)
        await runtime.dispatcher.submit(RefuseSession(session, attempt.claim, None, time.time()))
        fresh = None if connection.closed else await self._open(connection, session.namespace, attempt.offset)
        if fresh is not None:
            await self._try(connection, fresh, auth)
        return False

    # Going ------------------------------------------------------------------------------------------

    def _depart(self, session: Session, reason: str, *, recoverable: bool) -> asyncio.Task[None] | None:
        accepted = session.state in (State.LIVE, State.REPLAYING)
        connection = session.detach()
        if accepted:
            session.away_since = self._runtime.clock()
        session.move(State.AWAY)
        self._server.manager.callbacks.pop(session.sid, None)
        slot = self._running_disconnect(session) if accepted else None
        if recoverable and (accepted or session.recovered):
            self._enqueue(MarkAway(session, session.claim, time.time()))
        else:  # a client that never saw its CONNECT does not know its pid
            self._enqueue(EndSession(session))
        # After that: where tasks begin at once (asyncio.eager_task_factory) so do the handler's emits.
        connection_id = None if connection is None else connection.id
        return None if slot is None else self._spawn(self._leave(slot, session, connection_id, reason))

    def _running_disconnect(self, session: Session) -> HandlerSlot:
        session.running_disconnect_handlers += 1
        return self._calls.slot(session)

    async def _leave(
        self, slot: HandlerSlot, session: Session, connection_id: str | None, reason: str
    ) -> None:
        try:
            async with slot:
                await self._calls.disconnect(session, connection_id, reason)
        finally:
            session.running_disconnect_handlers -= 1
            if session.state is State.ENDED and not session.running_disconnect_handlers:
                self._runtime.registry.remove(session)

    async def _end(self, operation: DisconnectSession | RevokeSession) -> ClientConnection | None:
        session = operation.session
        session.running_disconnect_handlers += 1  # until it is known whether its handler is to be called
        try:
            ended = await self._runtime.dispatcher.submit(operation)
            if isinstance(ended, EndedSession) and ended.was_accepted:
                connection_id = None if ended.connection is None else ended.connection.id
                reason = self._server.reason.SERVER_DISCONNECT
                await self._leave(self._running_disconnect(session), session, connection_id, reason)
        finally:
            session.running_disconnect_handlers -= 1
            if session.state is State.ENDED and not session.running_disconnect_handlers:
                self._runtime.registry.remove(session)
                self._server.manager.callbacks.pop(session.sid, None)
        return ended.connection if isinstance(ended, EndedSession) else None

    # ------------------------------------------------------------------------------------------------

    def _enqueue(self, operation: MarkAway | EndSession | SendPacket) -> None:
        try:
            self._runtime.dispatcher.enqueue(operation)
        except StoreError as error:
            logger.error("A disconnection could not be stored. %s", error)

    def _reply(self, connection: EngineConnection, namespace: str, frames: Frames) -> None:
        self._enqueue(SendPacket(connection, namespace, frames))

    def _error(self, namespace: str, reason: Any) -> Frames:
        kind = packet.CONNECT_ERROR
        return frames_of(self._server.packet_class(kind, data=reason, namespace=namespace))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _former_offset(offset: Any) -> str | None:
    if not isinstance(offset, str) or len(offset) > MAX_FORMER_OFFSET_CHARACTERS:
        return None
    return offset if offset == offset.encode(errors="ignore").decode() else None
