"""The store of a client manager: opened for the first call, closed by the shutdown, on one loop at a time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from socketio import AsyncManager

from socketio_eventlog.changed_sessions import ChangedSessions
from socketio_eventlog.errors import StoreClosed, StoreUnavailable
from socketio_eventlog.opening import is_url
from socketio_eventstore.adapter import encoder
from socketio_eventstore.adapter.acknowledgements import AcknowledgementIds
from socketio_eventstore.adapter.recovery_arguments import RecoveryArguments
from socketio_eventstore.adapter.server import RecoveryServer
from socketio_eventstore.core.options import Options
from socketio_eventstore.core.runtime import Runtime


class ManagerStore(AsyncManager):  # type: ignore[misc]  # python-socketio is not typed
    """The store of ``RecoveryManager``, and the set-up of the server."""

    server: RecoveryServer

    def __init__(self, path: str | Path | None, **arguments: Unpack[RecoveryArguments]) -> None:
        super().__init__()
        if isinstance(path, str) and is_url(path):
            self.options = Options(path=None, url=path, **arguments)
        else:
            self.options = Options(path=None if path is None else Path(path), **arguments)
        self._max_event_bytes = self.options.max_event_bytes
        self.runtime: Runtime | None = None
        self._starting: asyncio.Future[Runtime] | None = None
        self._is_closed = False
        self._closing: asyncio.Future[None] | None = None
        self._is_between_lives = False
        self._former: ChangedSessions | None = None
        """What the former life as a node knew, until the next one has begun."""
        self.reopens = True
        """Whether ``start`` opens the store again after ``close``; an ending program sets False."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self.acknowledgements = AcknowledgementIds(self.callbacks)
        self.refused_rooms = 0
        """The number of rooms refused because of ``rooms_per_session``."""

    def set_server(self, server: Any) -> None:
        """Set up the server of the manager; called by the constructor of the server.

        Raises TypeError for a server without event loop, RuntimeError for a second server, for an
        ``async_mode`` without recovery, and for a python-socketio without the required methods.
        """
        RecoveryServer.check(server)
        if self.server is not None:
            raise RuntimeError(
                "this RecoveryManager belongs to another server; each server needs one of its own"
            )
        super().set_server(server)
        heartbeat = server.eio.ping_interval + server.eio.ping_timeout
        self.options = replace(self.options, heartbeat=heartbeat)
        RecoveryServer.adopt(server, self)

    def check_loop(self) -> None:
        """Move to the running event loop if the server's loop has ended.

        Raises RuntimeError while the server's loop is running in another thread: no result would arrive.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and self._loop.is_running():
            raise RuntimeError(
                "this call runs on another event loop than the server; from another thread, call "
                "asyncio.run_coroutine_threadsafe(sio.emit(…), loop) with the loop of the server"
            )
        self._loop = loop
        self._is_closed, self._starting, self._closing = False, None, None
        self._is_between_lives, self._former = False, None
        runtime, self.runtime = self.runtime, None
        if runtime is not None:  # the loop ended before the shutdown of the server, as in test suites
            runtime.log.abandon()
        self.callbacks.clear()
        self.server.forget_clients()

    async def start(self, lock_timeout_seconds: float | None = None) -> Runtime:
        """Open a closed store, also after ``close``.

        While another server has the database, the call waits for the other server's end: for 10 seconds, or
        for ``lock_timeout_seconds``. Raises StoreNotUsable, RuntimeError on another event loop, StoreClosed
        unless ``reopens``.
        """
        self.check_loop()
        if self.reopens:
            self._is_closed = False
        return await self._open_once(lock_timeout_seconds)

    async def opened(self, lock_timeout_seconds: float | None = 0.0) -> Runtime:
        """Open the store for the first call on the event loop; a call after ``close`` is too late.

        By default the call does not wait for the end of another server: in an application with several
        workers, every request to all but one worker would wait. Raises StoreClosed after ``close``,
        StoreUnavailable until the ``start`` after ``end_life``, and as ``start``.
        """
        self.check_loop()
        if self._is_between_lives:
            raise StoreUnavailable("This server is joining the log anew.")
        return await self._open_once(lock_timeout_seconds)

    async def _open_once(self, lock_timeout_seconds: float | None) -> Runtime:
        if self.runtime is None:
            if self._is_closed:
                raise StoreClosed
            if self._starting is None:
                self._starting = asyncio.ensure_future(self._open(lock_timeout_seconds))
            starting = self._starting
            try:
                self.runtime = await asyncio.shield(starting)
                self._is_between_lives, self._former = False, None
            finally:
                if starting.done() and self._starting is starting:
                    self._starting = None
        return self.runtime

    async def _open(self, lock_timeout_seconds: float | None) -> Runtime:
        if self._closing is not None:
            await asyncio.wait([self._closing])
        encoding = encoder.encoder_for(self.server.packet_class, self.options.max_attachments)
        return await Runtime.start(
            self.options,
            encoding,
            self.server.listener,
            lock_timeout_seconds=lock_timeout_seconds,
            former=self._former,
        )

    async def close(self) -> None:
        """Commit everything and close the store, until the next ``start``."""
        self._is_closed = True
        runtime, self.runtime = self.runtime, None
        if runtime is not None:
            self._closing = asyncio.ensure_future(runtime.close())
            await asyncio.shield(self._closing)

    async def end_life(self) -> None:
        """Close the store without appending the waiting operations; ``start`` then begins another node."""
        runtime, self.runtime = self.runtime, None
        self._is_between_lives = True
        if runtime is not None:
            self._former = runtime.log.changed_sessions
            self._closing = asyncio.ensure_future(runtime.end())
            await asyncio.shield(self._closing)

    @property
    def _running(self) -> Runtime:
        if self.runtime is None:
            raise RuntimeError("the event store is not open; await start() first")
        return self.runtime
