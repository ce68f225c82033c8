"""The application for the parts of the adapter: handlers and packets for clients (see ``application``)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Coroutine, Mapping
from inspect import CO_COROUTINE
from types import FunctionType
from typing import Any, Final

import socketio

from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.adapter import encoder
from socketio_eventstore.adapter.acknowledgements import AcknowledgementIds
from socketio_eventstore.adapter.admin_ui import AdminUi
from socketio_eventstore.adapter.authentication import Authentication
from socketio_eventstore.adapter.clients import Clients
from socketio_eventstore.adapter.manager_protocol import Manager
from socketio_eventstore.adapter.rejoining import Rejoining
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.handler_transaction import Reservations, handler_transaction
from socketio_eventstore.core.repeated_failures import shown
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import Session
from socketio_eventstore.transport.engine import Engine

_TRIGGER_EVENT: Final = vars(socketio.AsyncServer)["_trigger_event"]
_IS_PATCHED: Final = _TRIGGER_EVENT.__module__ != socketio.AsyncServer.__module__
_NONE: Final[Mapping[str, Any]] = {}


class ServerApplication(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio is not typed
    """The part of ``RecoveryServer`` that implements ``Application``."""

    manager: Manager
    eio: Engine
    admin_ui: AdminUi | None
    """The reports for the Admin UI, after ``instrument``."""
    accepted_clients: int
    """The number of accepted clients, recovered ones included."""
    authentication: Authentication | None
    """The check of the tokens of clients; None where no token is needed."""
    connect_errors: int
    """The number of refused CONNECT packets."""
    rejoining: Rejoining
    _clients: Clients

    def serves(self, namespace: str) -> bool:
        """Whether clients may connect to a namespace."""
        return (
            namespace in self.handlers
            or namespace in self.namespace_handlers
            or self.namespaces == "*"
            or namespace in self.namespaces
        )

    def needs_token(self, namespace: str) -> bool:
        """Whether the clients of a namespace must send a token; admins have a separate login."""
        return self.authentication is not None and self.recovers(namespace)

    def recovers(self, namespace: str) -> bool:
        """Whether the sessions of a namespace can be recovered; sessions of admins cannot."""
        return self.admin_ui is None or namespace != self.admin_ui.admin_namespace

    def accepted(self, session: Session) -> None:
        """Report an accepted client."""
        self.accepted_clients += 1
        if not session.current.recovered:  # a recovered session has a line after its replay
            self._clients.calls.lines.connected(session)
        if self.admin_ui is not None:
            self.admin_ui.accepted(session)

    @property
    def acknowledgements(self) -> AcknowledgementIds:
        """The ids of acknowledgements, and the waiting callbacks."""
        return self.manager.acknowledgements

    @property
    def own_cookie(self) -> str | None:
        """The name of the server's own cookie for each connection; None without a cookie."""
        cookie = self.eio.cookie
        name = cookie.get("name", "io") if isinstance(cookie, dict) else cookie
        return name if isinstance(name, str) and name else None

    def new_sid(self) -> str:
        """Make a session id."""
        sid: str = self.eio.generate_id()
        return sid

    def handles(self, event: str, namespace: str) -> bool:
        """Whether a handler of the application may be called for an event of a namespace."""
        # The application, or an observing tool, may call handlers in another way.
        has_own_trigger = getattr(self._trigger_event, "__func__", None) is not _TRIGGER_EVENT
        if self.admin_ui is not None or _IS_PATCHED or has_own_trigger:
            return True
        for name in (namespace, "*"):
            if name in self.namespace_handlers or event in self.handlers.get(name, ()):
                return True
        return False

    def registered_names(self, event: str, namespace: str) -> tuple[str, str]:
        """Return the event and the namespace of the registered handler, ``"*"`` for any."""
        for name in (namespace, "*"):
            if name in self.namespace_handlers:
                return event, name
            for registered in (event, "*"):
                if registered in self.handlers.get(name, ()):
                    return registered, name
        return "*", "*"

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
        handler, passed = self.handlers.get(namespace, _NONE).get(event), arguments
        if handler is None:  # there may be a handler for all events, or for all namespaces
            handler, passed = self._get_event_handler(event, namespace, arguments)
        if type(handler) is FunctionType and handler.__code__.co_flags & CO_COROUTINE:
            calling: Awaitable[Any] = handler(*passed)
            return calling
        return self.call_handler(event, namespace, *arguments)

    def handle_ack(
        self, connection_id: str, namespace: str, ack_id: int | None, arguments: list[Any]
    ) -> Coroutine[Any, Any, None]:
        """Call the callback of an arrived acknowledgement."""
        handling: Coroutine[Any, Any, None] = self._handle_ack(connection_id, namespace, ack_id, arguments)
        return handling

    def lost(self, reason: str) -> None:
        """Close all transports and join the log anew, since the life of this node is over."""
        self.rejoining.begin(reason)

    def forget_callbacks(self, sid: str) -> None:
        """Drop the callbacks of a session's outstanding acknowledgements."""
        self.manager.callbacks.pop(sid, None)

    def connect_error(self, namespace: str, reason: Any) -> Frames:
        """Encode a CONNECT_ERROR packet; a reason unreadable for clients is left out and logged."""
        self.connect_errors += 1
        try:
            return encoder.connect_error(self.packet_class, namespace, reason)
        except Exception as error:  # noqa: BLE001 -- the serializer may raise any; the refusal stands
            text = f"The reason of a refusal in {namespace} cannot be sent: {shown(error)}"
            self._clients.calls.failures.failed("reason", text)
        message = reason.get("message") if isinstance(reason, dict) else None
        text = message if isinstance(message, str) and message.isprintable() else "Connection refused"
        return encoder.connect_error(self.packet_class, namespace, {"message": text})

    async def session_expired(self, session: Session) -> None:
        """Call the handler of ``session_expired``; end the session in the transaction of the handler.

        Only an exception or a crash inside the handler therefore repeats the call. A claim meanwhile does not
        keep the session: the session is overdue for the claim, too. Raises StoreError.
        """
        # The life in which the session has expired: after a loss of history, the session may be alive in the
        # next life.
        queue = (await self.manager.opened()).queue
        with Reservations() as reservations:
            with handler_transaction(reservations=reservations) as operations:
                data = json.loads(session.data)
                await self.call_handler("session_expired", session.namespace, session.sid, data)
            await queue.submit(*operations, EndSession(session, SessionEnd.EXPIRED))
