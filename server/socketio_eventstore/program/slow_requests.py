"""The limits for incomplete request bodies, and for unread responses.

aiohttp itself closes connections with incomplete headers.

Without the limit, one client could keep open as many connections as the system has file descriptors, with a
few bytes for each.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.transport.unread_responses import UnreadResponses
from socketio_eventstore.transport.websocket_handshake import IGNORES_WEBSOCKETS

SWITCHING_PROTOCOLS = 101

logger = logging.getLogger(__name__)


def closes_slow_requests(timeout_seconds: float) -> Middleware:
    """Return a middleware that closes a connection if a body is incomplete or unread after the timeout.

    A body with a wrong encoding, and so never complete, is an invalid request. The unread rest of a
    compressed body stays unread: aiohttp would inflate the rest, and two megabytes may inflate to two
    gigabytes, which would stop the event loop for seconds.
    """
    unread, failures = UnreadResponses(), RepeatedFailures(logger)

    def watch(request: web.Request, response: web.StreamResponse) -> None:
        if response.status != SWITCHING_PROTOCOLS and request.transport is not None:
            unread.watch(request.transport, timeout_seconds, partial(_is_written, response))

    async def handle_body(request: web.Request, handler: Handler) -> web.StreamResponse:
        timer = asyncio.get_running_loop().call_later(
            timeout_seconds, _close_unless_complete, request, failures
        )
        try:
            return await handler(request)
        except web.RequestPayloadError:  # the error's text has a line for each part
            raise web.HTTPBadRequest(text="The body does not fit its encoding.\n") from None
        finally:
            timer.cancel()
            if "Content-Encoding" in request.headers and not request.content.is_eof():
                request.content.set_exception(web.RequestPayloadError("The body is not read."))

    @web.middleware
    async def with_timeout(request: web.Request, handler: Handler) -> web.StreamResponse:
        has_body = request.body_exists  # any request may have a body; a WebSocket has no time limit
        try:
            response = await (handle_body(request, handler) if has_body else handler(request))
        except web.HTTPException as error:  # aiohttp sends it as the response
            watch(request, error)
            raise
        watch(request, response)
        return response

    setattr(with_timeout, IGNORES_WEBSOCKETS, True)
    return with_timeout


def _is_written(response: web.StreamResponse) -> bool:
    # aiohttp has no public name for it; without the private one, only the first check finds unread bytes.
    return bool(getattr(response, "_eof_sent", True))


def _close_unless_complete(request: web.Request, failures: RepeatedFailures) -> None:
    if request.transport is not None and not request.content.is_eof():
        text = f"A request of {request.remote} was not complete in time"
        failures.failed("incomplete", text, level=logging.INFO)
        request.transport.abort()
