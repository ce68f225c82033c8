"""The headers of responses that protect people who open the pages in a browser."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from aiohttp import web

from socketio_eventstore.adapter.async_server import AsyncServer
from socketio_eventstore.program.errors import StartError

POLICY: Final = "base-uri 'self'; object-src 'none'; frame-ancestors 'self'"
"""For the pages of handlers. Their scripts and styles may be inline, or come from elsewhere."""
NO_PAGE: Final = "default-src 'none'; frame-ancestors 'none'"
"""For answers that are no pages: a browser that is led to one of them runs nothing."""
NAME: Final = "CONTENT_SECURITY_POLICY"
HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
SERVER: Final = "socketio-eventstore"
"""Without versions, by which strangers would look for known faults."""
PAGES: Final = ("/", "/pages/{file}")
"""The routes with the pages of handlers."""


def policy_of(module: ModuleType, name: str) -> str:
    """Return the policy of the handlers' pages: their ``CONTENT_SECURITY_POLICY``. Raises StartError."""
    policy = getattr(module, NAME, POLICY)
    if not isinstance(policy, str) or not policy.isprintable() or not policy.isascii():
        raise StartError(f"handlers = {name!r}: {NAME} must be a text in one line, not {policy!r}")
    return policy


class PageHeaders:
    """A signal that adds the headers which a response has not.

    The answers of the protocol are no pages, and many. They only lose the name of the software.
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
