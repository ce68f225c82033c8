"""The live figures, over a second Socket.IO server without a store.

In the namespace of the clients, viewers would be sessions in the database and clients in the metrics. So
viewers connect to a second server, below ``/inspect/``. The second server shares only the event loop with the
first server, and collects figures only while a viewer is connected.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from socketio_eventstore.adapter.async_server import AsyncServer
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.program.inspector.figures import Figures

NAMESPACE: Final = "/inspector"
PATH: Final = "socket.io"
INTERVAL_SECONDS: Final = 1.0
KEPT_SECONDS: Final = 300.0
"""Older figures are deleted: a page shows the last minutes."""
MAX_VIEWERS: Final = 20
"""Open connections of viewers; a reload needs two for a moment."""
MAX_PAYLOAD_BYTES: Final = 10_000
"""Viewers have nothing to say."""
ORIGIN_ADVICE: Final = (
    "the inspector takes no origin but its own, so a proxy passes Host on, or is trusted and names "
    "X-Forwarded-Host"
)
"""A page of an origin in ``cors_allowed_origins`` could read the inspector with the cookie of a viewer."""

logger = logging.getLogger(__name__)


class Live:
    """Sends the figures of a server to the viewers, once a second; without viewers collects none."""

    def __init__(
        self,
        take: Callable[[], Awaitable[Figures | None]],
        is_allowed: Callable[[str], bool],
        cookie: str,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        """``take`` returns the present figures. ``is_allowed`` tells whether a token is still valid.

        ``cookie`` is the name of the cookie with the token.
        """
        self._take = take
        self._is_allowed = is_allowed
        self._cookie = cookie
        self._failures = RepeatedFailures(logger)
        self._interval_seconds = interval_seconds
        self._viewers: dict[str, str] = {}
        """The tokens of the viewers by sid."""
        self._kept: deque[Figures] = deque(maxlen=int(KEPT_SECONDS / interval_seconds))
        self._task: asyncio.Task[None] | None = None
        self.sio = AsyncServer(
            None,
            async_mode="aiohttp",
            namespaces=[NAMESPACE],
            connections=MAX_VIEWERS,
            max_http_buffer_size=MAX_PAYLOAD_BYTES,
        )
        self.sio.eio.origin_advice = ORIGIN_ADVICE
        self.sio.on("connect", self._connected, namespace=NAMESPACE)
        self.sio.on("disconnect", self._disconnected, namespace=NAMESPACE)

    @property
    def is_working(self) -> bool:
        """Whether figures are taken: a viewer is connected, or has just gone."""
        return self._task is not None and not self._task.done()

    def add_to(self, app: web.Application) -> None:
        """Serve the protocol; ``app`` must refuse requests without a login."""
        self.sio.attach(app, PATH)

    async def close(self) -> None:
        """Close all connections of viewers, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.sio.shutdown()

    async def _connected(self, sid: str, environ: dict[str, Any], _auth: object = None) -> None:
        self._viewers[sid] = environ["aiohttp.request"].cookies.get(self._cookie, "")
        now = time.time()
        kept = [one for one in self._kept if now - KEPT_SECONDS < one["at"] <= now]
        await self.sio.emit("history", kept, to=sid, namespace=NAMESPACE)
        if not self.is_working:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _disconnected(self, sid: str, _reason: str) -> None:
        self._viewers.pop(sid, None)

    async def _run(self) -> None:
        """Take and send figures until the last viewer has gone."""
        while self._viewers:
            try:
                await self._send()
            except Exception as error:  # noqa: BLE001 -- a fault of the server; the next figures may be fine
                text = "The figures of the inspector could not be sent"
                self._failures.failed(type(error).__name__, text, error=error)
            await asyncio.sleep(self._interval_seconds)

    async def _send(self) -> None:
        for sid, token in list(self._viewers.items()):
            if not self._is_allowed(token):
                await self.sio.disconnect(sid, NAMESPACE)
        taken = await self._take()
        if taken is not None:
            self._kept.append({name: value for name, value in taken.items() if name != "away"})
            await self.sio.emit("figures", taken, namespace=NAMESPACE, volatile=True)
