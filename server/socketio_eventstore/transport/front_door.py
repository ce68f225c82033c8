"""The handshakes of WebSockets on a listening socket of aiohttp, without aiohttp where possible.

For each TCP connection aiohttp makes a protocol, a task, a request, a route and a response; together half of
the cost of a handshake. ``FrontDoor`` reads the first bytes of a connection. A valid, acceptable handshake of
a WebSocket is opened at once. With other bytes the connection goes to aiohttp, like a newly accepted
connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from itertools import chain, islice
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpRequestParser, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD

from socketio_eventstore.transport.engine import Engine
from socketio_eventstore.transport.request_head import RequestHead, peer_of
from socketio_eventstore.transport.websocket_handshake import IGNORES_WEBSOCKETS

READ_BYTES: Final = 2**16
"""The buffer size for a body in aiohttp's parser; a handshake has no body."""
HEAD_END: Final = b"\r\n\r\n"
CHECK_SECONDS: Final = 1.0
"""The time between two checks for silent connections."""
CLOSED_AT_ONCE: Final = 100
"""Silent connections that are closed before the event loop serves others; strangers open any number."""


class FrontDoor:
    """Makes the protocols of TCP connections; an argument for ``loop.create_server``."""

    def __init__(
        self, engine: Engine, app: web.Application, server: web.Server, timeout_seconds: float
    ) -> None:
        """``server`` is aiohttp's protocol factory of ``app``, to which ``engine`` is attached.

        A silent connection is closed after the timeout.
        """
        self._engine = engine
        self._app = app
        self._server = server
        self._timeout_seconds = timeout_seconds
        self._routes = {
            route.resource.canonical: route
            for route in app.router.routes()
            if route.handler == engine.handle_request and route.resource is not None
        }
        """The routes of ``engine``, by path."""
        self._loop = asyncio.get_running_loop()
        engine.forget_ended_loop()
        self._silent: dict[asyncio.Transport, float] = {}
        """The silent connections, with the time of the close; oldest first."""
        self._timer: asyncio.TimerHandle | None = None
        self._no_protocol: Any = None  # a request without a body needs none

    @property
    def is_needed(self) -> bool:
        """Whether the application opens WebSockets, and has no other code for their handshakes."""
        steps: Iterable[object] = chain(self._app.middlewares, self._app.on_response_prepare)
        return bool(self._routes) and all(getattr(step, IGNORES_WEBSOCKETS, False) for step in steps)

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return _FirstBytes(self)

    def close(self) -> None:
        """Close the silent connections."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._silent:
            self._silent.popitem()[0].abort()

    def opened(self, transport: asyncio.Transport) -> None:
        """Note a new connection."""
        self._silent[transport] = self._loop.time() + self._timeout_seconds
        if self._timer is None:
            self._timer = self._loop.call_later(CHECK_SECONDS, self._close_silent)

    def closed(self, transport: asyncio.Transport) -> None:
        """Note the end of a silent connection."""
        self._silent.pop(transport, None)

    def received(self, transport: asyncio.Transport, data: bytes) -> None:
        """Act on the first bytes of a connection."""
        if self._silent.pop(transport, None) is None:
            return  # closed meanwhile
        if not self._opens_websocket(transport, data):
            handler = self._server()
            transport.set_protocol(handler)
            handler.connection_made(transport)
            handler.data_received(data)

    def _opens_websocket(self, transport: asyncio.Transport, data: bytes) -> bool:
        end = data.find(HEAD_END) + len(HEAD_END)
        if end < len(HEAD_END) or not data.startswith(b"GET ") or b"transport=websocket" not in data:
            return False
        parser = HttpRequestParser(self._no_protocol, self._loop, READ_BYTES)
        try:
            messages, is_upgraded, _ = parser.feed_data(data[:end])  # a body would ask the protocol to pause
        except HttpProcessingError:
            return False
        if not is_upgraded or len(messages) != 1:
            return False
        message, body = messages[0]
        url = message.url
        if body is not EMPTY_PAYLOAD or url.absolute or url.raw_path not in self._routes:
            return False
        head = RequestHead(
            peer_of(transport),
            transport.get_extra_info("sslcontext") is not None,
            partial(message.headers.getall, default=()),
            message.method,
            url.raw_query_string,
            request=partial(self._request, message, transport),
        )
        return self._engine.open_at_once(head, transport, message.headers, data[end:])

    def _request(self, message: RawRequestMessage, transport: asyncio.Transport) -> web.Request:
        """Make the request of aiohttp, for handlers that need the request."""
        handler = self._server()
        handler.transport = transport
        nothing = cast("Any", None)
        request = web.Request(message, EMPTY_PAYLOAD, handler, nothing, nothing, self._loop)
        match_info = web.UrlMappingMatchInfo({}, self._routes[message.url.raw_path])
        match_info.add_app(self._app)
        match_info.freeze()
        request._match_info = match_info  # noqa: SLF001 -- as aiohttp does, for request.app
        return request

    def _close_silent(self) -> None:
        self._timer, now = None, self._loop.time()
        # Not one after the other: a look for the first entry passes all that were deleted before it.
        oldest = list(islice(self._silent.items(), CLOSED_AT_ONCE))
        late = [transport for transport, end in oldest if end <= now]
        for transport in late:
            del self._silent[transport]
            transport.close()
        if self._silent:
            pause = CHECK_SECONDS if len(late) < CLOSED_AT_ONCE else 0.0
            self._timer = self._loop.call_later(pause, self._close_silent)


class _FirstBytes(asyncio.Protocol):
    """A silent TCP connection."""

    __slots__ = ("_door", "_transport")

    def __init__(self, door: FrontDoor) -> None:
        self._door = door
        self._transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        """Wait for the first bytes."""
        self._transport = transport
        self._door.opened(transport)

    def data_received(self, data: bytes) -> None:
        """Let the front door decide how the connection goes on."""
        self._door.received(self._transport, data)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection."""
        self._door.closed(self._transport)
