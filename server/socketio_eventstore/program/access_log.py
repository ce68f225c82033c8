"""The log of HTTP requests, which is off by default."""

from __future__ import annotations

import logging
from typing import ClassVar, Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from socketio_eventstore.adapter.request_ids import request_id_of_proxy
from socketio_eventstore.adapter.server import RecoveryServer
from socketio_eventstore.transport.request_head import RequestHead

LOGGER: Final = logging.getLogger("socketio_eventstore.access")


class AccessLogger(AbstractAccessLogger):
    """One line for each HTTP request, without the query: the connection ids in a query are secrets."""

    sio: ClassVar[RecoveryServer]
    """The server with the trusted proxies; see ``access_logger_of``."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Log an answered request; ``time`` is the duration in seconds."""
        head = RequestHead.of_request(request)
        extra = {
            "peer": head.peer,
            "method": request.method,
            "path": request.path,
            "status": response.status,
            "bytes": response.body_length,
            "seconds": round(time, 6),
            "request_id": request_id_of_proxy(head, self.sio.eio.access),
        }
        self.logger.info(
            "%s %s %s, %s bytes in %.3f s",
            request.method,
            ascii(request.path)[1:-1],
            response.status,
            response.body_length,
            time,
            extra=extra,
        )


def access_logger_of(sio: RecoveryServer) -> type[AccessLogger]:
    """Return the class for aiohttp, which makes an object for each connection."""
    return type("AccessLogger", (AccessLogger,), {"sio": sio})
