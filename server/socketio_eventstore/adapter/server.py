"""python-socketio's server with recovery: the calls of handlers, and the packets of the transport."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from inspect import CO_COROUTINE
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, overload

import socketio
from socketio import exceptions

from socketio_eventlog.errors import StoreClosed, StoreError
from socketio_eventlog.records import Event, SessionEnd
from socketio_eventstore.adapter import encoder, history
from socketio_eventstore.adapter.acknowledgements import AcknowledgementIds, Call, current_call
from socketio_eventstore.adapter.admin_ui import AdminUi
from socketio_eventstore.adapter.answers import REFUSED_SECONDS
from socketio_eventstore.adapter.authentication import Authentication
from socketio_eventstore.adapter.clients import Clients
from socketio_eventstore.adapter.decoder import Decoder
from socketio_eventstore.adapter.environs import Environs
from socketio_eventstore.adapter.exactly_once import ExactlyOnce, InvalidIdempotencyKey
from socketio_eventstore.adapter.handlers import connecting_as
from socketio_eventstore.adapter.history import SessionInfo, StoredEvent
from socketio_eventstore.adapter.identity_limit import PERHAPS_GONE, PerhapsGone, TooManySessions
from socketio_eventstore.adapter.publishing import Message
from socketio_eventstore.adapter.request_ids import RequestIds
from socketio_eventstore.core.event_rules import check_text
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.handler_transaction import (
    Reservations,
    deferred_changes,
    handler_transaction,
    is_deferred,
    keep_until_stored,
    submit_or_defer,
)
from socketio_eventstore.core.listener import SessionListener
from socketio_eventstore.core.operations import BindIdentity, SaveData, SendPacket
from socketio_eventstore.core.options import Options
from socketio_eventstore.core.recovery import RecoveryResult
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.session_operations import EndSession, RevokeIdentity
from socketio_eventstore.core.sessions import Session
from socketio_eventstore.transport.address_limits import AddressLimits
from socketio_eventstore.transport.connection import EngineConnection
from socketio_eventstore.transport.engine import Engine

logger = logging.getLogger(__name__)

H = TypeVar("H", bound=Callable[..., Any])

_HOOKS: Final = ("_handle_ack", "_trigger_event", "_send_packet")
"""The methods of python-socketio on which this class builds, proven on 5.12 to 5.18."""

_TRIGGER_EVENT: Final = vars(socketio.AsyncServer)["_trigger_event"]
_IS_PATCHED: Final = _TRIGGER_EVENT.__module__ != socketio.AsyncServer.__module__

ATTACHMENTS_OF_CLIENTS: Final = 10
"""Attachments that a client takes in a packet (socket.io-parser 4.2.6 and later, ``maxAttachments``)."""


ASYNC_MODES: Final = ("aiohttp", "asgi")
"""The values of python-socketio's ``async_mode`` for which there is a WebSocket (see ``transport``)."""


class Manager(Protocol):
    """The client manager as the server uses it; see ``manager.RecoveryManager``."""

    options: Options
    reopens: bool
    runtime: Runtime | None
    refused_rooms: int
    callbacks: dict[str, Any]
    acknowledgements: AcknowledgementIds

    def check_loop(self) -> None:
        """Move to the running event loop. Raises RuntimeError while the server's loop runs elsewhere."""
        ...

    async def start(self, lock_timeout_seconds: float | None = None) -> Runtime:
        """Open the store, unless it is open, also after ``close``. Raises StoreNotUsable, StoreClosed."""
        ...

    async def opened(self) -> Runtime:
        """Open the store for the first call. Raises StoreClosed after ``close``."""
        ...

    async def close(self) -> None:
        """Commit everything and close the store, until the next ``start``."""
        ...

    async def emit(self, event: str, data: Any, namespace: str, **kwargs: Any) -> str | None:
        """Store an event and send it to its rooms; return the offset."""
        ...

    usual_emit: Callable[..., Awaitable[str | None]]
    """The function of ``emit``, unless an application has replaced it."""

    def begin_emit(self, event: str, data: Any, namespace: str, **kwargs: Any) -> Awaitable[str | None]:
        """Begin ``emit``; the result is that of ``emit``."""
        ...

    def event_of(self, runtime: Runtime, message: Message) -> Event:
        """Make the event of a publisher as stored. Raises TypeError or ValueError."""
        ...


