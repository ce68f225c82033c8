"""The web application of the inspector: files, login, and the answers for browsers with a login."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from socketio_eventstore.adapter.server import RecoveryServer
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.program.api.endpoints import Endpoint, caller, read_body
from socketio_eventstore.program.api.problems import Problem, answers_with_problems
from socketio_eventstore.program.inspector.figures import figures
from socketio_eventstore.program.inspector.links import OFF
from socketio_eventstore.program.inspector.live import Live
from socketio_eventstore.program.inspector.logins import LOGIN_SECONDS, Logins
from socketio_eventstore.program.inspector.pages import add_pages, is_page
from socketio_eventstore.transport.request_head import RequestHead

NO_STORE: Final = "no-store"
MAX_BODY_BYTES: Final = 1000

logger = logging.getLogger(__name__)


class Inspector:
    """The inspector of a server, to be mounted at ``/inspect/``."""

    def __init__(self, sio: RecoveryServer, logins: Logins, endpoints: Iterable[Endpoint]) -> None:
        """``endpoints``: the endpoints of the HTTP interface. The inspector serves the reading endpoints."""
        self._sio = sio
        self._logins = logins
        self._refusals = RepeatedFailures(logger)
        self._live = Live(partial(figures, sio), logins.is_valid, logins.cookie)
        self._open = (self._present, self._login, self._logout)
        """The handlers without a login."""
        app = self.app = web.Application(middlewares=[answers_with_problems(), self._guard()])
        app.router.add_get("/login", self._present)
        app.router.add_post("/login", self._login)
        app.router.add_post("/logout", self._logout)
        for endpoint in endpoints:
            if endpoint.method == "GET" and not isinstance(endpoint.result, str):
                app.router.add_get(f"/api{endpoint.path}", endpoint.handle)
        self._live.add_to(app)
        add_pages(app)

    async def close(self) -> None:
        """End the connections of viewers. An error is only logged: the server goes on with the stop."""
        try:
            await self._live.close()
        except Exception:
            logger.exception("The inspector could not be closed")

    def _guard(self) -> Middleware:
        @web.middleware
        async def with_login(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not self._logins:
                raise Problem(404, OFF)
            if is_page(request) or request.match_info.handler in self._open:
                return await handler(request)
            name = self._logins.name_of(self._token(request))
            if name is None:
                raise Problem(401, "Log in first.")
            caller.set(name)
            self._live.sio.eio.access = self._sio.eio.access  # a reload replaces the rules
            response = await handler(request)
            if not response.prepared:
                response.headers.setdefault("Cache-Control", NO_STORE)
            return response

        return with_login

    async def _present(self, request: web.Request) -> web.Response:
        """Tell the page whether the browser is logged in, and the name of the key."""
        name = self._logins.name_of(self._token(request))
        return web.json_response({"name": name}, headers={"Cache-Control": NO_STORE})

    async def _login(self, request: web.Request) -> web.Response:
        key, link, is_secure = await _credentials(request)
        token = self._logins.with_link(link) if link else self._with_key(request, key)
        if token is None:
            # Never the presented text: it may be the key of another server.
            text = f"A login to the inspector from {self._address(request)} had no valid key"
            self._refusals.failed("login", text, level=logging.WARNING)
            raise Problem(401, "The link was used, or is too old." if link else "This is not a valid key.")
        return self._answer(request, token, LOGIN_SECONDS, is_secure=is_secure)

    def _with_key(self, request: web.Request, key: str) -> str | None:
        """Return the token of a new login, None for a wrong key. Raises Problem after many wrong keys."""
        address, failures = self._address(request), self._logins.failures
        wait = failures.wait_seconds(address)
        if wait:
            text = "There were too many wrong keys. Wait a minute, or use socketio-eventstore inspect."
            raise Problem(429, text, headers={"Retry-After": f"{wait:.0f}"})
        token = self._logins.with_key(key)
        if token is None:
            failures.failed(address)
        return token

    async def _logout(self, request: web.Request) -> web.Response:
        await read_body(request, MAX_BODY_BYTES)  # only JSON, which a form of another site cannot send
        token = self._token(request)
        if not token:  # a page of another site: the answer must not replace the cookie
            return web.Response(status=204, headers={"Cache-Control": NO_STORE})
        self._logins.end(token)
        return self._answer(request, "", 0, is_secure=False)

    def _answer(self, request: web.Request, token: str, seconds: float, *, is_secure: bool) -> web.Response:
        """Return an answer that sets the cookie.

        Without a path in the cookie, browsers take the folder of the request: the folder includes the prefix
        of a proxy, which the server does not know.
        """
        is_https = is_secure or RequestHead.of_request(request).is_tls
        value = f"{self._logins.cookie}={token}; Max-Age={seconds:.0f}; HttpOnly; SameSite=Strict"
        headers = {"Set-Cookie": value + ("; Secure" if is_https else ""), "Cache-Control": NO_STORE}
        return web.Response(status=204, headers=headers)

    def _address(self, request: web.Request) -> str:
        """Return the client's address for the count of wrong keys, as for the limits of connections."""
        head = RequestHead.of_request(request)
        return self._sio.eio.access.client_address(head) or head.peer

    def _token(self, request: web.Request) -> str:
        """Return the token of the browser's login; "" without a login."""
        return request.cookies.get(self._logins.cookie, "")


async def _credentials(request: web.Request) -> tuple[str, str, bool]:
    """Return the key, the token of a link, and whether the browser is on https. Raises Problem.

    The browser knows about https for sure: a proxy may not name the scheme, or may not be trusted.
    """
    text = await read_body(request, MAX_BODY_BYTES)  # only JSON, which a form of another site cannot send
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise Problem(400, "The body is not JSON.") from None
    values = body if isinstance(body, dict) else {}
    key, link = values.get("key", ""), values.get("link", "")
    if not isinstance(key, str) or not isinstance(link, str):
        raise Problem(422, "key and link are texts.")
    return key, link, values.get("https") is True
