"""All WebSockets of a server read on in the same rounds of the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from socketio_eventstore.transport.aiohttp_websocket import AiohttpWebSocket
from socketio_eventstore.transport.frame_reader import FRAMES_PER_STEP
from socketio_eventstore.transport.shared_rounds import (
    FLOOD_PACKETS_PER_ROUND,
    PACKETS_PER_ROUND,
    PACKETS_PER_STEP,
    SharedRounds,
)
from support.embedded import serving

CLIENTS = 20
STEPS = 5
FRAME = b"\x81\x82\x00\x00\x00\x006x"


class Tcp(asyncio.Transport):
    """A TCP connection whose bytes the test hands over."""

    def is_closing(self) -> bool:
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """The test knows the protocol."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """The client reads nothing."""

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Nothing else comes."""

    def resume_reading(self) -> None:
        """Nothing else comes."""


class Receiver:
    """Counts the messages of all WebSockets in each round of the event loop, until all have come."""

    def __init__(self, messages: int) -> None:
        self.messages_in: Counter[int] = Counter()
        self.all_received = asyncio.Event()
        self._round = 0
        self._messages = messages
        self._next_round()

    def _next_round(self) -> None:
        self._round += 1
        if self.messages_in.total() < self._messages:
            asyncio.get_running_loop().call_soon(self._next_round)
        else:
            self.all_received.set()

    def data_received(self, message: str | bytes) -> None:
        assert message == "6x"
        self.messages_in[self._round] += 1

    def connection_lost(self, *, in_order: bool = False) -> None:
        raise AssertionError


async def test_reads_share_rounds() -> None:
    """What follows the first step of a read is read in rounds that all clients share."""
    rounds, receiver = SharedRounds(), Receiver(CLIENTS * STEPS * FRAMES_PER_STEP)
    for _ in range(CLIENTS):
        websocket = AiohttpWebSocket(lambda _: receiver, 1000, 0, rounds)
        websocket.begin(Tcp(), (b"", False), FRAME * (STEPS * FRAMES_PER_STEP))
    first = receiver.messages_in.copy()
    await receiver.all_received.wait()
    later = receiver.messages_in - first
    assert first.total() == CLIENTS * FRAMES_PER_STEP
    assert max(later.values()) <= FRAMES_PER_STEP * FLOOD_PACKETS_PER_ROUND // PACKETS_PER_STEP


async def test_all_connections_have_the_same_rounds(path: Path) -> None:
    """Packets of one client count for all others, and the WebSockets read on in the same rounds."""
    async with serving(path) as server:
        await server.client()
        await server.client()
        rounds: SharedRounds = server.sio.eio.shared_rounds
        inboxes = [connection._inbox for connection in server.sio.eio.sockets.values()]
        websockets = [connection._websocket for connection in server.sio.eio.sockets.values()]
        assert [inbox.is_busy for inbox in inboxes] == [False, False]
        for _ in range(PACKETS_PER_ROUND):
            rounds.take()
        assert [inbox.is_busy for inbox in inboxes] == [True, True]
        assert all(websocket._rounds is rounds for websocket in websockets)
