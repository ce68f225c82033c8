"""A long-polling client of bare HTTP requests."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Mapping
from typing import Any

import aiohttp

from support.clients import NotAnswered
from support.processes import DEADLINE


def without_heartbeats(payload: str) -> list[str]:
    """The packets of a payload; a heartbeat may come before or after any other packet."""
    return [packet for packet in payload.split("\x1e") if packet != "2"]


class RawPolling:
    """An Engine.IO session of bare HTTP requests, for tests of the packets on the wire."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = f"{url}/socket.io/"
        self._query = {"EIO": "4", "transport": "polling"}
        self._packets: deque[str] = deque()
        self._kept: deque[str] = deque()
        """Packets before an expected acknowledgement."""
        self._ack_ids = itertools.count()

    async def open(self) -> dict[str, Any]:
        """The Engine.IO handshake."""
        (packet,) = await self.poll()
        assert packet.startswith("0{"), packet
        handshake: dict[str, Any] = json.loads(packet[1:])
        self._query["sid"] = handshake["sid"]
        return handshake

    async def poll(self) -> list[str]:
        """A GET; returns the packets of the payload."""
        async with self._http.get(self._url, params=self._query) as response:
            body = await response.text()
            if response.status != 200:
                raise NotAnswered(f"{response.status}: {body}")
            return body.split("\x1e")

    async def post(self, packet: str) -> None:
        async with self._http.post(self._url, params=self._query, data=packet) as response:
            assert response.status == 200, (response.status, await response.text())

    async def packet(self) -> str:
        """The next packet other than a heartbeat."""
        return self._kept.popleft() if self._kept else await self._next()

    async def _next(self) -> str:
        async with asyncio.timeout(DEADLINE):
            while True:
                while self._packets:
                    if (packet := self._packets.popleft()) != "2":
                        return packet
                    await self.post("3")
                self._packets.extend(await self.poll())

    async def event(self, namespace: str = "/") -> list[Any]:
        """The next packet, which must be an event: name and arguments, offset included."""
        packet = await self.packet()
        prefix = f"42{_prefix(namespace)}["
        assert packet.startswith(prefix), packet
        event: list[Any] = json.loads(packet[len(prefix) - 1 :])
        return event

    async def connect(self, namespace: str = "/", auth: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Open the Engine.IO session if needed, and CONNECT; returns the content of the server's CONNECT."""
        if "sid" not in self._query:
            await self.open()
        prefix = f"40{_prefix(namespace)}"
        await self.post(prefix + ("" if auth is None else json.dumps(auth)))
        packet = await self.packet()
        assert packet.startswith(prefix + "{"), packet
        answer: dict[str, Any] = json.loads(packet[len(prefix) :])
        return answer

    async def call(self, name: str, *args: object, namespace: str = "/control") -> Any:
        """Emits an event and returns the acknowledgement."""
        number = str(next(self._ack_ids))
        await self.post(f"42{_prefix(namespace)}{number}{json.dumps([name, *args])}")
        prefix = f"43{_prefix(namespace)}{number}["
        while not (packet := await self._next()).startswith(prefix):
            self._kept.append(packet)
        answer = json.loads(packet[len(prefix) - 1 :])
        return answer[0] if answer else None

    async def close(self) -> None:
        """The transport ends without a Socket.IO packet."""
        await self.post("1")


async def rest(client: RawPolling) -> list[str]:
    """The remaining packets until the transport ends."""
    packets: list[str] = []
    try:
        while True:
            packets.append(await client.packet())
    except NotAnswered:
        return packets


def _prefix(namespace: str) -> str:
    return "" if namespace == "/" else f"{namespace},"
