"""Engine.IO over HTTP: handshakes, polls and upgrades.

python-engineio does the work that depends on the framework: request translation, responses and cookies.
``Engine`` replaces python-engineio's request handling, which deviates from the protocol in status codes and
in closing, and the check of origins, which trusts the forwarding headers of every client.

Source: Engine.IO protocol 4, "HTTP long-polling" and "Upgrade".
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import engineio

from socketio_eventstore.core.frames import polling_body
from socketio_eventstore.core.options import Offsets
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.transport.access_rules import AccessRefused, AccessRules, AllowedHosts
from socketio_eventstore.transport.address_limits import AddressLimits
from socketio_eventstore.transport.aiohttp_websocket import AiohttpWebSocket
from socketio_eventstore.transport.asgi_environ import translate_request
from socketio_eventstore.transport.asgi_websocket import AsgiWebSocket
from socketio_eventstore.transport.connection import (
    HANDLERS_AT_ONCE,
    EngineConnection,
    InvalidRequest,
)
from socketio_eventstore.transport.engine_server import HandleMessage
from socketio_eventstore.transport.handshakes import (
    parse_query,
    wants_websocket,
)
from socketio_eventstore.transport.http_responses import HttpResponses
from socketio_eventstore.transport.opening import Opening
from socketio_eventstore.transport.polls_at_shutdown import PollsAtShutdown
from socketio_eventstore.transport.rate_limits import RateLimits
from socketio_eventstore.transport.request_head import RequestHead
from socketio_eventstore.transport.responses import (
    BAD_REQUEST,
    FORBIDDEN,
    UNKNOWN_SESSION,
    UNKNOWN_TRANSPORT,
    RequestRefused,
    plain_response,
)
from socketio_eventstore.transport.shared_rounds import SharedRounds
from socketio_eventstore.transport.unread_responses import UnreadResponses
from socketio_eventstore.transport.upgrade import Upgrade
from socketio_eventstore.transport.websocket import Environ

_HOOKS: Final = (
    "_generate_sid_cookie",
    "_make_response",
    "_cors_headers",
    "_cors_allowed_origins",
)
"""The private methods of python-engineio used or replaced by ``Engine``."""


class Engine(Opening, HttpResponses, engineio.AsyncServer):  # type: ignore[misc]  # python-engineio is not typed
    """python-engineio's server with ``EngineConnection`` and with replaced request handling.

    ``adopt`` changes an existing server object to this class: applications may have made the server through
    python-socketio. ``configure`` completes the object in any case.
    """

    max_client_buffer: int
    """The most unsent bytes of a connection; a connection with more is aborted."""
    handlers_at_once: int
    """The most running handlers of a connection; further packets of the client are queued."""
    rate_limits: RateLimits
    """The limits for what one client may send in a second."""
    slow_clients: int
    """The number of connections aborted because of ``max_client_buffer``."""
    received_bytes: int
    """The bytes of all packets from clients."""
    polls_at_shutdown: PollsAtShutdown
    """The polls that wait on uvicorn."""
    connection_closed: Callable[[EngineConnection, str], None]
    """Called at once when a connection closes, with python-engineio's reason."""
    handle_message: HandleMessage
    """Called for each message of a client."""
    ping_written: Callable[[EngineConnection], None]
    """Called after a ping has been written behind the frames sent before."""
    sessions_left: Callable[[EngineConnection], None]
    """Called after the last session was taken off an open connection."""
    flush: Callable[[], None]
    """Writes the dispatched frames to the connections."""

    @classmethod
    def adopt(cls, engine: engineio.AsyncServer) -> Engine:
        """Turn a server without connections into an ``Engine``; return the same object.

        Raises RuntimeError for a python-engineio without the required private methods.
        """
        for name in _HOOKS:
            if not callable(getattr(engine, name, None)):
                raise RuntimeError(f"this version of python-engineio has no {name}; 4.15 to 4.x is supported")
        if not isinstance(engine, cls):
            engine.__class__ = cls
        adopted: Engine = engine
        return adopted

    def configure(
        self,
        *,
        max_client_buffer: int,
        websocket_compression: int,
        connections: int,
        pending_handshakes: int,
        address_limits: AddressLimits,
        events_per_second: float,
        bytes_per_second: float,
        offsets: Offsets,
        allowed_hosts: AllowedHosts,
        trusted_proxies: Sequence[str],
        node_name: str,
        connection_opened: Callable[[EngineConnection], Awaitable[bool]],
        opened_at_once: Callable[[EngineConnection], bool],
        connection_closed: Callable[[EngineConnection, str], None],
        handle_message: HandleMessage,
        ping_written: Callable[[EngineConnection], None],
        sessions_left: Callable[[EngineConnection], None],
        flush: Callable[[], None],
    ) -> None:
        """Set the limits and the callbacks, before the first connection.

        The attributes of the class describe the arguments. Raises ValueError for an invalid host or proxy.
        """
        self.start_service_task = False  # each connection has a Heartbeat
        self.max_client_buffer = max_client_buffer
        self.handlers_at_once = HANDLERS_AT_ONCE
        self.websocket_compression = websocket_compression
        self.connections = connections
        self.pending_handshakes = pending_handshakes
        self.address_limits = address_limits
        # A longer pause would end the client by the heartbeat, since pongs are read late.
        self.rate_limits = RateLimits(events_per_second, bytes_per_second, self.ping_timeout)
        self.shared_rounds = SharedRounds()
        self.pending = 0
        self._loop = None
        self.refused_handshakes = Counter()
        self.offsets = offsets
        self.access = AccessRules(allowed_hosts, trusted_proxies)
        self._id_prefix = f"{node_name}." if node_name else ""
        self.slow_clients = 0
        self.received_bytes = 0
        self.is_draining = False
        self.unread = UnreadResponses()
        self.polls_at_shutdown = PollsAtShutdown()
        self.failures = RepeatedFailures(logging.getLogger("socketio_eventstore.transport.connection"))
        self._websocket_class = _websocket_class(self._async)
        self.connection_opened = connection_opened
        self.opened_at_once = opened_at_once
        self.connection_closed = connection_closed
        self.handle_message = handle_message
        self.ping_written = ping_written
        self.sessions_left = sessions_left
        self.flush = flush
        self.count_traffic(None)

    def attach(self, app: Any, engineio_path: str = "engine.io") -> None:
        """Attach to an aiohttp or ASGI application.

        The aiohttp route accepts all methods, since the protocol defines a response for each method.
        """
        if hasattr(app, "router"):
            path = f"/{engineio_path.strip('/')}"
            paths = ["/"] if path == "/" else [f"{path}/", path]  # the official client's addTrailingSlash
            for path in paths:
                app.router.add_route("*", path, self.handle_request)
        else:
            super().attach(app, engineio_path)

    def connection(self, connection_id: str | None) -> EngineConnection | None:
        """Return the open connection with an id, or None."""
        connection: EngineConnection | None = self.sockets.get(connection_id)
        return connection

    async def handle_request(self, *args: Any, **kwargs: Any) -> Any:
        """Answer an HTTP request, or open a WebSocket."""
        if self._websocket_class is AiohttpWebSocket:
            head = RequestHead.of_request(*args, **kwargs)
        elif environ := await translate_request(*args, **kwargs):
            head = RequestHead.of_scope(environ)
        else:
            return None  # an event of ASGI's lifespan, not a request
        try:
            response = await self._respond(head)
        except RequestRefused as refusal:
            response = refusal.response
        except AccessRefused as refusal:
            response = RequestRefused((FORBIDDEN[0], str(refusal)), refusal.status).response
        if not isinstance(response, dict):
            return response
        environ = head.make_environ()
        await self._compress(response, environ)
        return await self._send_response(response, environ)

    async def _respond(self, head: RequestHead) -> Any:
        self.check_access(head)
        method = head.method
        if method == "OPTIONS":
            return plain_response("")
        query = parse_query(head.query)
        transport = query.get("transport", "")
        if transport not in self.transports:
            raise RequestRefused(UNKNOWN_TRANSPORT)
        if "sid" not in query:
            return await self._open(head, transport, query)
        connection = self.connection(query["sid"])
        if connection is None:
            raise RequestRefused(UNKNOWN_SESSION)
        if transport == "websocket" and wants_websocket(head):
            return await self._websocket(partial(Upgrade, connection), head)
        if transport == "websocket" or connection.upgraded:
            raise RequestRefused(BAD_REQUEST)
        environ = head.make_environ()
        try:
            if method == "GET":
                with self.polls_at_shutdown.watching(connection, environ.get("asgi.send")):
                    return plain_response(polling_body(await connection.poll()))
            if method == "POST":
                await connection.post(await self._read_body(connection, environ))
                return plain_response("ok", content_type="text/html")
        except InvalidRequest as error:
            raise RequestRefused(BAD_REQUEST) from error
        raise RequestRefused(BAD_REQUEST)

    async def _read_body(self, connection: EngineConnection, environ: Environ) -> bytes:
        limit = self.max_http_buffer_size
        body = b""
        while chunk := await environ["wsgi.input"].read(limit + 1 - len(body)):
            body += chunk
            if len(body) > limit:
                connection.abort("the client sent more than max_payload")
                raise InvalidRequest
        return body


def _kind(driver: dict[str, Any]) -> str:
    """Return the name of a driver of python-engineio, such as ``asgi``."""
    module: str = driver["translate_request"].__module__
    return module.rpartition(".")[2]


def _websocket_class(driver: dict[str, Any]) -> type[AiohttpWebSocket] | type[AsgiWebSocket]:
    """Return the WebSocket class for a driver of python-engineio.

    Raises RuntimeError for a driver of neither aiohttp nor ASGI.
    """
    match _kind(driver):
        case "aiohttp":
            return AiohttpWebSocket
        case "asgi":
            return AsgiWebSocket
        case other:
            raise RuntimeError(f"async_mode is {other!r}; recovery works with 'aiohttp' and 'asgi'")
