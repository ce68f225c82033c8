"""A server under attack, the attackers, and undisturbed clients."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from support.embedded import Socket
from support.handlers_under_attack import MANY_NAMESPACES
from support.hostile import MAX_PAYLOAD
from support.processes import DEADLINE, HOST, ServerProcess
from support.raw_websocket import SilentSocket, handshake_request, silent_socket, text

HANDLERS = Path(__file__).with_name("handlers_under_attack.py")
ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "1"))
MANY = MANY_NAMESPACES
"""Namespaces, rooms, connections from one client."""
MAX_GROWTH_KIB = 150_000
"""The limit of the server's growth in memory; an unbounded buffer would take gigabytes."""

CONFIG: dict[str, dict[str, object]] = {
    "server": {"max_payload": MAX_PAYLOAD, "connect_timeout": 3.0, "ping_interval": 5.0},
    "connection_state_recovery": {"max_disconnection_duration": 20.0},
    "store": {"prune_interval": 0.5},
    "limits": {"rooms_per_session": MANY + 1, "namespaces_per_connection": 2_000},
}


class Target(ServerProcess):
    """The attacked server."""

    @property
    def memory_kib(self) -> int:
        """The resident set, from Linux."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])


class Attacker:
    """The requests with which a stranger attacks a server."""

    def __init__(self, port: int, http: aiohttp.ClientSession) -> None:
        self.url = f"http://{HOST}:{port}/socket.io/"
        self.port = port
        self.http = http
        self._kept: list[SilentSocket] = []

    async def socket(self) -> Socket:
        query = {"EIO": "4", "transport": "websocket"}
        socket = Socket(await self.http.ws_connect(self.url, params=query, max_msg_size=0))
        await socket.raw_packet()
        return socket

    async def send(self, *packets: str | bytes, connected: bool = True) -> None:
        """Send packets on a new connection, and read until the end."""
        socket = await self.socket()
        with suppress(ConnectionError):  # the server has closed the connection
            if connected:
                await socket.connect()
            for packet in packets:
                await socket.send(packet)
            await socket.send("1")  # CLOSE, if the server has not closed the connection
        await socket.rest()
        await socket.leave()

    async def handshake(self) -> dict[str, str] | None:
        """Open a long-polling session; returns the query, or None after a refusal."""
        query = {"EIO": "4", "transport": "polling"}
        async with self.http.get(self.url, params=query) as response:
            if response.status != 200:
                return None
            return {**query, "sid": json.loads((await response.text())[1:])["sid"]}

    async def accepted_handshake(self) -> dict[str, str]:
        """Open a long-polling session, if need be after the server has dropped idle sessions."""
        async with asyncio.timeout(DEADLINE):
            while (query := await self.handshake()) is None:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.05)
        return query

    async def post(self, body: bytes, content_type: str = "text/plain;charset=UTF-8") -> int:
        """Send a body to a new long-polling session; returns the status."""
        query = await self.accepted_handshake()
        return await self.post_to(query, body, content_type)

    async def post_to(
        self, query: dict[str, str], body: bytes | str, content_type: str = "text/plain;charset=UTF-8"
    ) -> int:
        """Send a body to a long-polling session; returns the status."""
        headers = {"Content-Type": content_type}
        async with self.http.post(self.url, params=query, data=body, headers=headers) as response:
            return response.status

    async def tcp(self, *parts: bytes) -> None:
        """Send parts on a TCP connection, and read until the server's close."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        with suppress(OSError):  # the server has closed the connection
            for part in parts:
                writer.write(part)
                await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(DEADLINE):
                await reader.read()
        writer.close()

    async def keep(self, first: bytes) -> SilentSocket:
        """Open a TCP connection that stays open until ``hang_up``."""
        kept = silent_socket()
        self._kept.append(kept)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(kept, (HOST, self.port))
        await loop.sock_sendall(kept, first)
        return kept

    async def keep_websocket(self, extensions: str = "") -> SilentSocket:
        """Open a WebSocket that stays open, unread, until ``hang_up``."""
        kept = await self.keep(handshake_request(extensions))
        response = await asyncio.get_running_loop().sock_recv(kept, 4096)
        assert b" 101 " in response, response
        return kept

    async def keep_client(self, extensions: str = "") -> SilentSocket:
        """Open a kept WebSocket, and connect to the namespace /."""
        kept = await self.keep_websocket(extensions)
        loop, received = asyncio.get_running_loop(), b""
        await loop.sock_sendall(kept, text("40"))
        while b"40{" not in received:
            received += await loop.sock_recv(kept, 4096)
        return kept

    def hang_up(self) -> None:
        """Close the kept TCP connections."""
        for kept in self._kept:
            kept.close()
        self._kept.clear()


async def send_unread(kept: SilentSocket, data: bytes, seconds: float = DEADLINE) -> bool:
    """Send bytes on a kept connection; returns whether the server has read all bytes."""
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_sendall(kept, data)
    except (OSError, TimeoutError):  # the server has closed the connection, or has stopped reading
        return False
    return True


async def together(work: Sequence[Awaitable[Any]], at_once: int = 50) -> None:
    """Await all work, a limited number at a time."""
    for start in range(0, len(work), at_once):
        await asyncio.gather(*work[start : start + at_once])


class Pair:
    """Two clients that exchange events; every event must arrive, in order."""

    def __init__(self, speaker: Socket, listener: Socket) -> None:
        self.speaker, self.listener = speaker, listener
        self.exchanged = 0

    async def exchange(self) -> None:
        await self.speaker.send(f'429["tell",{self.exchanged}]')
        acknowledgement = await self.speaker.content("439")
        name, number, offset = await self.listener.event()
        assert (name, number, [offset]) == ("told", self.exchanged, acknowledgement)
        self.exchanged += 1

    async def talk_until(self, attack: asyncio.Future[None]) -> None:
        async with asyncio.timeout(DEADLINE * ROUNDS):
            while not attack.done():
                await self.exchange()


@asynccontextmanager
async def undisturbed(
    server: Target, attacker: Attacker
) -> AsyncIterator[Callable[[Awaitable[None]], Awaitable[None]]]:
    """Two honest clients exchange events during an attack; the server must be healthy afterwards."""
    speaker, listener = await attacker.socket(), await attacker.socket()
    await speaker.connect()
    await listener.connect()
    assert await listener.call("join", "well-behaved") == ["joined"]
    pair, before, logged = Pair(speaker, listener), server.memory_kib, len(server.log)

    async def attack(work: Awaitable[None]) -> None:
        future = asyncio.ensure_future(work)
        await pair.talk_until(future)
        await future

    yield attack
    for _ in range(10):
        await pair.exchange()
    grown = server.memory_kib - before
    print(f"{pair.exchanged} events exchanged, {grown} KiB more than {before} KiB")
    assert grown < MAX_GROWTH_KIB
    said = server.log[logged:]
    assert "Traceback" not in said, said[said.index("Traceback") - 300 :][:5_000]
    await speaker.leave()
    await listener.leave()


Run = Callable[[Callable[[Attacker], Awaitable[None]]], Awaitable[None]]
