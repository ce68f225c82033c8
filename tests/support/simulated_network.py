"""An event loop with virtual time, transports that a test can break, and the state of their clients."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.sessions import ClientConnection

PING = "2"
NAMESPACES = ("/", "/", "/other")
"""The namespaces of the clients, by number."""
T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers are due when nothing else is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def run_until_idle(self) -> None:
        """Run until all tasks wait for the next rule, or for a timer that repeats for ever."""
        self.run_until_complete(self._until_idle())

    def call(self, function: Callable[[], T]) -> T:
        """Call a function that creates tasks, then run until idle."""

        async def within() -> T:
            result = function()
            await self._until_idle()
            return result

        return self.run_until_complete(within())

    async def _until_idle(self) -> None:
        ready, timers = vars(self)["_ready"], vars(self)["_scheduled"]
        for _ in range(4):
            await asyncio.sleep(0)
            while ready:  # noqa: ASYNC110 -- nothing is set when nothing is left to do
                await asyncio.sleep(0)
            if not timers:
                break
            self.now = max(self.now, timers[0].when())


class Wire(ClientConnection):
    """A transport: written packets are in flight until the client takes them or the transport breaks."""

    def __init__(self, connection_id: str, closed: Callable[[Wire, str], None]) -> None:
        super().__init__(connection_id)
        self.in_flight: deque[str] = deque()
        self.closed = False
        """Whether the server knows that the transport has ended."""
        self.pinged_at = 0.0
        """When the last heartbeat was sent, in seconds."""
        self.crowded = False
        """Whether the client reads nothing for now."""
        self.decision: asyncio.Future[bool] | None = None
        """The pending decision of the connect handler."""
        self.claims = ("", "")
        """Namespace and sid of the session for which the connect handler was called."""
        self._closed = closed

    def write(self, batch: Sequence[Frames]) -> None:
        if not self.closed:
            for frames in batch:
                self.in_flight.extend(cast("tuple[str, ...]", frames.packets))

    def abort(self, reason: str) -> None:
        self.close("transport error")

    def leave(self, reason: str) -> None:
        self.close(reason)

    def close(self, reason: str) -> None:
        """Tell the server that the transport has ended."""
        if not self.closed:
            self.closed = True
            self.in_flight.clear()
            self._closed(self, reason)

    @property
    def unsent_bytes(self) -> int:
        return 10**9 if self.crowded else 0


@dataclass(eq=False)
class Client:
    """The state of an official client, which never forgets pid and offset."""

    namespace: str
    wire: Wire | None = None
    pid: str | None = None
    offset: str | None = None
    sid: str = ""
    connected: bool = False
    received: list[str] = field(default_factory=list)
    """The texts of the stored events, since its session began."""
    last_seen: float = 0.0
    """When the client was last connected for certain, in seconds."""
    answered_at: float = 0.0
    """When the last heartbeat was sent that the client answered, in seconds."""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.sid
