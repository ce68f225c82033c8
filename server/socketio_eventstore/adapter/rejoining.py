"""The end of a node's life in a running process, which joins the log anew, as another node.

First all transports are closed, without a packet that would prevent the clients' return. Then the store
accepts no more changes of the old life: an unanswered batch may be in the log, and is never appended again.
The handlers of the old life end with the errors of the old store, before the new life begins.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from socketio_eventlog.errors import (
    BatchNotTaken,
    DatabaseTooNew,
    NodeOutdated,
    StoreClosed,
    StoreError,
)
from socketio_eventstore.core.lost_changes import LostSessions
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.core.runtime import Runtime

if TYPE_CHECKING:
    from socketio_eventstore.adapter.clients import Clients
    from socketio_eventstore.transport.engine import Engine

logger = logging.getLogger(__name__)

HANDLERS_SECONDS: Final = 5.0
"""The time for the handlers of the old life to end; then the handlers are cancelled."""
PAUSE_SECONDS: Final = 1.0
"""The time between two tries to join."""
CLOSED_AT_ONCE: Final = 100
"""Transports to close before the event loop serves others."""


class Store(Protocol):
    """The manager's calls that open and close the store."""

    runtime: Runtime | None

    async def start(self) -> Runtime:
        """Open the store. Raises StoreError."""
        ...

    async def end_life(self) -> None:
        """Close the store without appending the waiting operations."""
        ...


class Rejoining:
    """Ends the life of this node, and begins another life."""

    def __init__(self, store: Store, clients: Clients, engine: Engine) -> None:
        self._store = store
        self._clients = clients
        self._engine = engine
        self._task: asyncio.Task[None] | None = None
        self._ending: Runtime | None = None
        """The life whose store is still open, although it is over."""
        self._next_reason: str | None = None
        """Why the new life is over already, before its clients could come."""
        self._failures = RepeatedFailures(logger)
        self._is_stopped = False
        self.failure: StoreError | None = None
        """Why the last try to join failed."""
        self._has_been_refused = False
        """Whether the log has demanded a newer program since the last life ended."""
        self._fatal: StoreError | None = None
        """The error that has ended the last life, if there was one."""
        self._lost_sessions = LostSessions()
        self.count = 0
        """The number of further lives in this process."""

    @property
    def is_running(self) -> bool:
        """Whether the old life is over and the new life has not begun."""
        return self._task is not None and not self._task.done()

    def begin(self, reason: str) -> None:
        """End the present life; called by the core, which calls once for each life."""
        runtime = self._store.runtime
        if runtime is None or self._is_stopped:
            return
        if not self.is_running:
            self._ending = runtime
            self._task = asyncio.create_task(self._rejoin(runtime, reason))
            self._task.add_done_callback(self._ended)
        elif runtime is not self._ending:
            self._next_reason = reason

    def _ended(self, _: asyncio.Task[None]) -> None:
        """End the new life, too, if it is over already."""
        reason, self._next_reason = self._next_reason, None
        if reason is not None:
            self.begin(reason)

    def allow(self) -> None:
        """Called at the start of the server."""
        self._is_stopped = False

    async def stop(self) -> None:
        """Begin no other life, since the server ends."""
        self._is_stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _rejoin(self, runtime: Runtime, reason: str) -> None:
        node = runtime.log.node
        logger.warning("This node (%s) has to join anew, and its clients reconnect: %s", node, reason)
        while True:
            if await self._has_rejoined(runtime, reason):
                break
            await asyncio.sleep(PAUSE_SECONDS)
        self.count += 1

    async def _has_rejoined(self, runtime: Runtime, reason: str) -> bool:
        """End the old life, unless it has ended, and try to begin a new one."""
        try:
            if self._ending is not None:
                await self._end(runtime, reason)
            return await self._has_joined()
        except Exception as error:  # noqa: BLE001 -- a fault of the server; without another try it would be deaf
            return self._failed(error)

    async def _end(self, runtime: Runtime, reason: str) -> None:
        """End the old life; may be called again after a fault."""
        await self._close_transports(reason)
        runtime.give_up()
        await self._close_transports(reason)  # handshakes that began before, and ended meanwhile
        await self._clients.finish(HANDLERS_SECONDS)
        self._clients.stop()
        await self._store.end_life()
        self._ending = None
        self._fatal = fatal = runtime.queue.store_health.fatal
        if isinstance(fatal, BatchNotTaken):  # the next such batch may be there already
            self.failure = fatal
            await asyncio.sleep(PAUSE_SECONDS)

    async def _stay_out(self, error: NodeOutdated) -> None:
        """Leave the log until the server is stopped: this program has met a change that it does not know.

        The newer version has not said in the log that it demands newer programs, as the join shows. This one
        would meet the next such change.
        """
        await self._store.end_life()
        self.failure = error
        logger.error("This server stays out of the log until a newer version replaces it. %s", error)
        await asyncio.get_running_loop().create_future()

    async def _close_transports(self, reason: str) -> None:
        for number, connection in enumerate(list(self._engine.sockets.values())):
            try:
                connection.abort(reason)
            except Exception as error:  # noqa: BLE001 -- a fault of the server; the others must not stay open
                self._failures.failed("abort", f"{connection.id} could not be closed", error=error)
            if number % CLOSED_AT_ONCE == CLOSED_AT_ONCE - 1:
                await asyncio.sleep(0)

    async def _has_joined(self) -> bool:
        """Try to begin a new life. Raises the error of a life that cannot be ended."""
        self._next_reason = None
        try:
            runtime = await self._store.start()
        except StoreClosed:  # the server ends
            return True
        except Exception as error:  # noqa: BLE001 -- as in ``_has_rejoined``
            self._has_been_refused |= isinstance(error, DatabaseTooNew)
            return self._failed(error)
        if isinstance(self._fatal, NodeOutdated) and not self._has_been_refused:
            await self._stay_out(self._fatal)
        self._has_been_refused = False
        try:
            await self._lost_sessions.follow_on(runtime)
            self._clients.start(runtime)
        except Exception as error:  # noqa: BLE001 -- the new life is over already, or as above
            self._fatal = runtime.queue.store_health.fatal
            self._clients.stop()
            await self._store.end_life()
            return self._failed(error)
        self._failures.succeeded("join")
        self.failure = None
        logger.info("joined anew as node %s", runtime.log.node)
        return True

    def _failed(self, error: Exception) -> bool:
        """Take note that this node could not join; return False."""
        if isinstance(error, StoreError):
            self.failure = error
            self._failures.failed("join", f"This node could not join. {error}", ends_when_quiet=False)
        else:
            text = f"This node could not join: {error!r}"
            self._failures.failed("join", text, error=error, ends_when_quiet=False)
        return False
