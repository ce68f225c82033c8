"""The headers of responses that protect users of the pages in a browser."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from aiohttp import web

from socketio_eventstore.adapter.async_server import AsyncServer
from socketio_eventstore.program.errors import StartError

POLICY: Final = "base-uri 'self'; object-src 'none'; frame-ancestors 'self'"
"""For the pages of handlers. Scripts and styles may be inline, or come from elsewhere."""
NO_PAGE: Final = "default-src 'none'; frame-ancestors 'none'"
"""For answers other than pages: a browser that opens such an answer runs nothing."""
NAME: Final = "CONTENT_SECURITY_POLICY"
HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
SERVER: Final = "socketio-eventstore"
"""Without versions, by which strangers would look for known faults."""
PAGES: Final = ("/", "/pages/{file}")
"""The routes with the pages of handlers."""


def policy_of(module: ModuleType, name: str) -> str:
    """Return the policy of the handlers' pages: the module's ``CONTENT_SECURITY_POLICY``, or POLICY."""
    policy = getattr(module, NAME, POLICY)
    if not isinstance(policy, str) or not policy.isprintable() or not policy.isascii():
        raise StartError(f"handlers = {name!r}: {NAME} must be a text in one line, not {policy!r}")
    return policy


class PageHeaders:
    """A signal that adds the absent headers to a response.

    The many answers of the protocol are no pages: only the name of the software is removed.
    """

    ignores_websockets = True

    def __init__(self, sio: AsyncServer, policy: str) -> None:
        self._sio = sio
        self._policy = policy

    async def __call__(self, request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers["Server"] = SERVER
        if request.match_info.handler == self._sio.eio.handle_request:
            return
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        resource = request.match_info.route.resource
        is_page = resource is not None and resource.canonical in PAGES
        headers.setdefault("Content-Security-Policy", self._policy if is_page else NO_PAGE)
