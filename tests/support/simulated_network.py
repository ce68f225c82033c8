"""An event loop with virtual time, transports that a test can break, and the state of their clients."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.sessions import ClientConnection
from socketio_eventstore.transport.request_head import RequestHead

if TYPE_CHECKING:
    from support.simulated_server import SimulatedServer

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

    def __init__(self, connection_id: str, server: SimulatedServer) -> None:
        super().__init__(connection_id)
        self.server = server
        self.head = RequestHead("", is_tls=False, headers=lambda name: ())
        self.place = None
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
        self.claim = 0
        """The claim for which it was called."""
        self._pings = self._pongs = 0
        self._proofs: list[tuple[int, asyncio.Future[bool]]] = []
        """Futures for an answer, each with the number of the ping that counts."""

    def write(self, batch: Sequence[Frames]) -> None:
        if not self.closed:
            packets = [packet for frames in batch for packet in cast("tuple[str, ...]", frames.packets)]
            self.server.scene.check_packets(self, packets)
            self.in_flight.extend(packets)

    def ask_for_namespace(self) -> None:
        """Pending connections are not limited here."""

    def abort(self, reason: str) -> None:
        self.close("transport error")

    def leave(self, reason: str) -> None:
        self.close(reason)

    def close(self, reason: str) -> None:
        """Tell the server that the transport has ended."""
        if not self.closed:
            self.closed = True
            self.in_flight.clear()
            self._settle_proofs(is_alive=False)
            self.server.closed(self, reason)

    def ping(self, seconds: float) -> None:
        """Send a ping, at a time in seconds."""
        self._pings += 1
        self.write([Frames(PING)])
        self.ping_written(self.server.queue.position, self.server.context.uptime)
        self.pinged_at = seconds

    def pong(self) -> None:
        """Take the client's answer to the oldest ping."""
        self._pongs += 1
        self.pong_received()
        self._settle_proofs(is_alive=True)
        if self._proofs and self._pings == self._pongs:
            self.ping(self.pinged_at)

    async def answers_ping(self) -> bool:
        """As ``EngineConnection.answers_ping``."""
        if self.closed:
            return False
        proof: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._proofs.append((self._pings + 1, proof))
        if self._pings == self._pongs:  # otherwise the ping follows the pong of the outstanding one
            self.ping(self.pinged_at)
        return await proof

    def _settle_proofs(self, *, is_alive: bool) -> None:
        for number, proof in self._proofs:
            if (number <= self._pongs or not is_alive) and not proof.done():
                proof.set_result(is_alive)
        self._proofs = [one for one in self._proofs if not one[1].done()]

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
    connected_at: float = 0.0
    """When the client last opened a transport, in seconds."""
    last_seen: float = 0.0
    """When the client was last connected for certain, in seconds."""
    answered_at: float = 0.0
    """When the last heartbeat was sent that the client answered, in seconds."""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.sid
