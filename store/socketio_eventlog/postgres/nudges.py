"""The hints between nodes about new batches: LISTEN and NOTIFY, on separate connections.

A hint carries no batch, and may be lost. A hint is sent after the commit, outside of the append: a NOTIFY
waits for the NOTIFYs of all other programs, and the lock of the log would be held meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import psycopg

from socketio_eventlog.errors import StoreError
from socketio_eventlog.postgres.connection import Link
from socketio_eventlog.postgres.failures import ConnectionLost

logger = logging.getLogger(__name__)

PROBE_SECONDS: Final = 5.0
"""The longest wait of a node for its own hint; then hints count as lost."""
PAUSE_SECONDS: Final = 1.0

_LISTEN: Final = "LISTEN eventstore"
_NOTIFY: Final = "SELECT pg_notify('eventstore', %s)"


class Nudges:
    """Sends hints to the other nodes, and receives theirs."""

    def __init__(self, conninfo: str, node: str, on_nudge: Callable[[], None]) -> None:
        self.are_alive = False
        """Whether hints arrive: a hint of this node to itself has arrived since the last LISTEN."""
        self._listener = Link(conninfo, None)
        self._sender = Link(conninfo, PAUSE_SECONDS)
        self._node = node
        self._listens = 0
        """The number of LISTENs of this node."""
        self._on_nudge = on_nudge
        self._due = asyncio.Event()
        self._is_reported = False

    def send(self) -> None:
        """Send a hint soon; several calls at once send a single hint."""
        self._due.set()

    async def listen(self) -> None:
        """Receive hints until cancelled."""
        while True:
            try:
                await self._listen()
            except (StoreError, psycopg.Error, OSError):
                self.are_alive = False
            await asyncio.sleep(PAUSE_SECONDS)

    async def _listen(self) -> None:
        async with self._listener.use() as connection:
            await connection.execute(_LISTEN)
            # The answer may bring older hints: PgBouncer gives the connection of another listener to LISTEN.
            self._listens += 1
            self.send()  # to itself, too
            async for notification in connection.notifies(timeout=0):  # those that came with the answer
                self._take(notification.payload)
            loop = asyncio.get_running_loop()
            # Not by connection.notifies, which takes 0.3 ms of processor time for each hint that comes alone.
            ended = loop.create_future()
            descriptor = connection.fileno()
            loop.add_reader(descriptor, self._receive, connection.pgconn, ended)
            try:
                await asyncio.wait([ended], timeout=PROBE_SECONDS)
                if not self.are_alive and not ended.done():
                    self._report()
                await ended
            finally:
                loop.remove_reader(descriptor)

    def _receive(self, connection: psycopg.pq.abc.PGconn, ended: asyncio.Future[None]) -> None:
        """Take the hints that have arrived; end the listening with the connection."""
        try:
            connection.consume_input()
            while (notification := connection.notifies()) is not None:
                # Hints are ASCII; a payload of another program is in the client encoding.
                self._take(notification.extra.decode(errors="replace"))
        except psycopg.Error:
            if not ended.done():
                ended.set_exception(ConnectionLost())

    def _take(self, hint: str) -> None:
        if hint == self._hint:
            self.are_alive, self._is_reported = True, False
        elif hint.partition(" ")[0] != self._node:
            self._on_nudge()

    @property
    def _hint(self) -> str:
        return f"{self._node} {self._listens}"

    def _report(self) -> None:
        if not self._is_reported:
            self._is_reported = True
            logger.warning(
                "No notification of PostgreSQL arrives, as behind PgBouncer. The server asks for the batches "
                "of other servers instead."
            )

    async def run(self) -> None:
        """Send hints until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            await self._notify()

    async def _notify(self) -> None:
        with suppress(StoreError):
            async with self._sender.use() as connection:
                await connection.execute(_NOTIFY, (self._hint,))

    async def send_last(self) -> None:
        """Send a hint now, for at most a second."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_SECONDS):
                await self._notify()

    def stop(self) -> None:
        """Send and receive nothing more: the tasks can then be cancelled at once."""
        self._listener.stop()
        self._sender.stop()

    async def close(self) -> None:
        """Close the connections; both tasks were cancelled."""
        await self._listener.close()
        await self._sender.close()

    def abandon(self) -> None:
        """Close the connections after the end of the event loop."""
        self._listener.abandon()
        self._sender.abandon()
