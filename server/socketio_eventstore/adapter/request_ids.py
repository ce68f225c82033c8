"""The ids of requests that open connections, for log lines: an id of its own, or that of a trusted proxy."""

from __future__ import annotations

import itertools
import re
import secrets
from typing import Any, Final

from aiohttp import web

from socketio_eventstore.transport.access_rules import AccessRules
from socketio_eventstore.transport.request_head import REQUEST_ID, RequestHead

# Before aiohttp 3.14 a key is a text; afterwards a text is warned of.
REQUEST_KEY: Final[Any] = web.RequestKey(REQUEST_ID, str) if hasattr(web, "RequestKey") else REQUEST_ID
"""The key of the id in a request of aiohttp."""
_VALID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class RequestIds:
    """Gives each handshake an id that is no secret, unlike the id of its connection."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(3)
        self._numbers = itertools.count(1)

    def give(self, head: RequestHead, access: AccessRules) -> None:
        """Give an id to a request: the ``X-Request-ID`` of a trusted proxy, or a new one.

        Strangers choose no text for the log.
        """
        head.request_id = self._id_of(head, access)
        if isinstance(head.request, web.Request):
            head.request[REQUEST_KEY] = head.request_id

    def _id_of(self, head: RequestHead, access: AccessRules) -> str:
        named = head.header("x-request-id")
        if named and _VALID.fullmatch(named) and access.trusts(head):
            return named
        return f"{self._process}-{next(self._numbers)}"
