"""The web application of the HTTP interface: the check of keys, and the operations."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.program.api.endpoints import Endpoint, caller
from socketio_eventstore.program.api.openapi import document
from socketio_eventstore.program.api.pages import add_pages, is_page
from socketio_eventstore.program.api.problems import Problem, answers_with_problems
from socketio_eventstore.program.keys import ApiKeys

NO_STORE = "no-store"
OWNER = "(owner)"
"""Stands for the name of a key; no key has such a name."""

logger = logging.getLogger(__name__)


def api_application(keys: ApiKeys | None, endpoints: Iterable[Endpoint]) -> web.Application:
    """Return the application, to be mounted at ``/api/``.

    With None no key is needed: only the owner of the database can reach the address.

    Without a valid key a request is answered with 401, without any key in the configuration with 404.
    """
    api = web.Application(
        middlewares=[answers_with_problems(), _for_owner if keys is None else _needs_key(keys)]
    )
    described = list(endpoints)
    for endpoint in described:
        api.router.add_route(endpoint.method, endpoint.path, endpoint.handle)
    openapi = json.dumps(document(described))

    async def description(_: web.Request) -> web.Response:
        return web.Response(text=openapi, content_type="application/json")

    api.router.add_get("/openapi.json", description)
    add_pages(api)
    return api


@web.middleware
async def _for_owner(request: web.Request, handler: Handler) -> web.StreamResponse:
    caller.set(OWNER)
    return await handler(request)


def _needs_key(keys: ApiKeys) -> Middleware:
    refusals = RepeatedFailures(logger)

    @web.middleware
    async def with_key(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not keys:
            raise Problem(404, "The HTTP interface is off: [http] api_keys has no key.")
        if is_page(request):
            return await handler(request)
        name = keys.caller(request.headers.get("Authorization", ""))
        if name is None:
            # Never the presented text: it may be the key of another server.
            text = f"A request to the HTTP interface from {request.remote} had no valid key"
            refusals.failed("key", text, level=logging.WARNING)
            raise Problem(401, "A valid key is needed: Authorization: Bearer KEY.", headers=_CHALLENGE)
        caller.set(name)
        response = await handler(request)
        if not response.prepared:
            response.headers.setdefault("Cache-Control", NO_STORE)
        return response

    return with_key


_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="socketio-eventstore"'}
