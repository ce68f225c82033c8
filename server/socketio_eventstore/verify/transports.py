"""Engine.IO transports of a client, made to be ended in any phase."""

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

from socketio_eventstore.verify.plan import TransportKind

_REQUEST_SECONDS: Final = 30.0
"""Longer than any poll: a poll ends with the next heartbeat."""
_CLOSE_SECONDS: Final = 2.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""A value of SO_LINGER: close() drops the unsent data and resets the connection."""


class TransportClosed(Exception):
    """The transport has ended, or could not be opened."""


@contextmanager
def _transport_errors() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: an incomplete response
        raise TransportClosed(repr(error)) from error


class Transport(ABC):
    """One Engine.IO connection, with an HTTP session of its own: closing the session closes the sockets."""

    def __init__(self, url: str, kind: TransportKind) -> None:
        name = "polling" if kind is TransportKind.UPGRADE else kind.value
        self._url = f"{url}/socket.io/"
        self._query = {"EIO": "4", "transport": name}
        self._websockets: list[aiohttp.ClientWebSocketResponse] = []
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
        )

    @abstractmethod
    async def open(self) -> None:
        """Complete the handshake. Raises TransportClosed."""

    @abstractmethod
    async def send(self, packet: str) -> None:
        """Send an Engine.IO packet. Raises TransportClosed."""

    @abstractmethod
    async def receive(self) -> list[str | bytes]:
        """Wait for packets and return them. Raises TransportClosed."""

    @abstractmethod
    async def send_close(self) -> None:
        """Send the CLOSE packet, or the WebSocket's close frame. No task may be receiving."""

    @abstractmethod
    def reset_on_close(self) -> None:
        """Let ``close`` reset the TCP connection, if the transport has one."""

    async def close(self) -> None:
        """Close the sockets. A second call has no effect."""
        await self._http.close()
        for websocket in self._websockets:  # sends nothing; releases the connection
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
        with _transport_errors():
            self._socket = await self._websocket()
        await self.receive()  # the handshake

    async def send(self, packet: str) -> None:
        await send_text(self._socket, packet)

    async def receive(self) -> list[str | bytes]:
        return [await receive_message(self._socket)]

    async def send_close(self) -> None:
        if hasattr(self, "_socket"):
            await close_websocket(self._socket)

    def reset_on_close(self) -> None:
        if hasattr(self, "_socket"):
            set_reset_on_close(self._socket)


class PollingTransport(Transport):
    """Long-polling: a waiting GET for packets of the server, and a POST for each packet of the client."""

    async def open(self) -> None:
        packets = await self.receive()
        with _transport_errors():
            self._query["sid"] = json.loads(str(packets[0])[1:])["sid"]

    async def send(self, packet: str) -> None:
        with _transport_errors():
            async with self._http.post(self._url, params=self._query, data=packet) as response:
                await _body(response)

    async def receive(self) -> list[str | bytes]:
        with _transport_errors():
            async with self._http.get(self._url, params=self._query) as response:
                body = await _body(response)
            return [b64decode(p[1:]) if p.startswith("b") else p for p in body.split("\x1e")]

    async def send_close(self) -> None:
        if "sid" in self._query:
            with suppress(TransportClosed, TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self.send("1")

    def reset_on_close(self) -> None:
        """Do nothing: the cancellation of a request closes its TCP connection."""


class UpgradingTransport(PollingTransport):
    """Long-polling with an upgrade to a WebSocket after a successful probe."""

    def __init__(self, url: str, kind: TransportKind) -> None:
        super().__init__(url, kind)
        self._sending = asyncio.Lock()
        self._probe: asyncio.Task[aiohttp.ClientWebSocketResponse] | None = None
        self._upgraded: aiohttp.ClientWebSocketResponse | None = None

    async def open(self) -> None:
        await super().open()
        self._probe = asyncio.create_task(self._try_websocket())

    async def _try_websocket(self) -> aiohttp.ClientWebSocketResponse:
        with _transport_errors():
            websocket = await self._websocket()
        await send_text(websocket, "2probe")
        if await receive_message(websocket) != "3probe":
            raise TransportClosed("the probe got no answer")
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
            async with self._sending:  # the response to the last POST has arrived
                await send_text(probe.result(), "5")
                self._upgraded = probe.result()
        return packets

    async def send_close(self) -> None:
        if self._upgraded is None:
            await super().send_close()
        else:
            await close_websocket(self._upgraded)

    def reset_on_close(self) -> None:
        if self._upgraded is not None:
            set_reset_on_close(self._upgraded)

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        await super().close()


def make_transport(url: str, kind: TransportKind) -> Transport:
    """Return a transport that is not open yet."""
    match kind:
        case TransportKind.WEBSOCKET:
            return WebSocketTransport(url, kind)
        case TransportKind.POLLING:
            return PollingTransport(url, kind)
        case TransportKind.UPGRADE:
            return UpgradingTransport(url, kind)


async def send_text(websocket: aiohttp.ClientWebSocketResponse, packet: str) -> None:
    """Send a packet. Raises TransportClosed."""
    with _transport_errors():
        await websocket.send_str(packet)


async def receive_message(websocket: aiohttp.ClientWebSocketResponse) -> str | bytes:
    """Wait for a packet and return it. Raises TransportClosed."""
    with _transport_errors():
        message = await websocket.receive()
    if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
        raise TransportClosed(message.type.name)
    content: str | bytes = message.data
    return content


async def close_websocket(websocket: aiohttp.ClientWebSocketResponse) -> None:
    """Close a WebSocket with the closing handshake (RFC 6455 section 7.1.2)."""
    with suppress(TransportClosed, TimeoutError), _transport_errors():
        async with asyncio.timeout(_CLOSE_SECONDS):
            await websocket.close()


def set_reset_on_close(websocket: aiohttp.ClientWebSocketResponse) -> None:
    """Let the close of the socket reset the TCP connection."""
    connection: Any = websocket.get_extra_info("socket")
    with suppress(OSError):  # the socket is closed already
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


async def _body(response: aiohttp.ClientResponse) -> str:
    text = await response.text()
    if response.status != 200:
        raise TransportClosed(f"{response.status} {text[:80]}")
    return text
