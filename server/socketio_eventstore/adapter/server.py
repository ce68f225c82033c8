"""python-socketio's server with recovery: what handlers call, and what the transport delivers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import socketio
from socketio import exceptions, packet

from socketio_eventlog.errors import StoreClosed, StoreError
from socketio_eventstore.adapter import encoder
from socketio_eventstore.adapter.admission import Admission
from socketio_eventstore.adapter.decoder import ClientPacket, Decoder
from socketio_eventstore.adapter.exactly_once import ExactlyOnce, InvalidIdempotencyKey
from socketio_eventstore.core.handler_transaction import (
    deferred_changes,
    handler_transaction,
    is_deferred,
    submit_or_defer,
)
from socketio_eventstore.core.operations import BindIdentity, SaveData, SendPacket
from socketio_eventstore.core.packets import Dumps, dumps, payload_of
from socketio_eventstore.core.session_operations import DisconnectSession, RevokeSession
from socketio_eventstore.core.sessions import Session, State
from socketio_eventstore.transport.connection import EngineConnection
from socketio_eventstore.transport.engine import Engine
from socketio_eventstore.transport.inbox import InvalidPacket

if TYPE_CHECKING:
    from socketio_eventstore.adapter.manager import RecoveryManager

logger = logging.getLogger(__name__)

Handler = Callable[..., Awaitable[Any]]
"""A handler that is a coroutine function."""

_HOOKS = ("_handle_ack", "_trigger_event", "_send_packet")
"""What this class builds on in python-socketio, proven on 5.12 to 5.18."""


class AsyncServer(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio is not typed
    """``socketio.AsyncServer`` whose clients recover; made from one by ``RecoveryManager``.

    All of python-socketio works. Room and session calls also work for sids that are away.
    """

    manager: RecoveryManager
    eio: Engine
    admission: Admission | None
    connect_timeout: float
    idempotency: ExactlyOnce
    decoder: Decoder
    encode: Dumps
    orphans: set[asyncio.Task[None]]
    """Handlers that go on although their connection has ended."""

    @classmethod
    def adopt(cls, server: socketio.AsyncServer, manager: RecoveryManager) -> None:
        """Turn a server that has no clients yet into one of this class.

        Raises RuntimeError when python-socketio lacks what this class builds on.
        """
        for name in _HOOKS:
            if not callable(getattr(server, name, None)):
                raise RuntimeError(f"this version of python-socketio has no {name}; 5.18 to 5.x is supported")
        if not isinstance(server, cls):
            own = type(server)
            server.__class__ = cls if own is socketio.AsyncServer else type(own.__name__, (own, cls), {})
        server.reserved_events = [*server.reserved_events, "session_expired"]
        server.admission = None
        server.idempotency = ExactlyOnce()
        server.orphans = set()
        server.encode = encoder.dumps_for(server.packet_class)
        server.decoder = Decoder(server.packet_class, server.eio.max_http_buffer_size)
        server.connect_timeout = 45.0
        server.eio = Engine.adopt(
            server.eio,
            max_client_buffer=manager.options.max_client_buffer,
            websocket_compression=manager.options.websocket_compression,
            connection_closed=server.connection_closed,
            handle_message=server.receive,
            ping_written=server.ping_written,
            flush=server.flush,
        )
        server.eio.on("connect", server._handle_eio_connect)  # noqa: SLF001 -- instrument() wraps it by name

    async def start(self) -> None:
        """Open the store; without this the first connection or emit does. Raises StoreNotUsable."""
        runtime = await self.manager.start()
        if not self.async_handlers:  # which its constructor sets after it has got its manager
            self.eio.handlers_at_once = 1
        if self.admission is None:
            self.admission = Admission(self, runtime)

    async def shutdown(self) -> None:
        """Close all transports, so that their clients come back, and the store.

        No client gets a DISCONNECT packet. Disconnect handlers run to their end; cancel this to give
        up on them: what was emitted is committed all the same.
        """
        for connection in list(self.eio.sockets.values()):
            connection.close_after_flush(self.reason.SERVER_DISCONNECT)
        try:
            if self.admission is not None:
                await self.admission.finish()
        except asyncio.CancelledError:
            if self.admission is not None:
                self.admission.cancel()
            raise
        finally:
            self.admission = None
            await asyncio.shield(self.manager.close())
            await super().shutdown()

    # For handlers -----------------------------------------------------------------------------------

    async def emit(
        self,
        event: str,
        data: Any = None,
        to: Any = None,
        room: Any = None,
        skip_sid: Any = None,
        namespace: str | None = None,
        callback: Any = None,
        ignore_queue: bool = False,
        *,
        volatile: bool = False,
    ) -> str | None:
        """Emit an event, as ``socketio.AsyncServer.emit`` does, and store it before it is sent.

        Returns its offset, the string that clients see, once it is durable. An event with a callback,
        or a volatile one, is not stored, and None is returned. Raises TypeError or ValueError for what
        cannot be sent, StoreError when it cannot be stored; nobody has received it then.
        """
        return await self.manager.emit(
            event,
            data,
            namespace or "/",
            room=to or room,
            skip_sid=skip_sid,
            callback=callback,
            ignore_queue=ignore_queue,
            **({"volatile": True} if volatile else {}),
        )

    async def send(self, data: Any, *args: Any, **kwargs: Any) -> str | None:
        """Emit the event ``message``; returns as ``emit`` does."""
        return await self.emit("message", data, *args, **kwargs)

    def recovered(self, sid: str, namespace: str | None = None) -> bool:
        """Whether the client's present connection recovered its session. Raises KeyError."""
        return self._known(sid, namespace).recovered

    async def get_session(self, sid: str, namespace: str | None = None) -> dict[str, Any]:
        """What was saved for a session, connected or away, as a copy. Raises KeyError."""
        session = self._known(sid, namespace)
        saved = [operation.data for operation in deferred_changes(session) if isinstance(operation, SaveData)]
        data: dict[str, Any] = json.loads(saved[-1] if saved else session.saving or session.data)
        return data

    async def save_session(self, sid: str, session: dict[str, Any], namespace: str | None = None) -> None:
        """Replace what is saved for a session, connected or away; on disk when this returns.

        Raises KeyError for an unknown sid, TypeError for what JSON does not have, ValueError when it is
        too large, StoreError.
        """
        text = encoder.session_json(session, self.eio.max_http_buffer_size)
        runtime = await self.manager.start()
        known = self._known(sid, namespace)
        operation = SaveData(known, text)
        if not is_deferred(operation):
            known.saving = text
        try:
            await submit_or_defer(runtime.dispatcher, operation)
        finally:
            if known.saving is text:
                known.saving = None

    async def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        """End a session for good and disconnect its client, who does not come back by itself.

        A session that is away ends too. Nothing happens for an unknown sid. Raises StoreError.
        """
        session = self._find(sid, namespace)
        if session is not None and self.admission is not None:
            await self.admission.end(DisconnectSession(session))

    async def revoke(self, sid: str, namespace: str | None = None) -> None:
        """End a session for good: its private id opens nothing any more.

        A client that is away gets a new session when it returns. The transport of one that is connected
        is closed, so it returns at once and passes the connect handler as a new client. Nothing happens
        for an unknown sid. Raises StoreError.
        """
        session = self._find(sid, namespace)
        if session is not None and self.admission is not None:
            connection = await self.admission.end(RevokeSession(session))
            if connection is not None:
                connection.abort("its session was revoked")

    async def bind(self, sid: str, identity: Any, namespace: str | None = None) -> None:
        """Say who a session belongs to; on disk when this returns.

        Call it in the connect handler, after authentication. A reconnection whose connect handler does
        not bind the same identity gets a new session, for which the handler is called again, and
        nothing of the old one. Raises KeyError for an unknown sid, StoreError, and ConnectionRefusedError
        (not to be caught) in the connect handler of somebody else, TypeError unless the identity is a
        str that is not empty.
        """
        session = self._known(sid, namespace)
        if not isinstance(identity, str) or not identity:
            raise TypeError(f"an identity must be a str that is not empty, not {identity!r}")
        if session.state is State.CONNECTING and session.identity is not None:
            session.authenticated_as = identity
            if identity != session.identity:
                raise exceptions.ConnectionRefusedError("the session belongs to somebody else")
            return
        runtime = await self.manager.start()
        await submit_or_defer(runtime.dispatcher, BindIdentity(session, identity))

    def exactly_once(self, event: str, namespace: str | None = None) -> Callable[[Handler], Handler]:
        """Decorate the handler of an event whose last argument is an idempotency key.

        The handler, a coroutine function, runs once for each key, however often the client repeats the
        event; a repeat is acknowledged with the first answer. Its emits are stored together with that,
        in one transaction when it returns (so they return no offset), or not at all when it raises.
        """

        def decorate(handler: Handler) -> Handler:
            async def handle(sid: str, *arguments: Any) -> Any:
                runtime = await self.manager.start()
                key = arguments[-1] if arguments else None
                session = self._known(sid, namespace)
                try:
                    return await self.idempotency.handle(
                        runtime, session, event, key, lambda: handler(sid, *arguments)
                    )
                except InvalidIdempotencyKey as error:
                    logger.warning("An event of %s was not handled: %s", sid, error)
                    return self.not_handled  # and it is not acknowledged

            self.on(event, handle, namespace=namespace)
            return handler

        return decorate

    def _find(self, sid: str, namespace: str | None) -> Session | None:
        runtime = self.manager.runtime
        return None if runtime is None else runtime.registry.get(namespace or "/", sid)

    def _known(self, sid: str, namespace: str | None) -> Session:
        session = self._find(sid, namespace)
        if session is None:
            raise KeyError(f"no session {sid!r} in namespace {namespace or '/'!r}")
        return session

    # From and to the transport ----------------------------------------------------------------------

    def serves(self, namespace: str) -> bool:
        """Whether clients may connect to a namespace."""
        return (
            namespace in self.handlers
            or namespace in self.namespace_handlers
            or self.namespaces == "*"
            or namespace in self.namespaces
        )

    async def call_handler(self, event: str, *arguments: Any) -> Any:
        """Call the application's handler of an event; the first argument is the namespace."""
        return await self._trigger_event(event, *arguments)

    def encode_event(self, event: str, arguments: Sequence[Any]) -> tuple[str, tuple[bytes, ...]]:
        """An event as it is stored. Raises TypeError or ValueError for what cannot be sent."""
        encode = self.encode
        payload, attachments = payload_of([event, *arguments], encode)
        if encode is not dumps and '"' not in payload[:2]:
            raise ValueError(f"the server's json made {payload[:20]!r} of an array of strings")
        return payload, attachments

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> bool | None:
        """A transport was opened; False refuses it."""
        try:
            await self.start()
        except StoreError as error:
            logger.error("A connection was refused. %s", error)
            return False
        self.manager_initialized = True
        self.environ[eio_sid] = environ
        asyncio.get_running_loop().call_later(self.connect_timeout, self._close_if_idle, eio_sid)
        return None

    def _close_if_idle(self, eio_sid: str) -> None:
        connection = self.eio.connection(eio_sid)
        if connection is None or connection.sessions or self.admission is None:
            return
        if not self.admission.is_connecting(connection):
            connection.close_after_flush(self.reason.SERVER_DISCONNECT)

    async def session_expired(self, session: Session) -> None:
        """Call the handler of ``session_expired`` and end the session in the transaction of its emits.

        Only an error or a crash inside the handler therefore repeats it. Raises StoreError.
        """
        with handler_transaction() as operations:
            data = json.loads(session.data)
            await self.call_handler("session_expired", session.namespace, session.sid, data)
        await (await self.manager.start()).dispatcher.submit(*operations, RevokeSession(session))

    def connection_closed(self, connection: EngineConnection, reason: str) -> None:
        """A transport has ended."""
        self.decoder.forget(connection.id)
        for handler in connection.handlers:  # nobody else holds on to them now
            self.orphans.add(handler)
            handler.add_done_callback(self.orphans.discard)
        running = set() if self.admission is None else set(self.admission.disconnected(connection, reason))
        if not running:
            self.environ.pop(connection.id, None)

        def client_left(task: asyncio.Task[None]) -> None:
            running.discard(task)
            if not running:
                self.environ.pop(connection.id, None)  # which the handlers may have asked for

        for task in list(running):
            task.add_done_callback(client_left)

    def ping_written(self, connection: EngineConnection) -> None:
        """A heartbeat was put behind what the connection was sent."""
        runtime = self.manager.runtime
        if runtime is not None:
            connection.ping_written(runtime.dispatcher.position, runtime.clock())

    def flush(self) -> None:
        """Hand what has been dispatched to the connections."""
        if self.manager.runtime is not None:
            self.manager.runtime.dispatcher.flush()

    def receive(self, connection: EngineConnection, data: str | bytes) -> asyncio.Task[None] | None:
        """Act on a Socket.IO packet; return the task of the handler that this has started.

        Raises InvalidPacket, upon which the connection is closed.
        """
        pkt = self.decoder.add(connection.id, data)
        if pkt is None or self.admission is None:
            return None
        match pkt.packet_type:
            case packet.EVENT | packet.BINARY_EVENT:
                session = connection.sessions.get(pkt.namespace)
                if session is None or session.state not in (State.LIVE, State.REPLAYING):
                    return None
                # asyncio.create_task would take a third longer.
                return asyncio.get_running_loop().create_task(self._handle(connection, session, pkt))
            case packet.ACK | packet.BINARY_ACK if isinstance(pkt.data, list):
                handler = self._handle_ack(connection.id, pkt.namespace, pkt.id, pkt.data)
                return asyncio.get_running_loop().create_task(handler)
            case packet.CONNECT:
                self.admission.connect(connection, pkt.namespace, pkt.data)
            case packet.DISCONNECT:
                self.admission.client_left(connection, pkt.namespace)
            case other:
                raise InvalidPacket(f"unexpected packet type {other!r}")
        return None

    async def _handle(self, connection: EngineConnection, session: Session, pkt: ClientPacket) -> None:
        """Call the handler of a client's event and acknowledge it.

        What a handler raises is its task's exception, which the event loop reports.
        """
        event, *arguments = pkt.data
        answer = await self._trigger_event(event, pkt.namespace, session.sid, *arguments)
        runtime = self.manager.runtime
        if pkt.id is None or answer is self.not_handled or runtime is None:
            return
        frames = runtime.dispatcher.encoder.ack(pkt.namespace, pkt.id, encoder.arguments_of(answer))
        try:
            runtime.dispatcher.post(SendPacket(connection, pkt.namespace, frames))
        except StoreError as error:  # the client may send the event again when it is back
            connection.abort(f"it could not be answered: {error}")

    async def _send_packet(self, eio_sid: str, pkt: Any) -> None:
        connection, runtime = self.eio.connection(eio_sid), self.manager.runtime
        if connection is not None and runtime is not None:
            operation = SendPacket(connection, pkt.namespace or "/", encoder.frames_of(pkt))
            with suppress(StoreClosed):  # the client is about to hear it from its transport
                runtime.dispatcher.enqueue(operation)
