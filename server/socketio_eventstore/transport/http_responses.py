"""How responses are sent over HTTP: compressed where the client takes it, and to clients that read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from socketio_eventstore.transport.asgi_transport import find_transport
from socketio_eventstore.transport.asgi_websocket import can_deny, deny
from socketio_eventstore.transport.responses import Response
from socketio_eventstore.transport.unread_responses import UnreadResponses
from socketio_eventstore.transport.websocket import Environ

COMPRESSED_AT_ONCE_BYTES: Final = 50_000
"""The largest response that is compressed on the event loop, in 1 to 2 ms. A response to a poll may have some
megabytes, and a thread compresses them without the GIL."""


class HttpResponses:
    """The part of ``Engine`` that sends responses."""

    ping_interval: float
    ping_timeout: float
    http_compression: bool
    compression_threshold: int
    compression_methods: Sequence[str]
    unread: UnreadResponses
    """The TCP connections whose client has not read a response."""
    _cors_headers: Callable[[Environ], list[tuple[str, str]]]
    _make_response: Callable[[Response, Environ], Any]

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
