"""The check of the header ``Host`` for all requests: pages, probes and the protocol."""

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
    """Return a middleware that refuses requests to other hosts than the allowed hosts.

    The HTTP interface answers with a problem document, as to each request. The Engine.IO server checks the
    requests of the protocol.
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
