"""python-socketio's server with recovery: the calls of handlers, and the packets of the transport."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

import socketio

from socketio_eventlog.errors import StoreClosed
from socketio_eventstore.adapter import encoder, history
from socketio_eventstore.adapter.acknowledgements import Call, current_call
from socketio_eventstore.adapter.admin_ui import AdminUi
from socketio_eventstore.adapter.clients import Clients
from socketio_eventstore.adapter.decoder import Decoder
from socketio_eventstore.adapter.environs import Environs
from socketio_eventstore.adapter.exactly_once import ExactlyOnce, InvalidIdempotencyKey
from socketio_eventstore.adapter.history import SessionInfo, StoredEvent
from socketio_eventstore.adapter.manager_protocol import Manager
from socketio_eventstore.adapter.new_connections import NewConnections
from socketio_eventstore.adapter.rejoining import Rejoining
from socketio_eventstore.adapter.request_ids import RequestIds
from socketio_eventstore.adapter.server_application import ServerApplication
from socketio_eventstore.adapter.session_calls import SessionCalls
from socketio_eventstore.core.event_rules import check_text
from socketio_eventstore.core.listener import SessionListener
from socketio_eventstore.core.operations import SendPacket
from socketio_eventstore.core.options import Options
from socketio_eventstore.core.senders import current_sender
from socketio_eventstore.transport.address_limits import AddressLimits
from socketio_eventstore.transport.engine import Engine

logger = logging.getLogger(__name__)

H = TypeVar("H", bound=Callable[..., Any])

_HOOKS: Final = ("_handle_ack", "_trigger_event", "_send_packet")
"""The required methods of python-socketio, proven on 5.12 to 5.18."""

ATTACHMENTS_OF_CLIENTS: Final = 10
"""The most attachments in a packet for a client (socket.io-parser 4.2.6 and later, ``maxAttachments``)."""


ASYNC_MODES: Final = ("aiohttp", "asgi")
"""The values of python-socketio's ``async_mode`` for which there is a WebSocket (see ``transport``)."""