class RecoveryServer(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio is not typed
    """``socketio.AsyncServer`` with recovery. ``RecoveryManager`` turns an existing server into this class.

    All of python-socketio works. Room and session calls also work for sids that are away.
    """

    manager: Manager
    eio: Engine
    connect_timeout: float
    """Seconds in which a connection must join a namespace."""
    admin_ui: AdminUi | None
    """The reports for the Admin UI, after ``instrument``."""
    accepted_clients: int
    """The number of accepted clients, recovered ones included."""
    authentication: Authentication | None
    """The check of the tokens of clients; None where no token is needed."""
    connect_errors: int
    """The number of CONNECT packets that were refused."""
    _clients: Clients
    _exactly_once: ExactlyOnce
    _request_ids: RequestIds

    @classmethod
    def check(cls, server: object) -> None:
        """Raise an error that names the reason when a server cannot recover sessions."""
        if not isinstance(server, socketio.AsyncServer):
            raise TypeError(
                f"recovery needs a socketio.AsyncServer; {type(server).__name__} has no event loop. "
                "Flask-SocketIO makes a socketio.Server: replace both by socketio.AsyncServer"
            )
        if (mode := server.eio.async_mode) not in ASYNC_MODES:
            known = " and ".join(map(repr, ASYNC_MODES))
            raise RuntimeError(f"async_mode is {mode!r}; recovery works with {known}")
        for name in _HOOKS:
            if not callable(getattr(server, name, None)):
                raise RuntimeError(f"this version of python-socketio has no {name}; 5.18 to 5.x is supported")

    @classmethod
    def adopt(cls, server: socketio.AsyncServer, manager: Manager) -> RecoveryServer:
        """Set up a server that passed ``check`` and has no clients yet, and turn it into this class."""
        if not isinstance(server, cls):
            own = type(server)
            server.__class__ = cls if own is socketio.AsyncServer else type(own.__name__, (own, cls), {})
        adopted: RecoveryServer = server
        adopted._set_up(manager.options)
        return adopted

    def _engineio_server_class(self) -> type[Engine]:
        return Engine

    def _set_up(self, options: Options) -> None:
        self.reserved_events: list[str] = [*self.reserved_events, "session_expired"]
        self.connect_timeout = 45.0
        decoder = Decoder(self.packet_class, self.eio.max_http_buffer_size, options.max_attachments)
        self.environ = Environs()
        self._clients = Clients(self, decoder)
        if options.max_attachments > ATTACHMENTS_OF_CLIENTS:
            logger.warning(
                "max_attachments is %s: clients with socket.io-parser 4.2.6 or later take at most %s binary "
                "arguments, and lose the connection on an event with more.",
                options.max_attachments,
                ATTACHMENTS_OF_CLIENTS,
            )
        self._exactly_once = ExactlyOnce()
        self._request_ids = RequestIds()
        self.admin_ui = None
        self.authentication = None
        self.accepted_clients = self.connect_errors = 0
        self.eio = Engine.adopt(self.eio)
        self.eio.configure(
            max_client_buffer=options.max_client_buffer,
            websocket_compression=options.websocket_compression,
            connections=options.connections,
            pending_handshakes=options.pending_handshakes,
            address_limits=AddressLimits(options.connections_per_address, options.handshakes_per_address),
            events_per_second=options.events_per_second,
            bytes_per_second=options.bytes_per_second,
            offsets=options.offsets,
            allowed_hosts=options.allowed_hosts,
            trusted_proxies=options.trusted_proxies,
            connection_opened=self._connection_opened,
            connection_closed=self._clients.connection_closed,
            handle_message=self._clients.handle_message,
            ping_written=self._clients.ping_written,
            sessions_left=self._start_idle_timer,
            flush=self._clients.flush,
        )

    @property
    def clients(self) -> Clients:
        """The clients, with the counts of their events and of the calls of handlers."""
        return self._clients

    @property
    def listener(self) -> SessionListener:
        """The calls of handlers by the core."""
        return self._clients

    async def start(self) -> None:
        """Open the store, also after ``shutdown``. Without this call the first connection or emit opens it.

        While another server has the database, this call waits up to 10 seconds for its end; the first
        connection or emit does not wait. Raises StoreNotUsable.
        """
        await self._start()

    async def _start(self, lock_timeout_seconds: float | None = None) -> None:
        runtime = await self.manager.start(lock_timeout_seconds)
        if not self.async_handlers:  # set by the constructor after the manager
            self.eio.handlers_at_once = 1
        self._clients.start(runtime)

    def forget_clients(self) -> None:
        """Forget all connections, since their event loop has ended."""
        if self.admin_ui is not None:
            self.admin_ui.stop()
        for connection_id in self.environ:  # the connection whose handshake is running has none yet
            self.eio.forget(connection_id)
        self.environ.clear()
        self._clients.forget()
        self._exactly_once = ExactlyOnce()

    async def shutdown(self) -> None:
        """Close all transports, so that the clients come back, and close the store.

        No client gets a DISCONNECT packet. Disconnect handlers run to their end. Cancel this call to stop
        waiting for them; all emits are committed even then.
        """
        self.manager.check_loop()
        for connection in list(self.eio.sockets.values()):
            connection.close_after_flush(self.reason.SERVER_DISCONNECT)
        try:
            await self._clients.calls.finish()
        except asyncio.CancelledError:
            self._clients.calls.cancel()
            raise
        finally:
            self._clients.stop()
            if self.admin_ui is not None:
                self.admin_ui.stop()
            await asyncio.shield(self.manager.close())
            await super().shutdown()

    # For handlers -----------------------------------------------------------------------------------

    if TYPE_CHECKING:  # python-socketio is not typed; type checkers need the signatures of its methods

        @overload
        def on(self, event: str, handler: None = None, namespace: str | None = None) -> Callable[[H], H]: ...
        @overload
        def on(self, event: str, handler: Callable[..., Any], namespace: str | None = None) -> None: ...
        def on(self, event: str, handler: Any = None, namespace: str | None = None) -> Any: ...

        @overload
        def event(self, handler: H, /) -> H: ...
        @overload
        def event(self, *, namespace: str | None = None) -> Callable[[H], H]: ...
        def event(self, *args: Any, **kwargs: Any) -> Any: ...

        async def enter_room(self, sid: str, room: str | int, namespace: str | None = None) -> None: ...
        async def leave_room(self, sid: str, room: str | int, namespace: str | None = None) -> None: ...
        async def close_room(self, room: str | int, namespace: str | None = None) -> None: ...
        def rooms(self, sid: str, namespace: str | None = None) -> list[str | int]: ...

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

        An empty collection of rooms addresses no client; 0 and "" are rooms. ``to`` wins over ``room``.
        Returns the offset, the string that clients see, once the event is durable. An event with a callback
        and a volatile event are not stored, and None is returned. Raises TypeError or ValueError for an
        event that cannot be sent, and StoreError for one that cannot be stored; no client receives either.
        """
        namespace, addressed = namespace or "/", room if to is None else to
        log = self.logger
        if getattr(log, "level", 0) <= logging.INFO and log.isEnabledFor(logging.INFO):  # as in Clients
            to_whom = "all" if addressed is None else addressed
            self.logger.info('emitting event "%s" to %s [%s]', event, to_whom, namespace)
        manager = self.manager
        emit: Callable[..., Awaitable[str | None]] = manager.emit
        if getattr(emit, "__func__", None) is manager.usual_emit:
            emit = manager.begin_emit
        tracing = self._clients.calls.tracing
        if tracing is not None:
            emit = tracing.traced(emit)
        return await emit(
            event,
            data,
            namespace,
            room=addressed,
            skip_sid=skip_sid,
            callback=callback,
            volatile=volatile,
        )

    async def send(self, data: Any, *args: Any, **kwargs: Any) -> str | None:
        """Emit the event ``message``; arguments and result are those of ``emit``."""
        return await self.emit("message", data, *args, **kwargs)

    async def call(
        self, event: str, data: Any = None, to: Any = None, sid: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Emit an event with acknowledgement and wait for it, as ``socketio.AsyncServer.call`` does.

        ``to`` wins over ``sid``; an empty collection addresses no client.
        """
        addressed = sid if to is None else to
        # python-socketio takes ``to or sid``: an empty ``to`` alone would become a broadcast.
        call = Call()
        token = current_call.set(call)
        try:
            return await super().call(event, data, addressed, addressed, *args, **kwargs)
        finally:
            current_call.reset(token)
            self.manager.acknowledgements.end(call)

    def recovered(self, sid: str, namespace: str | None = None) -> bool:
        """Whether the present connection of a client recovered its session. Raises KeyError."""
        return self._known(sid, namespace).current.recovered

    def recovery_result(self, sid: str, namespace: str | None = None) -> str | None:
        """Return why the present connection of a client did, or did not, recover an earlier session.

        ``"recovered"``, the reason for a new session (see "Reasons for a new session" in the guarantees), or
        None for a client that named no earlier session. Raises KeyError.
        """
        current = self._known(sid, namespace).current
        return str(RecoveryResult.RECOVERED) if current.recovered else current.refusal

    def claims(self, sid: str, namespace: str | None = None) -> dict[str, Any] | None:
        """Return the claims of the token that the client of a session has shown last, to this process.

        None where no token is needed, and for a client that has not come back since the start of the server.
        Raises KeyError.
        """
        claims = connecting_as(self._known(sid, namespace)).claims
        return None if claims is None else dict(claims)

    async def get_session(self, sid: str, namespace: str | None = None) -> dict[str, Any]:
        """Return a copy of the saved data of a session, connected or away. Raises KeyError."""
        session = self._known(sid, namespace)
        saved = [change.data for change in deferred_changes(session) if isinstance(change, SaveData)]
        data: dict[str, Any] = json.loads(saved[-1] if saved else session.saving or session.data)
        return data

    async def save_session(self, sid: str, session: dict[str, Any], namespace: str | None = None) -> None:
        """Replace the saved data of a session, connected or away; on disk when the call returns.

        Raises KeyError for an unknown sid, TypeError for data that are not JSON, ValueError for data that
        are too large, StoreError.
        """
        text = encoder.session_json(session, self.eio.max_http_buffer_size)
        runtime = await self.manager.opened()
        known = self._known(sid, namespace)
        operation = SaveData(known, text)
        if not is_deferred(operation):
            known.saving = text
        try:
            await submit_or_defer(runtime.queue, operation)
        finally:
            if known.saving is text:
                known.saving = None

    async def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        """End a session for good and disconnect the client, which does not come back by itself.

        A session that is away ends, too. An unknown sid is ignored. Raises StoreError.
        """
        self.manager.check_loop()
        session, departures = self._find(sid, namespace), self._clients.departures
        if session is not None and departures is not None:
            self.logger.info("Disconnecting %s [%s]", sid, session.namespace)
            await departures.end(EndSession(session, SessionEnd.DISCONNECTED))

    async def revoke(self, sid: str, namespace: str | None = None) -> None:
        """End a session for good: the private id opens nothing any more.

        A client that is away gets a new session when the client returns. The transport of a connected client
        is closed; the client returns at once and passes the connect handler as a new client. An unknown sid
        is ignored. Raises StoreError.
        """
        self.manager.check_loop()
        session, departures = self._find(sid, namespace), self._clients.departures
        if session is not None and departures is not None:
            await departures.end(EndSession(session, SessionEnd.REVOKED))

    async def revoke_identity(self, identity: str) -> None:
        """End all sessions that are bound to an identity, in every namespace: a logout everywhere.

        Sessions that are away end, too; what ``revoke`` does to a client happens to each of them. One
        operation ends all of them. Raises TypeError unless the identity is a str that is not empty,
        StoreError; then no session has ended.
        """
        if not _is_identity(identity):
            raise TypeError(f"an identity must be a str that is not empty, not {identity!r}")
        self._clients.start(await self.manager.opened())
        departures = self._clients.departures
        if departures is not None:
            await departures.end(RevokeIdentity(identity))

    async def bind(self, sid: str, identity: str, namespace: str | None = None) -> None:
        """Bind a session to an identity; on disk when the call returns.

        Call this in the connect handler, after authentication. When the connect handler of a reconnection
        does not bind the same identity, the client gets a new session and nothing of the old one, and the
        handler is called again. Raises KeyError for an unknown sid, TypeError unless the identity is a str
        that is not empty, ValueError for a lone surrogate, StoreError, and ConnectionRefusedError in the
        connect handler of another identity, or beyond ``sessions_per_identity``; the handler must not catch
        the latter. Where clients need a token, the token binds the session, and any other identity raises
        ConnectionRefusedError.
        """
        self.manager.check_loop()
        session = self._known(sid, namespace)
        if not _is_identity(identity):
            raise TypeError(f"an identity must be a str that is not empty, not {identity!r}")
        check_text(identity, "an identity")
        attached = connecting_as(session)
        is_undecided = attached is not session.current or session.is_claimed_by(attached)
        if session.identity is not None and (is_undecided or session.token_rooms is not None):
            attached.authenticated_as = identity
            if identity != session.identity:
                raise exceptions.ConnectionRefusedError("the session belongs to another identity")
            return
        runtime = await self.manager.opened()
        self._clients.start(runtime)
        binding = BindIdentity(session, attached, identity)
        limit = self._clients.identity_limit
        if not limit.is_on or identity == session.identity:
            await submit_or_defer(runtime.queue, binding)
            return
        try:
            release = await limit.reserve(identity, session.sid)
        except TooManySessions as error:
            reason = error.reason
            raise exceptions.ConnectionRefusedError(reason["message"], reason["data"]) from None
        except PerhapsGone:
            if is_undecided and attached.connection is not None:  # without CONNECT_ERROR: it comes back
                attached.connection.abort(PERHAPS_GONE)
            raise exceptions.ConnectionRefusedError(PERHAPS_GONE) from None
        if keep_until_stored(binding, release):
            await submit_or_defer(runtime.queue, binding)
            return
        try:
            await submit_or_defer(runtime.queue, binding)
        finally:
            release()

    async def events(
        self,
        *,
        room: Any = None,
        namespace: str | None = None,
        event: str | None = None,
        before: str | None = None,
        after: str | None = None,
        limit: int = history.DEFAULT_LIMIT,
    ) -> list[StoredEvent]:
        """Return the last stored events of a room or namespace, the newest last: the history of a chat.

        ``room``: only events that are addressed to this room, or to one of several; ``event``: only events
        with this name. ``before`` and ``after`` are offsets, which are not included: the page before a page
        is ``before=page[0].offset``. With ``after`` the first events after it are returned. ``limit`` is at
        most 1000; a page also ends at about 1 MB. Events are there as long as the log keeps them. Raises
        ValueError for an offset that is not of this log, StoreError.
        """
        runtime = await self.manager.opened()
        return await history.events(
            runtime, room=room, namespace=namespace, event=event, before=before, after=after, limit=limit
        )

    async def fetch_sessions(self, *, room: Any = None, namespace: str | None = None) -> list[SessionInfo]:
        """Return the sessions of a namespace, or of a room, connected or away. Raises StoreError."""
        return history.sessions(await self.manager.opened(), room, namespace)

    def exactly_once(self, event: str, namespace: str | None = None) -> Callable[[H], H]:
        """Decorate the handler of an event whose last argument is an idempotency key.

        The handler, a coroutine function, runs once for each key, however often the client repeats the
        event; a repeat gets the first acknowledgement. The emits of the handler are stored in one
        transaction with the key when the handler returns (so emits return no offset), or not at all when
        the handler raises.
        """
        check_text(event, "an event's name")

        def decorate(handler: H) -> H:
            async def handle(sid: str, *arguments: Any) -> Any:
                runtime = await self.manager.opened()
                key = arguments[-1] if arguments else None
                session = self._known(sid, namespace)
                try:
                    return await self._exactly_once.handle(
                        runtime, session, event, key, lambda: handler(sid, *arguments)
                    )
                except InvalidIdempotencyKey as error:
                    text = f"An event of {sid} was not handled: {error}"
                    self._clients.calls.failures.failed((event, namespace), text, level=logging.WARNING)
                    return self.not_handled  # without an acknowledgement

            self.on(event, handle, namespace=namespace)
            return handler

        return decorate

    def instrument(self, *args: Any, **kwargs: Any) -> AdminUi:
        """Report to the Socket.IO Admin UI; the arguments are those of ``socketio.AsyncServer``.

        Nothing of the namespace of the admins is stored, and its sessions are not recovered.
        """
        names = ("auth", "mode", "read_only", "server_id", "namespace", "server_stats_interval")
        arguments = dict(zip(names, args, strict=False)) | kwargs
        self.admin_ui = AdminUi(self, **arguments)
        return self.admin_ui

    def end_reports(self, admin_ui: AdminUi) -> None:
        """Report nothing more to the admins; called by ``AdminUi.uninstrument``."""
        if self.admin_ui is admin_ui:
            self.admin_ui = None

    def _find(self, sid: str, namespace: str | None) -> Session | None:
        runtime = self.manager.runtime
        return None if runtime is None else runtime.registry.get(namespace or "/", sid)

    def _known(self, sid: str, namespace: str | None) -> Session:
        session = self._find(sid, namespace)
        if session is None:
            raise KeyError(f"no session {sid!r} in namespace {namespace or '/'!r}")
        return session

    # The application, for the parts of the adapter (see ``application.Application``) ------------------

    def serves(self, namespace: str) -> bool:
        """Whether clients may connect to a namespace."""
        return (
            namespace in self.handlers
            or namespace in self.namespace_handlers
            or self.namespaces == "*"
            or namespace in self.namespaces
        )

    def needs_token(self, namespace: str) -> bool:
        """Whether the clients of a namespace must show a token; admins have a login of their own."""
        return self.authentication is not None and self.recovers(namespace)

    def recovers(self, namespace: str) -> bool:
        """Whether the sessions of a namespace can be recovered; those of admins cannot."""
        return self.admin_ui is None or namespace != self.admin_ui.admin_namespace

    def accepted(self, session: Session) -> None:
        """Report a client that was accepted."""
        self.accepted_clients += 1
        self._clients.calls.lines.connected(session)
        if self.admin_ui is not None:
            self.admin_ui.accepted(session)

    @property
    def own_cookie(self) -> str | None:
        """The name of the cookie that the server itself sets for each connection; None for none."""
        cookie = self.eio.cookie
        name = cookie.get("name", "io") if isinstance(cookie, dict) else cookie
        return name if isinstance(name, str) and name else None

    def new_sid(self) -> str:
        """Make a session id."""
        sid: str = self.eio.generate_id()
        return sid

    def handles(self, event: str, namespace: str) -> bool:
        """Whether a handler of the application may be called for an event of a namespace."""
        if self.admin_ui is not None or self._has_own_trigger:
            return True
        for name in (namespace, "*"):
            if name in self.namespace_handlers or event in self.handlers.get(name, ()):
                return True
        return False

    @property
    def _has_own_trigger(self) -> bool:
        """Whether the application, or a tool that observes it, calls handlers in a way of its own."""
        return _IS_PATCHED or getattr(self._trigger_event, "__func__", None) is not _TRIGGER_EVENT

    def call_handler(self, event: str, *arguments: Any) -> Awaitable[Any]:
        """Call the application's handler of an event; the first argument is the namespace."""
        if self.admin_ui is not None:
            self.admin_ui.handler_called(event, *arguments)
        calling: Awaitable[Any] = self._trigger_event(event, *arguments)  # a coroutine less for each event
        return calling

    def call_event_handler(self, event: str, namespace: str, *arguments: Any) -> Awaitable[Any]:
        """Call the handler of a client's event, as ``call_handler`` does.

        The usual handler, a coroutine function, is called without the questions of ``_trigger_event``, which
        take longer than the call.
        """
        is_usual = getattr(self._trigger_event, "__func__", None) is _TRIGGER_EVENT and not _IS_PATCHED
        if not is_usual or self.admin_ui is not None:
            return self.call_handler(event, namespace, *arguments)
        handler, passed = self._get_event_handler(event, namespace, arguments)
        if type(handler) is FunctionType and handler.__code__.co_flags & CO_COROUTINE:
            calling: Awaitable[Any] = handler(*passed)
            return calling
        return self.call_handler(event, namespace, *arguments)

    def handle_ack(
        self, connection_id: str, namespace: str, ack_id: int | None, arguments: list[Any]
    ) -> Coroutine[Any, Any, None]:
        """Call the callback of an acknowledgement that has arrived."""
        handling: Coroutine[Any, Any, None] = self._handle_ack(connection_id, namespace, ack_id, arguments)
        return handling

    def forget_callbacks(self, sid: str) -> None:
        """Drop the callbacks of a session's outstanding acknowledgements."""
        self.manager.callbacks.pop(sid, None)

    def connect_error(self, namespace: str, reason: Any) -> Frames:
        """Encode a CONNECT_ERROR packet; a reason that clients cannot read is left out and logged."""
        self.connect_errors += 1
        try:
            return encoder.connect_error(self.packet_class, namespace, reason)
        except (TypeError, ValueError, OverflowError) as error:
            text = f"The reason of a refusal in {namespace} cannot be sent: {error}"
            self._clients.calls.failures.failed("reason", text)
        message = reason.get("message") if isinstance(reason, dict) else None
        text = message if isinstance(message, str) and message.isprintable() else "Connection refused"
        return encoder.connect_error(self.packet_class, namespace, {"message": text})

    async def session_expired(self, session: Session) -> None:
        """Call the handler of ``session_expired`` and end the session in the transaction of its emits.

        Only an exception or a crash inside the handler therefore repeats the call. Raises StoreError.
        """
        with Reservations() as reservations:
            with handler_transaction(reservations=reservations) as operations:
                data = json.loads(session.data)
                await self.call_handler("session_expired", session.namespace, session.sid, data)
            queue = (await self.manager.opened()).queue
            await queue.submit(*operations, EndSession(session, SessionEnd.EXPIRED))

    # Hooks of python-socketio -------------------------------------------------------------------------

    async def _connection_opened(self, connection: EngineConnection) -> bool:
        """Accept a new transport; False refuses it for now, so that the client tries again."""
        self.manager.check_loop()
        if self._clients.admission is None:  # before the start, and after the stop
            try:
                await self._start(lock_timeout_seconds=0.0)  # an official client tries again by itself
            except StoreError as error:
                text = f"A connection was refused. {error}"
                self._clients.calls.failures.failed(type(error).__name__, text)
                return False
        connection.head.request_id = self._request_ids.of(connection.head, self.eio.access)
        self.environ[connection.id] = connection.head
        self._start_idle_timer(connection)
        return True

    def _start_idle_timer(self, connection: EngineConnection) -> None:
        """Close a connection in a while, unless its client joins a namespace."""
        if connection.idle_timer is not None:
            connection.idle_timer.cancel()
        place, seconds = connection.place, self.connect_timeout
        if place is not None and not place.may_open:  # its session went to a newer connection
            seconds = min(seconds, REFUSED_SECONDS)
        loop = asyncio.get_running_loop()
        connection.idle_timer = loop.call_later(seconds, self._close_if_idle, connection.id)

    def _close_if_idle(self, eio_sid: str) -> None:
        connection = self.eio.connection(eio_sid)
        if connection is None or connection.sessions:
            return
        if self._clients.is_idle(connection):
            connection.close_after_flush(self.reason.SERVER_DISCONNECT)
        else:  # the answer to CONNECT may be a refusal
            self._start_idle_timer(connection)

    async def _send_packet(self, eio_sid: str, pkt: Any) -> None:
        connection, runtime = self.eio.connection(eio_sid), self.manager.runtime
        if connection is not None and runtime is not None:
            operation = SendPacket(connection, pkt.namespace or "/", encoder.frames_of(pkt))
            with suppress(StoreClosed):  # the transport is about to end as well
                runtime.queue.enqueue(operation)


def _is_identity(value: object) -> bool:
    return isinstance(value, str) and value != ""
