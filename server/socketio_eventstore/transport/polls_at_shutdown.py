"""The end of waiting polls when uvicorn shuts down."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from socketio_eventstore.transport.asgi_transport import find_owner

CHECK_SECONDS: Final = 0.5
"""The time between two looks at the waiting polls."""


CLOSES_ANYWAY: Final = 0
"""The ``keep_alive`` of a request with ``Connection: close``. uvicorn's httptools protocol begins such a
request with False, and a shutdown would show nothing; uvicorn itself only asks whether the value is true."""


class PollingConnection(Protocol):
    """A connection with a waiting poll."""

    def end_poll(self) -> None:
        """Answer the waiting poll."""
        ...


class PollsAtShutdown:
    """Ends waiting polls when uvicorn shuts down.

    uvicorn waits for the last request before it tells the application, and a poll waits for a ping. But first
    uvicorn turns off ``keep_alive`` of every request. Other ASGI servers show nothing of a shutdown.
    """

    def __init__(self) -> None:
        self._requests: dict[PollingConnection, Any] = {}
        self._is_scheduled = False

    @contextmanager
    def watching(self, connection: PollingConnection, send: Any) -> Iterator[None]:
        """Watch the request of a poll; ``send`` is the ``send`` of ASGI, None on another server."""
        request = None if send is None else find_owner(send, "keep_alive")
        if request is None:
            yield
            return
        if not request.keep_alive:
            request.keep_alive = CLOSES_ANYWAY
        self._requests[connection] = request
        self._schedule()
        try:
            yield
        finally:
            self._requests.pop(connection, None)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check)

    def _check(self) -> None:
        self._is_scheduled = False
        for connection, request in list(self._requests.items()):
            if request.keep_alive is False:
                connection.end_poll()
        if self._requests:
            self._schedule()
