"""The limit of a use of a connection: a hanging server keeps the connection open, and never answers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import psycopg

from socketio_eventlog.postgres.failures import ConnectionLost

CANCEL_SECONDS: Final = 2.0
"""How long the server may take for a request to cancel a statement."""


def cut(connection: psycopg.AsyncConnection[Any]) -> None:
    """End a connection during its use, which then fails at once."""
    if not connection.closed:
        with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)


class _TimeLimit:
    """Ends a connection after a time in seconds, unless closed before."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], seconds: float) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(seconds, self._begin)
        self._ending: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        return self._ending is not None

    def _begin(self) -> None:
        self._ending = self._loop.create_task(self._end())

    async def _end(self) -> None:
        # A process of the server that waits for a lock or a standby does not notice the end of the
        # connection: each further try would leave another process behind.
        if psycopg.capabilities.has_cancel_safe():
            with suppress(psycopg.Error, OSError):
                await self._connection.cancel_safe(timeout=CANCEL_SECONDS)
        cut(self._connection)

    async def close(self) -> None:
        self._timer.cancel()
        if self._ending is not None:
            await self._ending  # no late request may cancel another statement


@asynccontextmanager
async def limited(connection: psycopg.AsyncConnection[Any], seconds: float | None) -> AsyncIterator[None]:
    """End the connection when the block takes longer, and raise ConnectionLost. None: no limit."""
    if seconds is None:
        yield
        return
    limit, cause = _TimeLimit(connection, seconds), None
    try:
        try:
            yield
        finally:
            await limit.close()
    except Exception as error:
        if not limit.is_over:
            raise
        cause = error
    if limit.is_over:
        raise ConnectionLost(f"PostgreSQL has not answered for {seconds:g} s.") from cause
