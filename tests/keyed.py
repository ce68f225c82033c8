"""Events with an idempotency key: a client that hears no answer, and what is stored."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

from clients import Client
from processes import HOST, ServerProcess

TUTORIAL: dict[str, Any] = {"retries": 3, "ackTimeout": 10_000}
"""The client's options in step 8 of the tutorial."""


def rows(server: ServerProcess, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    """What the database holds at this moment."""
    with closing(sqlite3.connect(server.database)) as connection:
        return connection.execute(query, parameters).fetchall()


def logged(server: ServerProcess, text: str) -> int:
    """How many events have this text as their only argument."""
    query = "SELECT count(*) FROM events WHERE json_extract(payload, '$[1]') = ?"
    return int(rows(server, query, text)[0][0])


class OneWay:
    """A TCP proxy that keeps what the server says to itself, from a word on."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._silent = False
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.url = f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for writer in self._writers:
            writer.close()

    def silence(self) -> None:
        """From here on clients hear nothing, on the connections that there are."""
        self._silent = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(HOST, self._target)
        except ConnectionError:  # the server has ended
            writer.close()
            return
        self._silent = False
        self._writers += [writer, server_writer]
        for source, target, mute in ((reader, server_writer, False), (server_reader, writer, True)):
            self._pumps.add(asyncio.create_task(self._pump(source, target, mute)))

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, can_be_mute: bool
    ) -> None:
        try:
            while data := await source.read(65536):
                if not (can_be_mute and self._silent):
                    target.write(data)
                    await target.drain()
        except ConnectionError:
            pass  # the same as an end
        target.close()


async def marker(control: Client, sid: str, name: str = "marker") -> str:
    """Something that comes after what was sent before; returns its packet."""
    offset = await control.call("publish", {"name": name, "to": sid})
    return f'42["{name}","{offset}"]'


@contextmanager
def serving_keyed_events(folder: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
    # Handlers that fail are in the log with their traceback; nothing of ours may be.
    ends = (
        "\nhandlers_for_tests.FailedOnPurpose",
        "\nValueError: the last argument of",
        "\nTypeError: answer[",
    )
    assert server.log.count("Traceback") == sum(server.log.count(end) for end in ends), server.log
