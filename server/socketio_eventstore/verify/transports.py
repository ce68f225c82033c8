"""Engine.IO as a client speaks it, in ways that can be broken at any moment."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from abc import ABC, abstractmethod
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import aiohttp

from socketio_eventstore.verify.plan import Wire

_REQUEST_SECONDS: Final = 30.0
"""Longer than any poll, which ends with the next heartbeat."""
_GOODBYE_SECONDS: Final = 2.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""Value of SO_LINGER: closing throws away what was not sent and resets the connection."""


class Lost(Exception):
    """The transport has ended, or could not be opened."""


@contextmanager
def _losing() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: half of an answer
        raise Lost(repr(error)) from error


class Transport(ABC):
    """One Engine.IO connection; an HTTP session of its own, so that closing it closes its sockets."""

    def __init__(self, url: str, wire: Wire) -> None:
        name = "polling" if wire is Wire.UPGRADE else wire.value
        self._url = f"{url}/socket.io/"
        self._query = {"EIO": "4", "transport": name}
        self._websockets: list[aiohttp.ClientWebSocketResponse] = []
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
        )

    @abstractmethod
    async def open(self) -> None:
        """Shake hands. Raises Lost."""

    @abstractmethod
    async def send(self, packet: str) -> None:
        """Send an Engine.IO packet. Raises Lost."""

    @abstractmethod
    async def receive(self) -> list[str | bytes]:
        """The next packets. Raises Lost."""

    @abstractmethod
    async def say_goodbye(self) -> None:
        """End the connection in order; nobody may be receiving."""

    @abstractmethod
    def reset(self) -> None:
        """Let ``close`` reset the TCP connection, where it can."""

    async def close(self) -> None:
        """Close the sockets. May be called again."""
        await self._http.close()
        for websocket in self._websockets:  # nothing is sent any more; it lets go of its connection
            await close_websocket(websocket)

    async def _websocket(self) -> aiohttp.ClientWebSocketResponse:
        query = {**self._query, "transport": "websocket"}
        websocket = await self._http.ws_connect(self._url, params=query, max_msg_size=0)
        self._websockets.append(websocket)
        return websocket


class WebSocketTransport(Transport):
    """A WebSocket from the start."""

    _socket: aiohttp.ClientWebSocketResponse

    async def open(self) -> None:
        with _losing():
            self._socket = await self._websocket()
        await self.receive()  # the handshake

    async def send(self, packet: str) -> None:
        await send_text(self._socket, packet)

    async def receive(self) -> list[str | bytes]:
        return [await receive_message(self._socket)]

    async def say_goodbye(self) -> None:
        if hasattr(self, "_socket"):
            await close_websocket(self._socket)

    def reset(self) -> None:
        if hasattr(self, "_socket"):
            reset_on_close(self._socket)


class PollingTransport(Transport):
    """Long-polling: a GET that waits for packets, a POST for each packet of the client."""

    async def open(self) -> None:
        packets = await self.receive()
        with _losing():
            self._query["sid"] = json.loads(str(packets[0])[1:])["sid"]

    async def send(self, packet: str) -> None:
        with _losing():
            async with self._http.post(self._url, params=self._query, data=packet) as response:
                await _body(response)

    async def receive(self) -> list[str | bytes]:
        with _losing():
            async with self._http.get(self._url, params=self._query) as response:
                body = await _body(response)
            return [b64decode(p[1:]) if p.startswith("b") else p for p in body.split("\x1e")]

    async def say_goodbye(self) -> None:
        if "sid" in self._query:
            with suppress(Lost, TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self.send("1")

    def reset(self) -> None:
        """Nothing to do: giving up a request closes its connection."""


class UpgradingTransport(PollingTransport):
    """Long-polling that becomes a WebSocket as soon as that has shown that it works."""

    def __init__(self, url: str, wire: Wire) -> None:
        super().__init__(url, wire)
        self._sending = asyncio.Lock()
        self._probe: asyncio.Task[aiohttp.ClientWebSocketResponse] | None = None
        self._upgraded: aiohttp.ClientWebSocketResponse | None = None

    async def open(self) -> None:
        await super().open()
        self._probe = asyncio.create_task(self._try_websocket())

    async def _try_websocket(self) -> aiohttp.ClientWebSocketResponse:
        with _losing():
            websocket = await self._websocket()
        await send_text(websocket, "2probe")
        if await receive_message(websocket) != "3probe":
            raise Lost("the probe was not answered")
        return websocket

    async def send(self, packet: str) -> None:
        async with self._sending:
            if self._upgraded is None:
                await super().send(packet)
            else:
                await send_text(self._upgraded, packet)

    async def receive(self) -> list[str | bytes]:
        if self._upgraded is not None:
            return [await receive_message(self._upgraded)]
        packets = await super().receive()
        probe = self._probe
        if probe is not None and probe.done() and not probe.cancelled() and probe.exception() is None:
            async with self._sending:  # the POST before has been answered
                await send_text(probe.result(), "5")
                self._upgraded = probe.result()
        return packets

    async def say_goodbye(self) -> None:
        if self._upgraded is None:
            await super().say_goodbye()
        else:
            await close_websocket(self._upgraded)

    def reset(self) -> None:
        if self._upgraded is not None:
            reset_on_close(self._upgraded)

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        await super().close()


def make_transport(url: str, wire: Wire) -> Transport:
    """A connection that is not open yet."""
    match wire:
        case Wire.WEBSOCKET:
            return WebSocketTransport(url, wire)
        case Wire.POLLING:
            return PollingTransport(url, wire)
        case Wire.UPGRADE:
            return UpgradingTransport(url, wire)


async def send_text(websocket: aiohttp.ClientWebSocketResponse, packet: str) -> None:
    """Send a packet. Raises Lost."""
    with _losing():
        await websocket.send_str(packet)


async def receive_message(websocket: aiohttp.ClientWebSocketResponse) -> str | bytes:
    """The next packet. Raises Lost."""
    with _losing():
        message = await websocket.receive()
    if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
        raise Lost(message.type.name)
    content: str | bytes = message.data
    return content


async def close_websocket(websocket: aiohttp.ClientWebSocketResponse) -> None:
    """Say goodbye as RFC 6455 wants it."""
    with suppress(Lost, TimeoutError), _losing():
        async with asyncio.timeout(_GOODBYE_SECONDS):
            await websocket.close()


def reset_on_close(websocket: aiohttp.ClientWebSocketResponse) -> None:
    """Let the operating system reset the TCP connection when it is closed."""
    connection: Any = websocket.get_extra_info("socket")
    with suppress(OSError):  # it has ended already
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


async def _body(response: aiohttp.ClientResponse) -> str:
    text = await response.text()
    if response.status != 200:
        raise Lost(f"{response.status} {text[:80]}")
    return text
