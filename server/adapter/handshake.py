"""How a client comes and goes: CONNECT, its handler, acceptance or refusal, takeover, disconnection.

A session is on disk before its connect handler runs; nothing is written to the client before the
handler accepts it. What happens between is decided by turns (see ``turns``), so it has one place in the
order of the log.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from socketio import exceptions, packet

from socketio_eventstore.server.adapter.codec import frames_of
from socketio_eventstore.server.packets import Frames
from socketio_eventstore.server.recovery import Restore, Result, hash_pid
from socketio_eventstore.server.registry import Connection, Session, State
from socketio_eventstore.server.session_turns import Accept, Away, End, Open, Refuse
from socketio_eventstore.server.transport import EngineConnection
from socketio_eventstore.server.turns import Reply
from socketio_eventstore.store.errors import StoreError

if TYPE_CHECKING:
    from socketio_eventstore.server.adapter.server import RecoverableServer
    from socketio_eventstore.server.runtime import Runtime

logger = logging.getLogger(__name__)

departing: ContextVar[Session | None] = ContextVar("departing", default=None)
"""The session whose disconnect handler runs in this context."""

MAX_FORMER_OFFSET_CHARACTERS = 100
"""A longer text is no offset of ours and not worth keeping."""


@dataclass(eq=False, slots=True)
class Attempt:
    """A session that a connection has claimed, until its connect handler has decided."""

    session: Session
    claim: int
    pid: str | None
    displaced: Connection | None


class Handshake:
    """Connects and disconnects the clients of a server."""

    def __init__(self, server: RecoverableServer, runtime: Runtime) -> None:
        self._server = server
        self._runtime = runtime
        self._connecting: set[tuple[str, str]] = set()
        self._leaving: dict[Session, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def connect(self, connection: EngineConnection, namespace: str, auth: Any) -> None:
        """Answer a CONNECT packet, in a task of its own: a slow handler holds up nobody else."""
        key = (connection.id, namespace)
        if not self._server.serves(namespace):
            self._reply(connection, namespace, self._error(namespace, {"message": "Invalid namespace"}))
            return
        if namespace in connection.sessions or key in self._connecting:
            # An error would make the client drop a socket that the server goes on sending to; the
            # reference closes the transport, too (socket.io 4.8, Client.ondecoded, "invalid state").
            connection.leave(self._server.reason.TRANSPORT_ERROR)
            return
        self._connecting.add(key)
        task = self._spawn(self._connect(connection, namespace, auth))
        task.add_done_callback(lambda _: self._connecting.discard(key))

    def is_connecting(self, connection: EngineConnection) -> bool:
        """Whether a CONNECT of this connection waits for its answer."""
        return any(connection_id == connection.id for connection_id, _ in self._connecting)

    def disconnected(self, connection: EngineConnection, reason: str) -> None:
        """A transport has ended: its sessions are away, at once and without waiting."""
        for session in list(connection.sessions.values()):
            self._depart(session, reason, recoverable=self._runtime.enabled)

    def left(self, connection: EngineConnection, namespace: str) -> None:
        """The client sent a DISCONNECT packet."""
        session = connection.sessions.get(namespace)
        if session is not None:
            recoverable = self._runtime.enabled and self._runtime.options.recover_client_disconnect
            self._depart(session, self._server.reason.CLIENT_DISCONNECT, recoverable=recoverable)

    async def end(self, session: Session, *, farewell: bool) -> Connection | None:
        """End a session for good, connected or away, and call its disconnect handler if it was connected.

        Returns the connection that it had. Raises StoreError; the session is unchanged then.
        """
        connection, connected = session.connection, session.state in (State.LIVE, State.REPLAYING)
        ended = await self._runtime.dispatcher.submit(End(session, farewell=farewell, must=False, keep=True))
        if ended:
            if connected:
                await self._call_disconnect(session, self._server.reason.SERVER_DISCONNECT)
            self._forget(session)
        return connection

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
        attempt, admitted = None, False
        try:
            attempt = await self._claim(connection, namespace, pid, offset)
            if attempt is not None and not connection.closed:
                admitted = await self._admit(connection, attempt, auth or None)
        except StoreError as error:
            logger.error("%s could not connect to %s. %s", connection.id, namespace, error)
            connection.abort("the store is not available")  # and no CONNECT_ERROR: it is to try again
        finally:
            if attempt is not None and attempt.displaced is not None and not admitted:
                # Nobody has the session now; whoever had it may come back for it.
                attempt.displaced.abort("its session was claimed by somebody who did not get it")

    async def _claim(
        self, connection: EngineConnection, namespace: str, pid: Any, offset: Any
    ) -> Attempt | None:
        runtime = self._runtime
        if pid is not None:
            answer = await runtime.recovery.decide(
                namespace, pid, offset, runtime.dispatcher.position, runtime.clock()
            )
            if isinstance(answer, Restore) and not connection.closed:
                return await self._take_over(connection, answer, pid)
            if isinstance(answer, Result):
                runtime.recovery.count(answer)
        return await self._open(connection, namespace, offset)

    async def _open(self, connection: EngineConnection, namespace: str, offset: Any) -> Attempt | None:
        """A new session, on disk before anybody hears of it."""
        runtime = self._runtime
        new_pid = secrets.token_urlsafe(18) if runtime.enabled else None
        session = Session(
            namespace=namespace,
            sid=self._server.eio.generate_id(),
            pid_hash=hash_pid(new_pid) if new_pid else secrets.token_bytes(16),
            start=runtime.log.place(0),
            former_offset=_former_offset(offset),
        )
        await runtime.dispatcher.submit(Open(session, time.time()))
        if connection.closed:
            await self._end_quietly(session)
            return None
        return Attempt(session, session.attach(connection, session.start.number), new_pid, None)

    async def _take_over(self, connection: EngineConnection, answer: Restore, pid: str) -> Attempt:
        session, runtime = answer.session, self._runtime
        displaced = session.connection
        was_connected = session.state in (State.LIVE, State.REPLAYING)
        if was_connected:
            session.away_since = runtime.clock()
        claim = session.attach(connection, answer.cursor)
        session.recovered = True
        self._server.manager.callbacks.pop(session.sid, None)
        if was_connected:
            self._leave_later(session, self._server.reason.TRANSPORT_CLOSE)
        if (leaving := self._leaving.get(session)) is not None:
            await asyncio.wait([leaving])  # handlers see a disconnection before the next connection
        return Attempt(session, claim, pid, displaced)

    async def _admit(self, connection: EngineConnection, attempt: Attempt, auth: Any) -> bool:
        """Call the connect handler and do what it decides; return whether the client was let in."""
        session, runtime = attempt.session, self._runtime
        # Only its connect handler can say whether the client is the one that a session is bound to.
        skipped = session.recovered and runtime.options.skip_middlewares and session.identity is None
        early = self._server.always_connect
        if early and not await self._accept(attempt):
            return False
        refusal = None if skipped else await self._call_connect(connection, session, auth)
        if session.recovered and session.identity != session.vouched and (refusal is None or session.vouched):
            return await self._start_over(connection, attempt, auth)
        if refusal is None:
            if early or await self._accept(attempt):
                return True
            if not skipped:
                await self._call_disconnect(session, self._server.reason.TRANSPORT_CLOSE)
            if session.state is State.ENDED:  # by its own connect handler, which is a refusal too
                self._reply(
                    connection,
                    session.namespace,
                    self._error(session.namespace, {"message": "Unable to connect"}),
                )
            return False
        if early:
            await self._runtime.dispatcher.submit(End(session, farewell=True, must=False, keep=False))
            return False
        if session.recovered:
            runtime.recovery.count(Result.REFUSED, session.sid)
        error = self._error(session.namespace, refusal)
        displaced = attempt.displaced is not None
        await runtime.dispatcher.submit(Refuse(session, attempt.claim, error, time.time(), displaced))
        return False

    async def _start_over(self, connection: EngineConnection, attempt: Attempt, auth: Any) -> bool:
        """The client is somebody else: a new session for it, and the old one stays with its owner."""
        session, runtime = attempt.session, self._runtime
        runtime.recovery.count(Result.REFUSED, session.sid)
        displaced = attempt.displaced is not None
        await runtime.dispatcher.submit(Refuse(session, attempt.claim, None, time.time(), displaced))
        if attempt.displaced is not None:
            attempt.displaced.abort("its session was claimed by somebody else")
        fresh = None if connection.closed else await self._open(connection, session.namespace, None)
        return fresh is not None and await self._admit(connection, fresh, auth)

    async def _accept(self, attempt: Attempt) -> bool:
        session = attempt.session
        turn = Accept(session, attempt.claim, attempt.pid, time.time(), attempt.displaced)
        accepted = bool(await self._runtime.dispatcher.submit(turn))
        if accepted and session.recovered:
            self._runtime.recovery.count(Result.RECOVERED, session.sid)
        return accepted

    async def _call_connect(self, connection: EngineConnection, session: Session, auth: Any) -> Any:
        """Call the connect handler; return why it refuses, or None if it does not."""
        server, refused = self._server, exceptions.ConnectionRefusedError().error_args
        environ = server.environ.get(connection.id, {})
        arguments: tuple[Any, ...] = (session.namespace, session.sid, environ)
        try:
            try:
                success = await server.call_handler("connect", *arguments, auth)
            except TypeError:
                if auth is not None:
                    raise
                try:  # handlers from before python-socketio 5 take no auth
                    success = await server.call_handler("connect", *arguments)
                except TypeError as second:
                    raise second.__context__ or second from None
        except exceptions.ConnectionRefusedError as error:
            return error.error_args
        except ConnectionRefusedError:
            return {"message": "Connection refused by server"}
        except StoreError:
            raise
        except Exception:  # a fault of the handler concerns this client only, who must get an answer
            logger.exception("The connect handler of %s failed", session.namespace)
            return refused
        return refused if success is False else None

    # Going ------------------------------------------------------------------------------------------

    def _depart(self, session: Session, reason: str, *, recoverable: bool) -> None:
        runtime = self._runtime
        accepted = session.state in (State.LIVE, State.REPLAYING)
        session.detach()
        if accepted:
            session.away_since = runtime.clock()
        session.move(State.AWAY)
        self._server.manager.callbacks.pop(session.sid, None)
        if recoverable and (accepted or session.recovered):
            self._enqueue(Away(session, session.claim, time.time()))
        else:  # a client that never saw its CONNECT does not know its pid
            self._enqueue(End(session, farewell=False, must=True, keep=accepted))
        if accepted:
            self._leave_later(session, reason)

    def _leave_later(self, session: Session, reason: str) -> None:
        async def leave() -> None:
            try:
                await self._call_disconnect(session, reason)
            finally:
                self._leaving.pop(session, None)
                if session.state is State.ENDED:
                    self._forget(session)

        self._leaving[session] = self._spawn(leave())

    async def _call_disconnect(self, session: Session, reason: str) -> None:
        departing.set(session)
        try:
            await self._server.call_handler("disconnect", session.namespace, session.sid, reason)
        except Exception:  # a fault of the handler; the session is gone all the same
            logger.exception("The disconnect handler of %s failed", session.namespace)

    def _forget(self, session: Session) -> None:
        self._runtime.registry.remove(session)
        self._server.manager.callbacks.pop(session.sid, None)

    async def _end_quietly(self, session: Session) -> None:
        await self._runtime.dispatcher.submit(End(session, farewell=False, must=True, keep=False))

    # ------------------------------------------------------------------------------------------------

    def _enqueue(self, turn: Away | End | Reply) -> None:
        try:
            self._runtime.dispatcher.enqueue(turn)
        except StoreError as error:
            logger.error("A disconnection could not be stored. %s", error)

    def _reply(self, connection: EngineConnection, namespace: str, frames: Frames) -> None:
        self._enqueue(Reply(connection, namespace, frames))

    def _error(self, namespace: str, reason: Any) -> Frames:
        kind = packet.CONNECT_ERROR
        return frames_of(self._server.packet_class(kind, data=reason, namespace=namespace))

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _former_offset(offset: Any) -> str | None:
    return offset if isinstance(offset, str) and len(offset) <= MAX_FORMER_OFFSET_CHARACTERS else None
