"""The composition root: creates the parts of the server from the configuration.

Only ``app`` creates the parts of the program and connects them; each part gets its dependencies as
arguments.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.adapter.async_server import AsyncServer
from socketio_eventstore.program.api.app import api_application
from socketio_eventstore.program.api.routes import endpoints
from socketio_eventstore.program.auth.setup import authentication_of
from socketio_eventstore.program.check import (
    check_durations,
    check_store,
    raise_for,
    write_no_bytecode,
)
from socketio_eventstore.program.config import Config, engine_hosts, engine_origins
from socketio_eventstore.program.errors import StartError
from socketio_eventstore.program.handlers_module import import_handlers, pages_of, register_handlers
from socketio_eventstore.program.host_check import refuses_other_hosts
from socketio_eventstore.program.http_routes import add_routes
from socketio_eventstore.program.http_settings import API_PATH, INSPECT_PATH
from socketio_eventstore.program.inspector.app import Inspector
from socketio_eventstore.program.inspector.links import Links
from socketio_eventstore.program.inspector.logins import Logins
from socketio_eventstore.program.keys import ApiKeys
from socketio_eventstore.program.listener import check_addresses
from socketio_eventstore.program.metrics import add_metrics
from socketio_eventstore.program.page_headers import PageHeaders, policy_of
from socketio_eventstore.program.slow_requests import closes_slow_requests
from socketio_eventstore.program.tls import Tls
from socketio_eventstore.transport.addresses import ANY


@dataclass(frozen=True)
class ServerParts:
    """The parts of a server before the start."""

    app: web.Application
    """The application at the addresses of ``[server]``."""
    private_app: web.Application
    """The application at the address of ``[http]``."""
    owner_app: web.Application
    """The application at the socket beside the database."""
    sio: AsyncServer
    api_keys: ApiKeys
    inspector: Inspector
    links: Links


async def build(config: Config, *, is_stored: bool = True) -> ServerParts:
    """Return the web applications and the Socket.IO server, with registered handlers.

    Without ``is_stored`` the server has no store, and nothing is written.

    Raises StartError, HandlersError included.
    """
    settings, recovery = config.server, config.connection_state_recovery
    recovery_arguments: dict[str, Any] = {} if recovery is None else recovery.model_dump()
    without_meaning = {"path", "url"} if recovery is not None else {"path", "url", "retention"}
    store_arguments: dict[str, Any] = config.store.model_dump(exclude=without_meaning)
    sio = AsyncServer(
        (config.store.url or config.store.path) if is_stored and recovery is not None else None,
        async_mode="aiohttp",
        cors_allowed_origins=engine_origins(settings),
        cors_credentials=engine_origins(settings) != ANY,
        allowed_hosts=engine_hosts(config),
        trusted_proxies=list(settings.trusted_proxies),
        namespaces="*" if settings.namespaces == "*" else list(settings.namespaces),
        cookie=settings.cookie or None,
        node_name=settings.node_name,
        ping_interval=settings.ping_interval,
        ping_timeout=settings.ping_timeout,
        max_http_buffer_size=settings.max_payload,
        max_client_buffer=settings.max_client_buffer,
        max_attachments=settings.max_attachments,
        websocket_compression=settings.websocket_compression,
        **config.limits.model_dump(),
        **store_arguments,
        **recovery_arguments,
    )
    sio.connect_timeout = settings.connect_timeout
    sio.authentication = authentication_of(config.auth, config.folder, config.limits.rooms_per_session)
    module = import_handlers(settings.handlers, config.folder)
    await register_handlers(module, sio, settings.handlers)
    headers = PageHeaders(sio, policy_of(module, settings.handlers))
    app, private_app, owner_app = (_web_application(config, sio) for _ in range(3))
    for one in (app, private_app, owner_app):
        one.on_response_prepare.append(headers)
    keys = ApiKeys(config.http.api_keys)
    logins = Logins(keys)
    links = Links(logins)
    operations = [*endpoints(Administration(sio)), links.endpoint()]
    api, inspector = api_application(keys, operations), Inspector(sio, logins, operations)
    owner_app.add_subapp(API_PATH, api_application(None, operations))
    for path, mounted in ((API_PATH, api), (INSPECT_PATH, inspector.app)):
        if config.http.listen:
            private_app.add_subapp(path, mounted)
        elif not settings.path.startswith(path):
            app.add_subapp(path, mounted)
    pages = pages_of(module, settings.handlers, private=_private_paths(config))
    add_routes(app, settings.path, pages, sio)
    add_metrics(app, private_app, sio, keys)
    sio.attach(app, settings.path)
    return ServerParts(app, private_app, owner_app, sio, keys, inspector, links)


def _private_paths(config: Config) -> list[Path]:
    """Return what no folder of pages may contain: the config file, the database and the keys."""
    keys = [name for name in (config.server.tls_key, config.auth.key_file) if name]
    return [config.folder, config.store.path, *(config.folder / name for name in keys)]


def _web_application(config: Config, sio: AsyncServer) -> web.Application:
    slow = closes_slow_requests(config.server.connect_timeout)
    return web.Application(middlewares=[slow, refuses_other_hosts(sio)])


def check(config: Config) -> None:
    """Check the handlers, the address and the store, without serving or writing.

    Raises StartError with one line per problem.
    """
    asyncio.run(_check(config))


async def _check(config: Config) -> None:
    problems = list(check_durations(config))
    write_no_bytecode()
    try:
        await build(config, is_stored=False)  # otherwise an emit in register(sio) would open the store
    except StartError as error:
        problems.append(str(error))
    try:
        Tls.configured(config)
    except StartError as error:
        problems.append(str(error))
    problems += check_addresses(config)
    if config.connection_state_recovery is not None:
        problems += check_store(config.store)
    raise_for(problems)
