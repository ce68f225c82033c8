"""Stock Python clients: python-socketio's, with asyncio and with threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import socketio

from support.embedded import Seen
from support.processes import DEADLINE

BINARY = {"bytes": b"\0\1", "list": [b"\2"]}


class PythonClient:
    """A stock client. The handlers fail with an argument more than emitted."""

    def __init__(self, **options: Any) -> None:
        self.sio = socketio.AsyncClient(reconnection=False, **options)
        self._send_request = self.sio.eio._send_request
        self.sio.eio._send_request = self._send_and_read
        self.seen = Seen()
        self.connections = Seen()
        self.sio.on("none", self.none)
        self.sio.on("one", self.one)
        self.sio.on("two", self.two)
        self.sio.on("ask", self.ask)
        self.sio.on("disconnect", self.disconnected)

    async def _send_and_read(self, *args: Any, **kwargs: Any) -> Any:
        """Read each response: the client leaves some late responses unread, with open connections."""
        response = await self._send_request(*args, **kwargs)
        if not isinstance(response, str):
            await response.read()
        return response

    async def none(self) -> None:
        self.seen("none")

    async def one(self, argument: Any) -> None:
        self.seen("one", argument)

    async def two(self, first: Any, second: Any) -> None:
        self.seen("two", first, second)

    async def ask(self, question: str) -> str:
        self.seen("ask", question)
        return "answer"

    async def disconnected(self, reason: str) -> None:
        self.connections("disconnect", reason)


class SyncPythonClient:
    """A stock client with threads. Each packet is handled in a new thread, so in any order."""

    def __init__(self, **options: Any) -> None:
        self.sio = socketio.Client(reconnection=False, handle_sigint=False, **options)
        self.seen = Seen()
        self._loop = asyncio.get_running_loop()
        self.sio.on("none", lambda: self._see("none"))
        self.sio.on("one", lambda argument: self._see("one", argument))
        self.sio.on("two", lambda first, second: self._see("two", first, second))
        self.sio.on("ask", self.ask)

    def ask(self, question: str) -> str:
        self._see("ask", question)
        return "answer"

    def _see(self, *what: Any) -> None:
        self._loop.call_soon_threadsafe(self.seen, *what)


@asynccontextmanager
async def connected_in_threads(
    url: str, transports: list[str], **options: Any
) -> AsyncIterator[SyncPythonClient]:
    client = SyncPythonClient(**options)
    await asyncio.to_thread(client.sio.connect, url, transports=transports, wait_timeout=DEADLINE)
    try:
        yield client
    finally:
        await asyncio.to_thread(client.sio.disconnect)
        waiting = asyncio.create_task(asyncio.to_thread(client.sio.wait))
        while not waiting.done():
            # The client may empty the queue before the writing thread sees the end, and the thread waits for
            # 30 s.
            client.sio.eio.queue.put(None)
            await asyncio.wait((waiting,), timeout=0.1)
        await waiting


@asynccontextmanager
async def connected(url: str, transports: list[str], **options: Any) -> AsyncIterator[PythonClient]:
    query = options.pop("query", "")
    client = PythonClient(**options)
    await client.sio.connect(url + query, transports=transports, wait_timeout=DEADLINE)
    try:
        yield client
    finally:
        await client.sio.disconnect()


async def emit_all(sio: Any, *, binary: bool = True) -> list[Any]:
    """An event of each kind; returns the records of a client without offsets."""
    await sio.emit("none")
    await sio.emit("one", "text")
    await sio.emit("one", 'a quoted "," text"]')
    await sio.emit("two", ("text", {"a": [1]}))
    if binary:
        await sio.emit("one", BINARY)
    await asyncio.gather(*(sio.emit("one", number) for number in range(3)))
    await sio.emit("one", "volatile", volatile=True)
    return [
        "none",
        ("one", "text"),
        ("one", 'a quoted "," text"]'),
        ("two", "text", {"a": [1]}),
        *([("one", BINARY)] if binary else []),
        ("one", 0),
        ("one", 1),
        ("one", 2),
        ("one", "volatile"),
    ]
