"""The ids of requests that open connections, for log lines: a new id, or the id from a trusted proxy."""

from __future__ import annotations

import itertools
import re
import secrets
from typing import Final

from socketio_eventstore.transport.access_rules import AccessRules
from socketio_eventstore.transport.request_head import RequestHead

_VALID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class RequestIds:
    """Gives each handshake an id that is no secret, unlike the connection id."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(3)
        self._numbers = itertools.count(1)

    def of(self, head: RequestHead, access: AccessRules) -> str:
        """Return the ``X-Request-ID`` of a trusted proxy, or a new id."""
        named = request_id_of_proxy(head, access) if head.headers("x-request-id") else None
        return named or f"{self._process}-{next(self._numbers)}"


def request_id_of_proxy(head: RequestHead, access: AccessRules) -> str | None:
    """Return the ``X-Request-ID`` of a trusted proxy, or None; strangers choose no text for the log."""
    named = head.headers("x-request-id")
    if len(named) != 1 or _VALID.fullmatch(named[0]) is None or not access.trusts(head):
        return None
    return named[0]
