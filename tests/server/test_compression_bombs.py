"""Messages that are short when compressed and long when inflated cost other clients nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore.transport.inbox import MAX_RUNNING_BYTES
from support.embedded import Server, serving, until
from support.raw_websocket import Wire, wire_to

DEFLATE = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
MESSAGES = 60
SIZE = 900_000
BOMB = b'42["bomb","' + b"x" * SIZE + b'"]'


class Handlers:
    """Counts the bombs that are handled, and the rounds of the event loop in which they began."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.rounds: list[int] = []
        self.running = 0
        self.most = 0
        self._round = 0

    def register(self, sio: Any) -> None:
        sio.on("bomb", self.bomb)

    async def bomb(self, _sid: str, _data: str) -> None:
        self.rounds.append(self._round)
        self.running += 1
        self.most = max(self.most, self.running)
        await self.gate.wait()
        self.running -= 1

    async def count_rounds(self) -> None:
        """Count how often others get their turn."""
        while True:
            self._round += 1
            await asyncio.sleep(0)


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


async def bombed(server: Server, wire: Wire) -> None:
    await wire.shake_hands(DEFLATE)
    await wire.connect()
    wire.send_deflated(*[BOMB] * MESSAGES)


async def test_others_get_their_turn(tmp_path: Path, handlers: Handlers) -> None:
    """The event loop serves others between two inflated messages, and all messages are handled."""
    handlers.gate.set()
    recovery = {"websocket_compression": 300}
    async with (
        serving(tmp_path / "events.db", register=handlers.register, recovery=recovery) as server,
        wire_to(server) as wire,
    ):
        counting = asyncio.create_task(handlers.count_rounds())
        await bombed(server, wire)
        await until(lambda: len(handlers.rounds) == MESSAGES)
        assert len(set(handlers.rounds)) >= MESSAGES - 1
        counting.cancel()


async def test_running_handlers_are_limited(tmp_path: Path, handlers: Handlers) -> None:
    """While handlers with many bytes run, nothing is inflated; later all messages are handled."""
    recovery = {"websocket_compression": 300}
    async with (
        serving(tmp_path / "events.db", register=handlers.register, recovery=recovery) as server,
        wire_to(server) as wire,
    ):
        await bombed(server, wire)
        (connection,) = server.engine.sockets.values()
        await until(lambda: connection._inbox._queued)
        other = await server.client()
        await server.sio.emit("hello", to=other.sid)
        assert (await other.event())[0] == "hello"
        assert handlers.running == -(-MAX_RUNNING_BYTES // SIZE)
        assert connection._inbox._queued is not None and len(connection._inbox._queued) == 1
        handlers.gate.set()
        await until(lambda: len(handlers.rounds) == MESSAGES)


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_a_closed_connection_inflates_no_more(tmp_path: Path, handlers: Handlers, how: str) -> None:
    """The messages that are left when the server closes the connection are not read."""
    handlers.gate.set()
    recovery = {"websocket_compression": 300}
    async with (
        serving(tmp_path / "events.db", register=handlers.register, recovery=recovery) as server,
        wire_to(server) as wire,
    ):
        await bombed(server, wire)
        (connection,) = server.engine.sockets.values()
        await until(lambda: handlers.rounds)
        (connection.abort if how == "abort" else connection.close_after_flush)("by the test")
        with suppress(ConnectionResetError):
            await wire.is_over()
        assert len(handlers.rounds) < MESSAGES
