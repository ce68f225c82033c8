"""The running server: the start, the listeners, the reload, and the stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from socketio_eventlog.errors import StoreError
from socketio_eventstore.adapter.async_server import AsyncServer
from socketio_eventstore.program import access_log, garbage_collection
from socketio_eventstore.program.access_log import access_logger_of
from socketio_eventstore.program.app import ServerParts, build
from socketio_eventstore.program.banner import announce
from socketio_eventstore.program.check import check_durations
from socketio_eventstore.program.config import Config
from socketio_eventstore.program.errors import StartError
from socketio_eventstore.program.event_loop import NEW_EVENT_LOOP
from socketio_eventstore.program.listener import Listener, stop_listening
from socketio_eventstore.program.reload import reload
from socketio_eventstore.program.signals import Signals
from socketio_eventstore.program.systemd import Systemd
from socketio_eventstore.program.tls import Tls
from socketio_eventstore.transport.draining import drain
from socketio_eventstore.transport.front_door import FrontDoor

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 10.0
"""Seconds to commit what waits, and to close the store."""
LISTEN_BACKLOG = 4096
"""Connections waiting for accept(); many clients may reconnect at the same moment."""


def run(config: Config, load: Callable[[], Config]) -> int:
    """Serve until a signal; return the exit code. Raises StartError.

    ``load`` loads the configuration again, for a reload.
    """
    with asyncio.Runner(loop_factory=NEW_EVENT_LOOP) as runner:
        return runner.run(_serve(config, load))


async def _serve(config: Config, load: Callable[[], Config]) -> int:
    signals = Signals()
    server, systemd = RunningServer(config), Systemd(os.environ)
    try:
        signals.on_reload = lambda: server.reload(load)  # the server answers before the end of the start
        if await signals.run_start(server.start()):
            await server.announce()
            systemd.ready(" and ".join(server.urls))
            await signals.stop.wait()
            systemd.stopping(server.stop_seconds)
            if signals.reason == signal.SIGTERM.name:  # after Ctrl-C, a person waits for the end
                await server.drain()
    finally:
        await server.stop(signals.reason)
        systemd.stopped()
    return signals.exit_code


class RunningServer:
    """The running program: listeners, web applications and Socket.IO server."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._listeners: list[Listener] = []
        self._parts: ServerParts | None = None
        self._early_reload: Callable[[], Config] | None = None
        """How to load the configuration, if a reload was asked for before there were parts to change."""
        self._tls: Tls | None = None
        self._runners: list[web.AppRunner] = []
        self._front_doors: list[FrontDoor] = []
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Listen. Raises StartError. ``stop`` ends an incomplete start, too."""
        config = self._config
        for line in check_durations(config):
            logger.warning("%s", line)
        parts = await build(config)
        self._tls = Tls.configured(config)
        self._listeners.append(Listener.of_server(config))
        self._listeners.append(Listener.of_api(config))
        self._parts = parts
        if self._early_reload is not None:
            self.reload(self._early_reload)
        try:
            await parts.sio.start()
        except StoreError as error:
            raise StartError(str(error)) from error
        logging.getLogger("aiohttp.server").addFilter(_is_server_error)
        garbage_collection.configure()
        parts.links.address = self._listeners[bool(config.http.listen)].url_for_browsers()
        # The addresses of clients come last: once open, the commands work, and the server can be stopped.
        public, private = self._listeners
        await self._serve_owner(parts.owner_app, parts.sio)
        await self._serve(parts.private_app, parts.sio, private)
        await self._serve(parts.app, parts.sio, public)

    async def announce(self) -> None:
        """Print the banner."""
        assert self._parts is not None
        await announce(self._config, self._parts.sio, *self._listeners[:2])

    async def _serve_owner(self, app: web.Application, sio: AsyncServer) -> None:
        """Serve the commands of the database's owner, if possible."""
        if self._config.connection_state_recovery is None:
            return
        try:
            listener = Listener.of_owner(self._config)
        except StartError as error:  # such as an overlong path of a socket
            logger.warning("The commands need --url: %s", error)
            return
        self._listeners.append(listener)
        await self._serve(app, sio, listener)

    async def _serve(self, app: web.Application, sio: AsyncServer, listener: Listener) -> None:
        if not listener.sockets:
            return
        runner = web.AppRunner(
            app,
            access_log_class=access_logger_of(sio),
            access_log=access_log.LOGGER if self._config.log.access else None,
            shutdown_timeout=0.1,
            tcp_keepalive=False,  # set on the listening sockets
            # Also the limit for an incomplete header; from aiohttp 3.14.5 on, the time starts with the
            # connection.
            keepalive_timeout=self._config.server.connect_timeout,
        )
        self._runners.append(runner)
        await runner.setup()
        assert runner.server is not None  # made by setup
        accept: Callable[[], asyncio.Protocol] = runner.server
        door = FrontDoor(sio.eio, app, runner.server, self._config.server.connect_timeout)
        if door.is_needed and not self._config.log.access:
            self._front_doors.append(door)
            accept = door
        for url, listening in zip(listener.urls(), listener.sockets, strict=True):
            is_file = listening.family == getattr(socket, "AF_UNIX", None)
            context = None if self._tls is None or is_file else self._tls.context
            try:  # two sockets may have one address until one of them listens; uvloop does not raise then
                listening.listen(LISTEN_BACKLOG)
            except OSError as error:
                raise StartError(f"cannot listen on {url}: {error.strerror or error}") from error
            serving = await asyncio.get_running_loop().create_server(
                accept, sock=listening, backlog=LISTEN_BACKLOG, ssl=context
            )
            self._servers.append(serving)

    def reload(self, load: Callable[[], Config]) -> None:
        """Load the configuration again and apply the reloadable values.

        While the handlers register, this waits for the end of the registration.
        """
        if self._parts is None:
            self._early_reload = load
        else:
            self._config = reload(self._parts.sio, self._parts.api_keys, self._config, load)
            if self._tls is not None:
                self._tls.reload()

    @property
    def urls(self) -> list[str]:
        """The addresses on which the server listens."""
        return [url for listener in self._listeners[:2] for url in listener.urls()]

    @property
    def stop_seconds(self) -> float:
        """How long a stop takes at most."""
        return self._config.server.drain + self._config.server.shutdown_grace + CLOSE_SECONDS

    async def drain(self) -> None:
        """Close the connections over the configured time; new connections are refused meanwhile."""
        seconds = self._config.server.drain
        if self._parts is not None and seconds > 0:
            engine = self._parts.sio.eio
            connections = len(engine.sockets)
            extra = {"connections": connections, "seconds": seconds}
            logger.info("draining %s connections over %s s", connections, seconds, extra=extra)
            await drain(engine, seconds)

    async def stop(self, reason: str = "") -> None:
        """Stop listening, close all transports and the store; ``reason`` is the name of a signal."""
        if self._parts is not None:
            self._parts.sio.eio.is_draining = True  # a probe over an open connection gets the answer 503
        if self._servers:
            logger.info("stopping: %s", reason or "an error", extra={"reason": reason})
        await stop_listening(self._servers)
        for door in self._front_doors:
            door.close()
        for listener in self._listeners:
            listener.close()
        if self._parts is not None:
            sio = self._parts.sio
            sio.manager.reopens = False  # not even for a handshake on an open connection
            await self._parts.inspector.close()
            grace = self._config.server.shutdown_grace
            try:
                await asyncio.wait_for(sio.shutdown(), grace)
            except TimeoutError:
                logger.warning("Disconnect handlers were still running after %s s.", grace)
        for runner in self._runners:
            await runner.cleanup()
        if self._servers:
            logger.info("stopped")


def _is_server_error(record: logging.LogRecord) -> bool:
    """Whether a log record of aiohttp is an error of the server.

    Invalid HTTP, a body with a wrong encoding, and a client's disconnection during a request are errors of
    the client, and not logged. aiohttp also reads bodies that no handler has read.
    """
    client_errors = (HttpProcessingError, web.RequestPayloadError, ConnectionError)
    return record.exc_info is None or not isinstance(record.exc_info[1], client_errors)
