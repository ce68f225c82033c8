"""The check of ``Host`` for everything that the program serves: pages, probes and the protocol."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from socketio_eventstore.adapter.async_server import AsyncServer
from socketio_eventstore.program.api.problems import Problem
from socketio_eventstore.program.http_settings import API_PATH
from socketio_eventstore.transport.access_rules import AccessRefused
from socketio_eventstore.transport.request_head import RequestHead
from socketio_eventstore.transport.websocket_handshake import IGNORES_WEBSOCKETS


def refuses_other_hosts(sio: AsyncServer) -> Middleware:
    """Return a middleware that refuses requests to hosts that are not allowed.

    The HTTP interface answers with a problem document, as to each request. The Engine.IO server checks its
    own requests.
    """

    @web.middleware
    async def with_check(request: web.Request, handler: Handler) -> web.StreamResponse:
        engine = sio.eio
        try:
            if request.match_info.handler != engine.handle_request:
                engine.check_host(RequestHead.of_request(request))
        except AccessRefused as refusal:
            status = int(refusal.status.split()[0])
            if request.path.startswith(API_PATH):
                return Problem(status, str(refusal)).response()
            return web.Response(text=f"{refusal}\n", status=status)
        return await handler(request)

    setattr(with_check, IGNORES_WEBSOCKETS, True)
    return with_check
