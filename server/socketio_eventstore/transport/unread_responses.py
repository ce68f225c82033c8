"""The limit for clients that do not read the response to an HTTP request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
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
        self._watched: dict[asyncio.Transport, Callable[[], bool]] = {}
        """Whether the newest response of a transport is written."""
        self._failures = RepeatedFailures(logger)

    def watch(
        self,
        transport: asyncio.Transport,
        timeout_seconds: float,
        is_written: Callable[[], bool] = lambda: True,
    ) -> None:
        """Watch a TCP connection from the sending of a response on.

        ``is_written``: whether the transport has got all of the response. Without it, a response that a
        client does not read would not be watched any more if it begins after the first check.
        """
        is_new = transport not in self._watched
        self._watched[transport] = is_written
        if is_new:
            self._check_later(transport, timeout_seconds / CHECKS, CHECKS)

    def _check_later(self, transport: asyncio.Transport, seconds: float, checks: int) -> None:
        asyncio.get_running_loop().call_later(seconds, self._check, transport, seconds, checks - 1)

    def _check(self, transport: asyncio.Transport, seconds: float, checks: int) -> None:
        if _unread_bytes(transport) == 0:
            if self._watched[transport]() or transport.is_closing():
                del self._watched[transport]
            else:
                self._check_later(transport, seconds, CHECKS)
        elif checks > 0:
            self._check_later(transport, seconds, checks)
        else:
            del self._watched[transport]
            text = f"A client did not read a response within {seconds * CHECKS:g} s"
            self._failures.failed("unread", text, level=logging.INFO)
            transport.abort()


def _unread_bytes(transport: asyncio.Transport) -> int:
    try:
        return transport.get_write_buffer_size()
    except AttributeError:  # asyncio's TLS transport after a second close(); the end of TLS has a timeout
        return 0
