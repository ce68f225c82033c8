"""The interface between application and adapter: handlers, environ, packets for clients.

``server.RecoveryServer`` implements the Protocol, which keeps the imports of the adapter in one direction.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Coroutine
from typing import Any, Protocol

from socketio_eventstore.adapter.acknowledgements import AcknowledgementIds
from socketio_eventstore.adapter.authentication import Authentication
from socketio_eventstore.adapter.environs import Environs
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.sessions import Session


class Application(Protocol):
    """The handlers of an application and the settings about clients."""

    acknowledgements: AcknowledgementIds
    """The ids of acknowledgements, and the waiting callbacks."""
    authentication: Authentication | None
    """The check of the tokens of clients; None where no token is needed."""
    always_connect: bool
    """Whether clients are accepted before the connect handler runs (python-socketio's ``always_connect``)."""
    environ: Environs
    """The request environ by Engine.IO connection id."""
    logger: logging.Logger
    """The logger of python-socketio's argument ``logger``."""
    not_handled: object
    """The result of a handler call for an event without handler, which gets no acknowledgement."""
    own_cookie: str | None
    """The name of the server's own cookie for each connection; None without a cookie."""
    reason: Any
    """The texts of the disconnect reasons (``socketio.AsyncServer.reason``)."""

    def serves(self, namespace: str) -> bool:
        """Whether clients may connect to a namespace."""
        ...

    def needs_token(self, namespace: str) -> bool:
        """Whether the clients of a namespace must show a token."""
        ...

    def new_sid(self) -> str:
        """Make a new, unique session id."""
        ...

    def handles(self, event: str, namespace: str) -> bool:
        """Whether a handler of the application may be called for an event of a namespace."""
        ...

    def registered_names(self, event: str, namespace: str) -> tuple[str, str]:
        """Return the event and the namespace of the registered handler, ``"*"`` for any."""
        ...

    def call_handler(self, event: str, *arguments: Any) -> Awaitable[Any]:
        """Call the application's handler of an event; the first argument is the namespace."""
        ...

    def call_event_handler(self, event: str, namespace: str, *arguments: Any) -> Awaitable[Any]:
        """Call the application's handler of a client's event."""
        ...

    def handle_ack(
        self, connection_id: str, namespace: str, ack_id: int | None, arguments: list[Any]
    ) -> Coroutine[Any, Any, None]:
        """Call the callback of an arrived acknowledgement."""
        ...

    def lost(self, reason: str) -> None:
        """Close all transports and join the log anew, since the life of this node is over."""
        ...

    def forget_callbacks(self, sid: str) -> None:
        """Drop the callbacks of impossible acknowledgements."""
        ...

    async def session_expired(self, session: Session) -> None:
        """Call the handler of ``session_expired`` and end the session. Raises StoreError."""
        ...

    def recovers(self, namespace: str) -> bool:
        """Whether the sessions of a namespace can be recovered, where recovery is enabled."""
        ...

    def accepted(self, session: Session) -> None:
        """Called for each accepted client."""
        ...

    def connect_error(self, namespace: str, reason: Any) -> Frames:
        """Encode a CONNECT_ERROR packet; a reason unreadable for clients is left out."""
        ...
