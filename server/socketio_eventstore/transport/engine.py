"""Engine.IO over HTTP: handshakes, polls and upgrades.

python-engineio does the work that depends on the framework: request translation, responses and cookies.
``Engine`` replaces python-engineio's request handling, which deviates from the protocol in status codes
and in closing, and its check of origins, which believes the forwarding headers of every client.

Source: Engine.IO protocol 4, "HTTP long-polling" and "Upgrade".
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import engineio

from socketio_eventstore.core.frames import Frames, polling_body
from socketio_eventstore.core.options import Offsets
from socketio_eventstore.core.packets import quoted
from socketio_eventstore.core.random_ids import random_id
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.transport.access_rules import AccessRefused, AccessRules, AllowedHosts
from socketio_eventstore.transport.address_limits import AddressLimits
from socketio_eventstore.transport.aiohttp_websocket import AiohttpWebSocket
from socketio_eventstore.transport.asgi_environ import translate_request
from socketio_eventstore.transport.asgi_transport import find_transport
from socketio_eventstore.transport.asgi_websocket import AsgiWebSocket, can_deny, deny
from socketio_eventstore.transport.connection import (
    HANDLERS_AT_ONCE,
    EngineConnection,
    HandleMessage,
    InvalidRequest,
)
from socketio_eventstore.transport.handshake_limits import HandshakeLimits
from socketio_eventstore.transport.handshakes import (
    PYTHON_POLL_PACKETS,
    check_handshake,
    end_of_handshake,
    is_python,
    parse_query,
    takes_offsets,
    wants_websocket,
)
from socketio_eventstore.transport.origin_checks import OriginChecks
from socketio_eventstore.transport.packet_log import PacketLog, Traffic
from socketio_eventstore.transport.polls_at_shutdown import PollsAtShutdown
from socketio_eventstore.transport.rate_limits import RateLimits
from socketio_eventstore.transport.request_head import RequestHead
from socketio_eventstore.transport.responses import (
    BAD_REQUEST,
    FORBIDDEN,
    UNKNOWN_SESSION,
    UNKNOWN_TRANSPORT,
    RequestRefused,
    Response,
    plain_response,
    unavailable,
)
from socketio_eventstore.transport.shared_rounds import SharedRounds
from socketio_eventstore.transport.unread_responses import UnreadResponses
from socketio_eventstore.transport.upgrade import Upgrade
from socketio_eventstore.transport.websocket import Environ, MakeReceiver
from socketio_eventstore.transport.websocket_handshake import InvalidHandshake, accept_plainly

COMPRESSED_AT_ONCE_BYTES: Final = 50_000
"""The largest response that is compressed on the event loop, in 1 to 2 ms. A response to a poll may have some
megabytes, and a thread compresses them without the GIL."""


_HOOKS: Final = (
    "_generate_sid_cookie",
    "_make_response",
    "_cors_headers",
    "_cors_allowed_origins",
)
"""The private methods of python-engineio that ``Engine`` calls or replaces."""


class Engine(OriginChecks, HandshakeLimits, engineio.AsyncServer):  # type: ignore[misc]  # python-engineio is not typed
    """python-engineio's server with ``EngineConnection`` and with replaced request handling.

    ``adopt`` turns an existing server object into this class: applications may have made the server
    through python-socketio. ``configure`` completes the object in any case.
    """

    max_client_buffer: int
    """The most unsent bytes of one connection; a connection with more is aborted."""
    handlers_at_once: int
    """The most running handlers of one connection; further packets of the client are queued."""
    rate_limits: RateLimits
    """The limits for what one client may send in a second."""
    shared_rounds: SharedRounds
    """The rounds of the event loop in which clients with many packets go on."""
    websocket_compression: int
    """The smallest payload that a WebSocket compresses, in bytes; 0 compresses none."""
    offsets: Offsets
    """Whether clients that do not take offsets are recognised (``auto``)."""
    slow_clients: int
    """The number of connections aborted because of ``max_client_buffer``."""
    received_bytes: int
    """The bytes of all packets from clients."""
    polls_at_shutdown: PollsAtShutdown
    """The polls that wait on uvicorn."""
    unread: UnreadResponses
    """The TCP connections whose client has not read a response."""
    connection_opened: Callable[[EngineConnection], Awaitable[bool]]
    """Called for each handshake; returns False to refuse the client for now."""
    opened_at_once: Callable[[EngineConnection], bool]
    """Called instead of ``connection_opened``; returns False where something is to be waited for."""
    connection_closed: Callable[[EngineConnection, str], None]
    """Called at once when a connection closes, with python-engineio's reason."""
    handle_message: HandleMessage
    """Called for each message of a client."""
    ping_written: Callable[[EngineConnection], None]
    """Called after a ping has been written behind the frames sent before."""
    sessions_left: Callable[[EngineConnection], None]
    """Called when the last session of an open connection was taken off it."""
    flush: Callable[[], None]
    """Writes the dispatched frames to the connections."""
    packet_log: PacketLog | None
    """The view of all packets; None unless ``engineio_logger`` or ``count_traffic`` asks for them."""

    @classmethod
    def adopt(cls, engine: engineio.AsyncServer) -> Engine:
        """Turn a server without connections into an ``Engine``; return the same object.

        Raises RuntimeError for a python-engineio without the private methods that ``Engine`` calls.
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
        # Its heartbeat would end a client that is held back for longer, since its pongs are read late.
        self.rate_limits = RateLimits(events_per_second, bytes_per_second, self.ping_timeout)
        self.shared_rounds = SharedRounds()
        self.pending = 0
        self._loop: asyncio.AbstractEventLoop | None = None
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

    def count_traffic(self, traffic: Traffic | None) -> None:
        """Report transports and packets from now on; None ends the reports."""
        self._traffic = traffic
        self._look_at_log_level()

    def _look_at_log_level(self) -> None:
        # Asked for each connection and not for each packet: the level may change, and packets are many.
        log = self.logger  # its own level answers without a call
        has_lines = getattr(log, "level", 0) <= logging.INFO and log.isEnabledFor(logging.INFO)
        is_needed = has_lines or self._traffic is not None
        self.packet_log = PacketLog(log if has_lines else None, self._traffic) if is_needed else None

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

    generate_id = staticmethod(random_id)
    """Returns the id of a connection or session; an application may replace this method."""

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

    async def _send_response(self, response: Response, environ: Environ) -> Any:
        """Send a response. A client that does not read the response loses its TCP connection."""
        timeout = self.ping_interval + self.ping_timeout  # by then a client without a ping has given up
        send = environ.get("asgi.send")
        transport = find_transport(send) if send is not None else environ["aiohttp.request"].transport
        if transport is not None:
            self.unread.watch(transport, timeout)
        if send is not None and can_deny(environ["asgi.scope"]):
            return await deny(environ, response, self._cors_headers(environ))
        return await self._make_response(response, environ)

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

    async def _open(self, head: RequestHead, transport: str, query: Mapping[str, str]) -> Any:
        check_handshake(head, transport, query)
        self._look_at_log_level()
        self.forget_ended_loop()
        self._check_limits()
        connection = self._new_connection(head, query)
        try:
            is_accepted = await self.connection_opened(connection)
        except BaseException:  # nothing else would ever take it out of the limits
            self.forget(connection.id)
            raise
        if not is_accepted:
            self.logger.warning("Application rejected connection")
            self.forget(connection.id)
            raise unavailable()
        handshake = self._handshake(connection.id, transport)
        if transport == "websocket":
            try:
                return await self._websocket(partial(connection.open_websocket, handshake), head, handshake)
            finally:
                if not connection.upgraded:
                    connection.abort("the WebSocket handshake failed")
        connection.open_polling(handshake)
        response = plain_response(polling_body(connection.take_unsent()))
        if self.cookie:
            attributes = self.cookie if isinstance(self.cookie, dict) else None
            attributes = attributes or {"name": self.cookie, "path": "/", "SameSite": "Lax"}
            response["headers"].append(("Set-Cookie", self._generate_sid_cookie(connection.id, attributes)))
        return response

    def open_at_once(
        self, head: RequestHead, transport: asyncio.Transport, headers: Mapping[str, str], early_data: bytes
    ) -> bool:
        """Open a WebSocket on a TCP connection without waiting, for a handshake that nothing refuses.

        ``head`` is that of a GET without a body, and ``headers`` are its headers; ``early_data`` is what the
        client sent behind it. Returns False, without any effect, for every other request:
        ``handle_request`` answers it.
        """
        query = parse_query(head.query)
        is_handshake = query.get("transport") == "websocket" and query.get("EIO") == "4"
        if not is_handshake or "sid" in query or not self.allows(head) or self._is_beyond_limits(head):
            return False
        try:
            extensions = head.headers("sec-websocket-extensions")
            acceptance = accept_plainly(headers, extensions, may_compress=self.websocket_compression > 0)
        except InvalidHandshake:
            return False
        self._look_at_log_level()
        connection = self._new_connection(head, query)
        is_opened = False
        try:
            is_opened = self.opened_at_once(connection)
        finally:
            if not is_opened:
                self.forget(connection.id)
        if not is_opened:
            return False
        handshake = self._handshake(connection.id, "websocket")
        make_receiver = partial(connection.open_websocket, handshake)
        limits = self.max_http_buffer_size, self.websocket_compression
        websocket = AiohttpWebSocket(make_receiver, *limits, self.shared_rounds, handshake)
        try:
            transport.set_protocol(websocket)
            websocket.begin(transport, acceptance, early_data)
        finally:
            if not connection.upgraded:
                connection.abort("the WebSocket handshake failed")
        return True

    def _new_connection(self, head: RequestHead, query: Mapping[str, str]) -> EngineConnection:
        """Return a connection that counts from now on. Raises RequestRefused beyond an address's limit."""
        place = self._place_of(head) if self.address_limits.is_on else None
        connection = EngineConnection(self, self._id_prefix + self.generate_id(), head)
        connection.place = place
        connection.takes_offsets = self.offsets == "always" or takes_offsets(query)
        connection.wants_base64 = query.get("b64") in ("1", "true")
        if "t" in query and is_python(query):
            connection.poll_packets = PYTHON_POLL_PACKETS
        self.sockets[connection.id] = connection
        return connection

    def forget_ended_loop(self) -> None:
        """Forget the connections of an ended event loop: nothing closes them, and they would count."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop and (self._loop is None or not self._loop.is_running()):
            self._loop = loop
            for connection_id in list(self.sockets):
                self.forget(connection_id)

    def forget(self, connection_id: str) -> None:
        """Forget a connection that was not accepted, or whose event loop has ended."""
        connection = self.sockets.pop(connection_id, None)
        if connection is not None:
            connection.ask_for_namespace()
            if connection.place is not None:
                connection.place.free()

    def _handshake(self, connection_id: str, transport: str) -> Frames:
        may_upgrade = self.allow_upgrades and transport != "websocket"
        interval, timeout = self.ping_interval + self.ping_interval_grace_period, self.ping_timeout
        settings = end_of_handshake(may_upgrade, timeout, interval, self.max_http_buffer_size)
        return Frames(f'0{{"sid":{quoted(connection_id)},{settings}')

    def _websocket(
        self, make_receiver: MakeReceiver, head: RequestHead, greeting: Frames | None = None
    ) -> Awaitable[Any]:
        """Open a WebSocket, which first sends the greeting."""
        limits = self.max_http_buffer_size, self.websocket_compression
        if self._websocket_class is AsgiWebSocket:
            return AsgiWebSocket(make_receiver, *limits, greeting)(head.request)
        return AiohttpWebSocket(make_receiver, *limits, self.shared_rounds, greeting)(head.request)

    async def _read_body(self, connection: EngineConnection, environ: Environ) -> bytes:
        limit = self.max_http_buffer_size
        body = b""
        while chunk := await environ["wsgi.input"].read(limit + 1 - len(body)):
            body += chunk
            if len(body) > limit:
                connection.abort("the client sent more than max_payload")
                raise InvalidRequest
        return body

    async def _compress(self, response: Response, environ: Environ) -> None:
        if not self.http_compression or len(response["response"]) < self.compression_threshold:
            return
        for encoding in environ.get("HTTP_ACCEPT_ENCODING", "").split(","):
            method = encoding.split(";")[0].strip()
            if method in self.compression_methods:
                compress, body = getattr(self, "_" + method), response["response"]
                is_large = len(body) > COMPRESSED_AT_ONCE_BYTES
                response["response"] = await asyncio.to_thread(compress, body) if is_large else compress(body)
                response["headers"].append(("Content-Encoding", method))
                return


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
