"""The composition root: configuration in, a running server out.

Everything is put together here and nowhere else; the parts get what they need as arguments.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import signal
import socket
import sqlite3
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import socketio
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from socketio_eventlog.errors import StoreError
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.adapter.manager import RecoveryManager
from socketio_eventstore.adapter.server import RecoveryServer
from socketio_eventstore.program.config import Config
from socketio_eventstore.program.http_routes import add_routes
from socketio_eventstore.program.slow_requests import closes_slow_requests

try:
    import uvloop
except ImportError:  # there is none for Windows
    NEW_EVENT_LOOP: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    NEW_EVENT_LOOP = uvloop.new_event_loop  # a fifth less processor time for each delivery

logger = logging.getLogger(__name__)

GARBAGE_THRESHOLD = 25_000
"""Objects that may come and stay before the garbage collector looks for cycles among them."""
LISTEN_BACKLOG = 4096
"""Connections that may wait to be accepted, for the moment when everybody reconnects at once."""


class StartError(Exception):
    """The server cannot start; the text is one line for the person who started it."""


class HandlersError(StartError):
    """The module of handlers cannot be used."""


def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError."""
    with asyncio.Runner(loop_factory=NEW_EVENT_LOOP) as runner:
        runner.run(_serve(config))


def check(config: Config) -> None:
    """Try everything that can be tried without serving or changing anything. Raises StartError."""
    asyncio.run(_check(config))


def migrate(config: Config) -> None:
    """Bring the database to the schema of this version. Raises StartError."""

    async def open_and_close() -> None:
        log = await EventLog.open(StoreOptions(path=config.store.path, synchronous=config.store.synchronous))
        await log.close()

    try:
        asyncio.run(open_and_close())
    except StoreError as error:
        raise StartError(str(error)) from error


async def build(config: Config) -> tuple[web.Application, RecoveryServer]:
    """The web application and its Socket.IO server, with the handlers registered, not yet started.

    Raises HandlersError.
    """
    settings, recovery = config.server, config.connection_state_recovery
    recovery_arguments = {} if recovery is None else recovery.model_dump()
    manager = RecoveryManager(
        None if recovery is None else config.store.path,
        synchronous=config.store.synchronous,
        prune_interval=config.store.prune_interval,
        index_memory=config.store.index_memory,
        max_client_buffer=settings.max_client_buffer,
        websocket_compression=settings.websocket_compression,
        **recovery_arguments,
    )
    origins = settings.cors_allowed_origins
    sio = socketio.AsyncServer(
        async_mode="aiohttp",
        client_manager=manager,
        # None lets python-engineio allow the server's own origin only; [] would allow all of them.
        cors_allowed_origins=(origins if origins == "*" else list(origins)) or None,
        ping_interval=settings.ping_interval,
        ping_timeout=settings.ping_timeout,
        max_http_buffer_size=settings.max_payload,
    )
    sio.connect_timeout = settings.connect_timeout
    module = _import_handlers(config)
    await _register(module, sio, settings.handlers)
    app = web.Application(middlewares=[closes_slow_requests(settings.connect_timeout)])
    add_routes(app, settings.path, getattr(module, "PAGES", None), manager)
    sio.attach(app, settings.path)
    return app, sio


async def _serve(config: Config) -> None:
    app, sio = await build(config)
    listener = _listen(config)
    try:
        await sio.start()
    except StoreError as error:
        listener.close()
        raise StartError(str(error)) from error
    logging.getLogger("aiohttp.server").addFilter(_is_our_fault)
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=0.1,
        # It goes on while a header is incomplete; since aiohttp 3.14.5 it begins with the connection.
        keepalive_timeout=config.server.connect_timeout,
    )
    await runner.setup()
    site = web.SockSite(runner, listener, backlog=LISTEN_BACKLOG)
    stop = _stop_signal()
    await site.start()
    _relieve_the_garbage_collector()
    print(await _banner(config, sio, listener), flush=True)  # noqa: T201 - the program's output
    await stop.wait()
    await site.stop()
    try:
        await asyncio.wait_for(sio.shutdown(), config.server.shutdown_grace)
    except TimeoutError:
        logger.warning("Disconnect handlers were still running after %s s.", config.server.shutdown_grace)
    await runner.cleanup()


def _relieve_the_garbage_collector() -> None:
    """Modules and sessions of before live on and need not be looked through; the rest less often.

    By default it runs for every 700 objects that came and stayed, that is, for every few events: a tenth of
    the processor time of a server that is busy.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 25, 2)  # a connection that has ended must not wait for long


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Whether aiohttp's report is worth a line: not what is no HTTP, nor a client that left in the middle."""
    theirs = (HttpProcessingError, ConnectionError)
    return record.exc_info is None or not isinstance(record.exc_info[1], theirs)


async def _check(config: Config) -> None:
    await build(config)
    _listen(config).close()
    if config.connection_state_recovery is not None:
        _check_store(config.store.path)


def _stop_signal() -> asyncio.Event:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _listen(config: Config) -> socket.socket:
    host, port = config.server.host, config.server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return listener


async def _banner(config: Config, sio: RecoveryServer, listener: socket.socket) -> str:
    host, port = config.server.host, listener.getsockname()[1]
    lines = [f"Listening on http://{f'[{host}]' if ':' in host else host}:{port}"]
    runtime = sio.manager.runtime
    if runtime is None or not isinstance(runtime.log, EventLog):
        lines.append("Connection state recovery is disabled: nothing is stored.")
    else:
        survives = {"full": "power loss", "normal": "kill -9, not power loss"}[config.store.synchronous]
        sessions, events = await runtime.log.counts()
        lines += [
            f"Store {config.store.path} (SQLite {sqlite3.sqlite_version})",
            f"Durable: synchronous = {config.store.synchronous!r}, survives {survives}",
            f"Found {sessions} sessions and {events} events",
        ]
    return "\n".join(lines)


def _check_store(path: Path) -> None:
    try:
        if path.exists():
            with path.open("r+b") as file:
                header = file.read(16)
            if header and header != b"SQLite format 3\0":
                raise StartError(f"{path} is not a SQLite database")
            return
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise StartError(f"cannot make {path}: {folder} is not a folder")
    except OSError as error:
        raise StartError(f"cannot use the store {path}: {error.strerror}") from error


# Handlers -------------------------------------------------------------------------------------------


def _import_handlers(config: Config) -> ModuleType:
    name = config.server.handlers
    sys.path.insert(0, str(config.folder))
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise HandlersError(
                f"handlers = {name!r}: there is no such module, neither installed nor in {config.folder}"
            ) from error
        raise _failed(name, error) from error
    except Exception as error:  # whatever a module may raise while it is imported
        raise _failed(name, error) from error


async def _register(module: ModuleType, sio: RecoveryServer, name: str) -> None:
    register: Callable[[Any], Any] | None = getattr(module, "register", None)
    if not callable(register):
        raise HandlersError(f"handlers = {name!r}: {module.__file__} has no function register(sio)")
    try:
        result = register(sio)
        if inspect.isawaitable(result):
            await result
    except Exception as error:  # whatever somebody's function may raise
        raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> HandlersError:
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
        place = f"{frames[-1].filename}:{frames[-1].lineno}"
    return HandlersError(f"handlers = {name!r}: {type(error).__name__} at {place}: {error}")