class RecoveryServer(SessionCalls, ServerApplication, NewConnections):
    """``socketio.AsyncServer`` with recovery. ``RecoveryManager`` changes an existing server to this class.

    All of python-socketio works. Room and session calls also work for sids that are away.
    """

    _exactly_once: ExactlyOnce

    @classmethod
    def check(cls, server: object) -> None:
        """Raise an error with the reason when a server cannot recover sessions."""
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
        """Set up a server after ``check`` and before any clients, and change the server to this class."""
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
        self.rejoining = Rejoining(self.manager, self._clients, self.eio)
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
            node_name=options.node_name,
            connection_opened=self._connection_opened,
            opened_at_once=self._opened_at_once,
            connection_closed=self._clients.connection_closed,
            handle_message=self._clients.handle_message,
            ping_written=self._clients.ping_written,
            sessions_left=self._start_idle_timer,
            flush=self._clients.flush,
        )

    @property
    def clients(self) -> Clients:
        """The clients, with the counts of events and of handler calls."""
        return self._clients

    @property
    def listener(self) -> SessionListener:
        """The calls of handlers by the core."""
        return self._clients

    async def start(self) -> None:
        """Open the store, also after ``shutdown``. Without this call the first connection or emit opens it.

        While another server has the database, the call waits up to 10 seconds for the other server's end; the
        first connection or emit does not wait. Raises StoreNotUsable.
        """
        await self._start()

    async def _start(self, lock_timeout_seconds: float | None = None) -> None:
        runtime = await self.manager.start(lock_timeout_seconds)
        if not self.async_handlers:  # set by the constructor after the manager
            self.eio.handlers_at_once = 1
        self._clients.start(runtime)
        self.rejoining.allow()

    def forget_clients(self) -> None:
        """Forget all connections, since the event loop has ended."""
        if self.admin_ui is not None:
            self.admin_ui.stop()
        for connection_id in self.environ:  # the connection of a running handshake has none yet
            self.eio.forget(connection_id)
        self.environ.clear()
        self._clients.forget()
        self.rejoining = Rejoining(self.manager, self._clients, self.eio)
        self._exactly_once = ExactlyOnce()

    async def shutdown(self) -> None:
        """Close all transports in a way that lets clients come back, and close the store.

        No client gets a DISCONNECT packet. Disconnect handlers run to their end. Cancel the call to stop the
        wait; all emits are committed even then.
        """
        self.manager.check_loop()
        await self.rejoining.stop()
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

    if TYPE_CHECKING:  # python-socketio is not typed; type checkers need the signatures of the methods

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
        """Store and emit an event, as ``socketio.AsyncServer.emit`` does.

        An empty collection of rooms addresses no client; 0 and "" are rooms. ``to`` wins over ``room``. The
        event is durable before it is sent. Returns the offset, the string that clients see, once the event is
        durable. An event with a callback and a volatile event are not stored, and None is returned. Raises
        TypeError or ValueError for an event that cannot be sent, and StoreError for an event that cannot be
        stored; no client receives such an event.
        """
        namespace, addressed = namespace or "/", room if to is None else to
        log = self.logger
        if getattr(log, "level", 0) <= logging.INFO and log.isEnabledFor(logging.INFO):  # as in Clients
            to_whom = "all" if addressed is None else addressed
            self.logger.info('emitting event "%s" to %s [%s]', event, to_whom, namespace)
        manager, tracing = self.manager, self._clients.calls.tracing
        emit: Callable[..., Awaitable[str | None]] = manager.emit
        if getattr(emit, "__func__", None) is manager.usual_emit:
            emit = manager.begin_emit
            if tracing is None:  # by place: keywords would take twice as long
                return await emit(event, data, namespace, addressed, skip_sid, callback, None, volatile)
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
        """Emit the event ``message``; arguments and result are as in ``emit``."""
        return await self.emit("message", data, *args, **kwargs)

    async def call(
        self, event: str, data: Any = None, to: Any = None, sid: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Emit an event and wait for the acknowledgement, as ``socketio.AsyncServer.call`` does.

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

        ``room``: only events to a room, or to any of several rooms; ``event``: only events with the name.
        ``before`` and ``after`` are offsets, which are not included: the page before a page is
        ``before=page[0].offset``. With ``after`` the first events after the offset are returned. ``limit`` is
        at most 1000; a page also ends at about 1 MB. Events are there as long as the log keeps them. Raises
        ValueError for an offset of another log, StoreError.
        """
        runtime = await self.manager.opened()
        return await history.events(
            runtime, room=room, namespace=namespace, event=event, before=before, after=after, limit=limit
        )

    async def fetch_sessions(self, *, room: Any = None, namespace: str | None = None) -> list[SessionInfo]:
        """Return the sessions of a namespace, or of a room, connected or away. Raises StoreError.

        Of very many sessions, some are looked at after the event loop has served others.
        """
        return await history.sessions(await self.manager.opened(), room, namespace)

    def exactly_once(self, event: str, namespace: str | None = None) -> Callable[[H], H]:
        """Decorate the handler of an event with an idempotency key as the last argument.

        The handler, a coroutine function, runs once for each key, for any number of repeats of the event; a
        repeat gets the first acknowledgement. The emits of the handler are stored in one transaction with the
        key when the handler returns (so emits return no offset), or not at all when the handler raises.
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
        """Report to the Socket.IO Admin UI; the arguments are as in ``socketio.AsyncServer``.

        Nothing of the admins' namespace is stored, and sessions of admins are not recovered.
        """
        names = ("auth", "mode", "read_only", "server_id", "namespace", "server_stats_interval")
        arguments = dict(zip(names, args, strict=False)) | kwargs
        self.admin_ui = AdminUi(self, **arguments)
        return self.admin_ui

    def end_reports(self, admin_ui: AdminUi) -> None:
        """Report nothing more to the admins; called by ``AdminUi.uninstrument``."""
        if self.admin_ui is admin_ui:
            self.admin_ui = None

    def start_background_task(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Start a task of the application, as ``socketio.AsyncServer.start_background_task`` does.

        The emits of the task count to no client, also when a handler starts the task.
        """
        token = current_sender.set(None)
        try:
            return super().start_background_task(target, *args, **kwargs)
        finally:
            current_sender.reset(token)

    # Hooks of python-socketio -------------------------------------------------------------------------

    async def _send_packet(self, eio_sid: str, pkt: Any) -> None:
        connection, runtime = self.eio.connection(eio_sid), self.manager.runtime
        if connection is not None and runtime is not None:
            operation = SendPacket(connection, pkt.namespace or "/", encoder.frames_of(pkt))
            with suppress(StoreClosed):  # the transport is about to end as well
                runtime.queue.enqueue(operation)
