"""The head of a request, equal for aiohttp and ASGI.

A handshake needs few of the values that the drivers of python-engineio put into an environ. So the environ is
made only for handlers that need an environ, and for requests that python-engineio answers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from engineio.async_drivers.aiohttp import translate_request

from socketio_eventstore.transport.asgi_transport import find_transport
from socketio_eventstore.transport.websocket import Environ

if TYPE_CHECKING:
    from aiohttp import web

REQUEST_ID: Final = "eventstore.request_id"
"""The key of the request's id in an environ."""
UNIX_PEER: Final = "unix"
"""The peer of a Unix socket."""


@dataclass(slots=True)
class RequestHead:
    """The method, the query, the headers and the connection of a request."""

    peer: str
    """The IP address at the other end of the connection, ``UNIX_PEER``, or "" if unknown."""
    is_tls: bool
    """Whether the connection to this process has TLS."""
    headers: Callable[[str], Sequence[str]]
    """Returns all values of a header, by the name in lower case."""
    method: str = "GET"
    query: str = ""
    """The query string, without decoding."""
    request_id: str = ""
    """An id for log lines, which is no secret."""
    request: Any = None
    """The framework's request: aiohttp's request, or the environ of an ASGI request; or a function that makes
    the request."""
    environ: Environ | None = None
    """See ``make_environ``; None before the first call."""

    @classmethod
    def of_environ(cls, environ: Environ) -> RequestHead:
        """Return the head of a request translated by a driver of python-engineio."""
        request = environ.get("aiohttp.request")
        return cls.of_scope(environ) if request is None else cls.of_request(request)

    @classmethod
    def of_request(cls, request: web.BaseRequest) -> RequestHead:
        """Return the head of a request of aiohttp."""
        transport = request.transport
        is_tls = transport is not None and transport.get_extra_info("sslcontext") is not None
        return cls(
            peer_of(transport),
            is_tls,
            partial(request.headers.getall, default=()),
            request.method,
            request.rel_url.raw_query_string,
            request=request,
        )

    @classmethod
    def of_scope(cls, environ: Environ) -> RequestHead:
        """Return the head of an ASGI request, from the environ."""
        scope = environ["asgi.scope"]
        # uvicorn replaces the scope's client by the client that a proxy names.
        peer = peer_of(find_transport(environ["asgi.send"]))
        if not peer:
            server, client = scope.get("server") or (None, 0), scope.get("client")
            peer = UNIX_PEER if server[1] is None else (client[0] if client else "")

        def headers(name: str) -> list[str]:
            key = name.encode()
            return [value.decode("latin-1") for found, value in scope["headers"] if found.lower() == key]

        is_tls = scope.get("scheme") in ("https", "wss")
        return cls(peer, is_tls, headers, environ["REQUEST_METHOD"], environ["QUERY_STRING"], request=environ)

    def header(self, name: str) -> str:
        """Return the values of a header, joined with commas as in an environ; "" for none."""
        return ",".join(self.headers(name))

    def make_environ(self) -> Environ:
        """Return the request in the form of python-engineio's drivers; the same each time."""
        if self.environ is None:
            request = self.request() if callable(self.request) else self.request
            self.environ = request if isinstance(request, dict) else translate_request(request)
            self.environ[REQUEST_ID] = self.request_id
        return self.environ


def peer_of(transport: Any) -> str:
    """Return the peer of a connection, as ``RequestHead.peer``."""
    peer = None if transport is None else transport.get_extra_info("peername")
    if peer and isinstance(peer, tuple):  # most connections; the family of a socket takes five times as long
        return str(peer[0])
    connection = None if transport is None else transport.get_extra_info("socket")
    is_unix = connection is not None and connection.family == getattr(socket, "AF_UNIX", None)
    return UNIX_PEER if is_unix else ""
