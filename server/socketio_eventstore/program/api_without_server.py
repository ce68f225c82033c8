"""The HTTP interface of a store without a server on the machine, for the duration of a command.

The command itself takes the place of the server: without handlers, without clients, at a socket for the
command's user only. So a command runs the same code with and without a running server. The lock of a file
keeps servers out meanwhile: a starting server waits for the end of the command. On a log in PostgreSQL the
command is a further node, beside the servers elsewhere.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from socketio_eventlog.errors import StoreError, StoreInUse, StoreUnavailable
from socketio_eventlog.opening import revisions
from socketio_eventlog.sqlite import copies
from socketio_eventlog.sqlite.schema import HEAD_REVISION, revision_of
from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.adapter.async_server import AsyncServer
from socketio_eventstore.core.sessions import Session
from socketio_eventstore.program.api.app import api_application
from socketio_eventstore.program.api.routes import endpoints
from socketio_eventstore.program.config import Config
from socketio_eventstore.program.errors import DatabaseInUse, StartError
from socketio_eventstore.program.http_settings import API_PATH, UNIX

NEVER_SECONDS: Final = 1e7
"""The time between two prunings: a command is shorter."""


class _Server(AsyncServer):
    """A server without the handlers of the application."""

    async def session_expired(self, session: Session) -> None:
        """Leave the session to the real server: the server's handler must be called at the session's end."""
        raise StoreUnavailable("The handlers are not here.")


def serve_without_server(config: Config) -> tuple[str, Callable[[], None]]:
    """Serve the interface from another thread; return the address, and the function to stop.

    Raises DatabaseInUse when a server or another command has the database, StartError for an older schema.
    """
    if config.connection_state_recovery is None:
        raise StartError("without [connection_state_recovery] nothing is stored, and there is nothing to see")
    if config.store.url:
        _require_log(config)
    else:
        _require_file(config.store.path)
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    folder = tempfile.TemporaryDirectory(prefix="eventstore-")  # mode 0700
    socket = Path(folder.name) / "api"
    thread = threading.Thread(target=lambda: asyncio.run(_serve(config, socket, ready)), daemon=True)
    thread.start()
    try:
        loop, stop = ready.result()
    except BaseException:
        folder.cleanup()
        raise

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        folder.cleanup()

    return f"{UNIX}{socket}", end


def _require_file(path: Path) -> None:
    if not path.exists():
        raise StartError(f"no server runs on {path}, and there is no database yet; --url names one elsewhere")
    try:
        with copies.snapshot(path) as connection:
            revision = revision_of(connection)
    except StoreError as error:
        raise StartError(str(error)) from error
    except (OSError, sqlite3.Error) as error:
        raise StartError(f"{path} cannot be read: {error}") from error
    _require_revision(str(path), (revision, HEAD_REVISION))


def _require_log(config: Config) -> None:
    """Raise StartError for a database with an older schema.

    A newer revision is no obstacle: the format decides, when the log is opened.
    """
    try:
        found, needed = revisions(config.store.url)
    except StoreError as error:
        raise StartError(str(error)) from error
    if found is None or found < needed:
        _require_revision(config.store.name, (found, needed))


def _require_revision(name: str, revisions: tuple[str | None, str]) -> None:
    """Raise StartError for another schema than the program's."""
    found, needed = revisions
    if found is None:
        raise StartError(f"{name} has no log yet: a start of a server, or migrate, makes it")
    if found != needed:
        raise StartError(
            f"the schema of {name} is {found}, and this program needs {needed}: run migrate, "
            "which makes a backup of a file first"
        )


async def _serve(
    config: Config, socket: Path, ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
) -> None:
    try:
        await _serve_until_stopped(_server(config), socket, ready)
    except Exception as error:
        if ready.done():
            raise
        # Raised again in the waiting thread of the command.
        ready.set_exception(_start_error(error))


def _start_error(error: Exception) -> Exception:
    if isinstance(error, StoreInUse):
        return DatabaseInUse(str(error))
    return StartError(str(error)) if isinstance(error, StoreError | OSError) else error


async def _serve_until_stopped(
    server: AsyncServer, socket: Path, ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
) -> None:
    await server.manager.start(0.0)
    app = web.Application()
    app.add_subapp(API_PATH, api_application(None, endpoints(Administration(server))))
    runner = web.AppRunner(app, access_log=None)
    try:
        await runner.setup()
        await web.UnixSite(runner, str(socket)).start()
        stop = asyncio.Event()
        ready.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
    finally:
        await runner.cleanup()
        await server.shutdown()


def _server(config: Config) -> AsyncServer:
    store: dict[str, Any] = config.store.model_dump(exclude={"path", "url", "prune_interval"})
    recovery = config.connection_state_recovery
    assert recovery is not None  # asked before
    return _Server(
        config.store.url or config.store.path,
        async_mode="aiohttp",
        namespaces="*",
        max_client_buffer=config.server.max_client_buffer,
        max_attachments=config.server.max_attachments,
        prune_interval=NEVER_SECONDS,
        **store,
        **recovery.model_dump(),
    )
