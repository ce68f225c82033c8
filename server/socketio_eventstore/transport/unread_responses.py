"""The limit for clients that do not read the response to an HTTP request."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from socketio_eventstore.core.repeated_failures import RepeatedFailures

logger = logging.getLogger(__name__)

CHECKS: Final = 8
"""Checks of a transport within the timeout. An empty transport at any check has no unread bytes."""


class UnreadResponses:
    """Drops TCP connections with an unread response after a timeout.

    aiohttp and uvicorn wait for ever, and keep the response in memory, with the connection and the task.
    """

    def __init__(self) -> None:
        self._watched: set[asyncio.Transport] = set()
        self._failures = RepeatedFailures(logger)

    def watch(self, transport: asyncio.Transport, timeout_seconds: float) -> None:
        """Watch a TCP connection from the sending of a response on."""
        if transport not in self._watched:
            self._watched.add(transport)
            self._check_later(transport, timeout_seconds / CHECKS, CHECKS)

    def _check_later(self, transport: asyncio.Transport, seconds: float, checks: int) -> None:
        asyncio.get_running_loop().call_later(seconds, self._check, transport, seconds, checks - 1)

    def _check(self, transport: asyncio.Transport, seconds: float, checks: int) -> None:
        if _unread_bytes(transport) == 0:
            self._watched.discard(transport)
        elif checks > 0:
            self._check_later(transport, seconds, checks)
        else:
            self._watched.discard(transport)
            text = f"A client did not read a response within {seconds * CHECKS:g} s"
            self._failures.failed("unread", text, level=logging.INFO)
            transport.abort()


def _unread_bytes(transport: asyncio.Transport) -> int:
    try:
        return transport.get_write_buffer_size()
    except AttributeError:  # asyncio's TLS transport after a second close(); the end of TLS has a timeout
        return 0
