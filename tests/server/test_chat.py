"""The chat's handlers, on unmodified python-socketio and on this server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import socketio

from socketio_eventstore import chat
from support.processes import DEADLINE, EmbeddedServer, ServerProcess

LONGEST = "x" * chat.MAX_MESSAGE_CHARS

MALFORMED: list[tuple[Any, ...]] = [
    (),
    ("",),
    (" \n\t",),
    (LONGEST + "x",),
    (None,),
    (1,),
    (True,),
    (b"bytes",),
    (["a list"],),
    ({"an": "object"},),
]


class Member:
    """A client of the chat, with the received messages in order."""

    def __init__(self) -> None:
        self.client = socketio.AsyncClient(reconnection=False)
        self.heard: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.client.on("chat message", self._hear)

    async def _hear(self, *args: Any) -> None:
        await self.heard.put(args)

    async def hears(self) -> tuple[Any, ...]:
        async with asyncio.timeout(DEADLINE):
            return await self.heard.get()

    async def asks(self, *args: Any) -> Any:
        return await self.client.call("chat message", args, timeout=DEADLINE)


@asynccontextmanager
async def member(url: str, query: str = "") -> AsyncIterator[Member]:
    one = Member()
    await one.client.connect(url + query, transports=["websocket"], wait_timeout=DEADLINE)
    yield one
    await one.client.disconnect()


STOCK = """
import sys
import socketio
from aiohttp import web
from socketio_eventstore import chat

sio = socketio.AsyncServer(async_mode="aiohttp")
chat.register(sio)
app = web.Application()
sio.attach(app)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of an unmodified python-socketio server with the chat's handlers."""
    with EmbeddedServer(tmp_path_factory.mktemp("stock"), STOCK) as server:
        yield server.url


@pytest.mark.parametrize("message", ["hello", "  as it came ", "<b>&amp;</b>", "é🙂\u2028\0", LONGEST])
async def test_message_is_emitted_to_all(stock: str, message: str) -> None:
    """All clients receive a message unchanged."""
    async with member(stock) as a, member(stock) as b:
        await a.client.emit("chat message", message)
        assert await a.hears() == (message,)
        assert await b.hears() == (message,)


async def test_acknowledgement(stock: str) -> None:
    """The sender of a message gets an acknowledgement."""
    async with member(stock) as a:
        assert await a.asks("hello") == {"status": "ok", "offset": None}
        assert await a.hears() == ("hello",)


@pytest.mark.parametrize("args", MALFORMED)
async def test_invalid_message(stock: str, args: tuple[Any, ...]) -> None:
    """An invalid message is refused, and no client receives the message."""
    async with member(stock) as a:
        assert await a.asks(*args) == {"status": "refused", "reason": chat.REFUSAL}
        await a.client.emit("chat message", args)
        await a.client.emit("chat message", "the next one")
        assert await a.hears() == ("the next one",)


async def test_further_arguments(stock: str) -> None:
    """Arguments after the message are dropped."""
    async with member(stock) as a:
        await a.client.emit("chat message", ("hello", "id-1", {"more": 1}))
        assert await a.hears() == ("hello",)


async def test_acknowledgement_with_offset(
    chat_server: ServerProcess,
) -> None:
    """On this server the acknowledgement contains the offset of the message."""
    url = chat_server.url
    async with member(url, "?offsets=1") as a, member(url, "?offsets=1") as b:
        answer = await a.asks("hello")
        assert answer["status"] == "ok"
        assert await a.hears() == await b.hears() == ("hello", answer["offset"])
