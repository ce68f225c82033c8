"""What a request says about its address, equal for aiohttp and ASGI."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from socketio_eventstore.transport.asgi_transport import find_transport
from socketio_eventstore.transport.websocket import Environ

if TYPE_CHECKING:
    from aiohttp import web

UNIX_PEER: Final = "unix"
"""The peer of a Unix socket."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The headers of a request, and its connection."""

    peer: str
    """The IP address at the other end of the connection, ``UNIX_PEER``, or "" if it is unknown."""
    is_tls: bool
    """Whether the connection to this process has TLS."""
    headers: Callable[[str], list[str]]
    """Returns all values of a header, by its name in lower case."""

    @classmethod
    def of_environ(cls, environ: Environ) -> RequestHead:
        """Return the head of a request that a driver of python-engineio has translated."""
        request = environ.get("aiohttp.request")
        if request is not None:
            return cls.of_request(request)
        return cls._of_scope(environ["asgi.scope"], environ["asgi.send"])

    @classmethod
    def of_request(cls, request: web.BaseRequest) -> RequestHead:
        """Return the head of a request of aiohttp."""
        transport = request.transport
        is_tls = transport is not None and transport.get_extra_info("sslcontext") is not None
        return cls(_peer(transport), is_tls, lambda name: request.headers.getall(name, []))

    @classmethod
    def _of_scope(cls, scope: dict[str, Any], send: Any) -> RequestHead:
        # uvicorn replaces the scope's client by the client that a proxy names.
        peer = _peer(find_transport(send))
        if not peer:
            server, client = scope.get("server") or (None, 0), scope.get("client")
            peer = UNIX_PEER if server[1] is None else (client[0] if client else "")

        def headers(name: str) -> list[str]:
            key = name.encode()
            return [value.decode("latin-1") for found, value in scope["headers"] if found.lower() == key]

        return cls(peer, scope.get("scheme") in ("https", "wss"), headers)


def _peer(transport: Any) -> str:
    connection = None if transport is None else transport.get_extra_info("socket")
    if connection is None:
        return ""
    if connection.family == getattr(socket, "AF_UNIX", None):
        return UNIX_PEER
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""
