"""The ids of requests that open connections, for log lines: an id of its own, or that of a trusted proxy."""

from __future__ import annotations

import itertools
import re
import secrets
from typing import Final

from socketio_eventstore.transport.access_rules import AccessRules
from socketio_eventstore.transport.request_head import RequestHead
from socketio_eventstore.transport.websocket import Environ

REQUEST_ID: Final = "eventstore.request_id"
"""The key of the id in the environ of a connection."""
_VALID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class RequestIds:
    """Gives each handshake an id that is no secret, unlike the id of its connection."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(3)
        self._numbers = itertools.count(1)

    def give(self, environ: Environ, access: AccessRules) -> None:
        """Put an id into an environ and its request: the ``X-Request-ID`` of a trusted proxy, or a new one.

        Strangers choose no text for the log.
        """
        environ[REQUEST_ID] = request_id = self._id_of(environ, access)
        if (request := environ.get("aiohttp.request")) is not None:
            request[REQUEST_ID] = request_id

    def _id_of(self, environ: Environ, access: AccessRules) -> str:
        named = environ.get("HTTP_X_REQUEST_ID")
        if named is not None and _VALID.fullmatch(named) and access.trusts(RequestHead.of_environ(environ)):
            return str(named)
        return f"{self._process}-{next(self._numbers)}"
