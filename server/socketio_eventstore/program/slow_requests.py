"""Requests whose body does not come to its end; aiohttp itself closes those without the end of a header.

Anybody could leave as many open as the system has file descriptors, each with a few bytes.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

logger = logging.getLogger(__name__)


def closes_slow_requests(timeout_seconds: float) -> Middleware:
    """A middleware that closes the connection when a body is not complete in time."""

    @web.middleware
    async def with_timeout(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.body_exists:  # a WebSocket among them, which may take as long as it likes
            return await handler(request)
        timer = asyncio.get_running_loop().call_later(timeout_seconds, _close_unless_complete, request)
        try:
            return await handler(request)
        finally:
            timer.cancel()

    return with_timeout


def _close_unless_complete(request: web.Request) -> None:
    if request.transport is not None and not request.content.is_eof():
        logger.info("A request of %s was not complete in time", request.remote)
        request.transport.abort()
