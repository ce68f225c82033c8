"""An application with an embedded server in this process, and clients that build packets."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import socketio
from aiohttp import WSMsgType, web

from socketio_eventstore import RecoveryManager
from socketio_eventstore.core.recovery import RecoveryResult
from socketio_eventstore.core.sessions import State
from socketio_eventstore.transport.engine import Engine
from support.new_databases import create_database
from support.processes import DEADLINE, HOST

EAGER_ROUNDS = 1_000
"""How often a wait looks in each round of the event loop."""


class Socket:
    """A WebSocket client of Engine.IO that sends and receives single packets."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self._websocket = websocket
        self.sid = ""
        """The session in the main namespace."""

    async def raw_packet(self) -> str | bytes | None:
        """The next packet, heartbeats included; None when the server has closed the connection."""
        async with asyncio.timeout(DEADLINE):
            message = await self._websocket.receive()
        return message.data if message.type in (WSMsgType.TEXT, WSMsgType.BINARY) else None

    async def packet(self) -> str | bytes | None:
        """The next packet other than a heartbeat; heartbeats are answered."""
        while (packet := await self.raw_packet()) == "2":
            with suppress(ConnectionResetError):  # closed after the ping: the next packet is None
                await self.send("3")
        return packet

    async def rest(self) -> list[str | bytes]:
        """The remaining packets until the server closes the connection."""
        packets = []
        while (packet := await self.packet()) is not None:
            packets.append(packet)
        return packets

    async def send(self, packet: str | bytes) -> None:
        await (
            self._websocket.send_str(packet)
            if isinstance(packet, str)
            else self._websocket.send_bytes(packet)
        )

    async def connect(self, namespace: str = "/", auth: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Send CONNECT; returns the content of the server's CONNECT."""
        await self.send(f"40{prefix(namespace)}" + ("" if auth is None else json.dumps(auth)))
        answer = await self.content(f"40{prefix(namespace)}")
        assert isinstance(answer, dict)
        if namespace == "/":
            self.sid = answer["sid"]
        return answer

    async def event(self, namespace: str = "/") -> list[Any]:
        """The next packet, which must be an event: name and arguments, offset included."""
        event = await self.content(f"42{prefix(namespace)}")
        assert isinstance(event, list)
        return event

    async def event_of(self, emit: Awaitable[str | None], namespace: str = "/") -> list[Any]:
        """The event of an emit without the offset, which must be the returned offset."""
        offset = await emit
        *event, last = await self.event(namespace)
        assert offset is not None and last == offset
        return event

    async def content(self, start: str) -> Any:
        """The JSON of the next packet, which must begin with ``start``."""
        packet = await self.packet()
        assert isinstance(packet, str) and packet.startswith(start), packet
        return json.loads(packet.removeprefix(start))

    async def call(self, name: str, *arguments: object, namespace: str = "/") -> Any:
        """Emits and returns the acknowledgement, which must be the next packet."""
        await self.send(f"42{prefix(namespace)}7{json.dumps([name, *arguments])}")
        return await self.content(f"43{prefix(namespace)}7")

    async def leave(self) -> None:
        """The transport ends without a Socket.IO packet."""
        await self._websocket.close()


class Polling:
    """An Engine.IO session of long polling, with a method for each request, which returns the response."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.query = {"EIO": "4", "transport": "polling"}

    async def open(self) -> dict[str, Any]:
        """The Engine.IO handshake."""
        (packet,) = await self.poll()
        assert packet.startswith("0"), packet
        handshake: dict[str, Any] = json.loads(packet[1:])
        self.query["sid"] = handshake["sid"]
        return handshake

    async def get(self) -> tuple[int, str]:
        async with self._server.http.get(self._server.url, params=self.query) as response:
            return response.status, await response.text()

    async def post(self, body: str | bytes) -> tuple[int, str]:
        async with self._server.http.post(self._server.url, params=self.query, data=body) as response:
            return response.status, await response.text()

    async def poll(self) -> list[str]:
        """A GET; returns the packets of the body."""
        async with asyncio.timeout(DEADLINE):
            status, body = await self.get()
        assert status == 200, (status, body)
        return body.split("\x1e")

    async def send(self, *packets: str) -> None:
        status, body = await self.post("\x1e".join(packets))
        assert status == 200, (status, body)

    async def connect(self) -> dict[str, Any]:
        """Send CONNECT to the main namespace; returns the content of the server's CONNECT."""
        await self.send("40")
        packets: list[str] = []
        while not packets:
            payload = await self.poll()
            if "2" in payload:
                await self.send("3")
            packets = [packet for packet in payload if packet != "2"]
        (packet,) = packets
        assert packet.startswith("40{"), packet
        answer: dict[str, Any] = json.loads(packet[2:])
        return answer

    async def is_over(self) -> bool:
        """Whether the server has forgotten the session."""
        return (await self.post("3"))[0] == 400 and (await self.get())[0] == 400

    async def websocket(self) -> Socket:
        """A WebSocket for the upgrade."""
        return await self._server.open_socket({**self.query, "transport": "websocket"})


class Server:
    """An application with an embedded server, in this process."""

    def __init__(self, sio: Any, manager: RecoveryManager, http: aiohttp.ClientSession, url: str) -> None:
        self.sio = sio
        self.manager = manager
        self.http = http
        self.url = url
        self._sockets: list[Socket] = []

    @property
    def engine(self) -> Engine:
        engine: Engine = self.sio.eio
        return engine

    async def open_socket(self, query: dict[str, str], headers: Mapping[str, str] | None = None) -> Socket:
        connecting = self.http.ws_connect(self.url, params=query, max_msg_size=0, headers=headers)
        socket = Socket(await connecting)
        self._sockets.append(socket)
        return socket

    async def close_sockets(self) -> None:
        for socket in self._sockets:
            await socket.leave()

    async def websocket(self) -> tuple[Socket, dict[str, Any]]:
        """A WebSocket without polling before, and the handshake."""
        socket = await self.open_socket({"EIO": "4", "transport": "websocket"})
        handshake = await socket.content("0")
        assert isinstance(handshake, dict)
        return socket, handshake

    async def socket(self) -> Socket:
        return (await self.websocket())[0]

    async def client(self, auth: Mapping[str, object] | None = None, namespace: str = "/") -> Socket:
        """A client connected to a namespace."""
        socket = await self.socket()
        await socket.connect(namespace, auth)
        return socket

    async def polling(self) -> Polling:
        """A polling session after the handshake."""
        polling = Polling(self)
        await polling.open()
        return polling


class Seen:
    """Records of handler calls, for waiting tests."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._more = asyncio.Event()

    def __call__(self, *what: Any) -> None:
        self.all.append(what[0] if len(what) == 1 else what)
        self._more.set()

    async def until(self, count: int) -> list[Any]:
        """Waits for ``count`` records; returns all records."""
        async with asyncio.timeout(DEADLINE):
            while len(self.all) < count:
                self._more.clear()
                await self._more.wait()
        return self.all


@asynccontextmanager
async def serving(
    path: Path | str | None,
    *,
    recovery: Mapping[str, Any] | None = None,
    register: Callable[[Any], None] = lambda _: None,
    server_class: type[Any] = socketio.AsyncServer,
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[Server]:
    """Run a server; ``recovery`` are options of the manager, ``options`` are options of ``AsyncServer``."""
    if isinstance(path, Path):
        create_database(path)
    manager = RecoveryManager(path, **(recovery or {}))
    sio = server_class(async_mode="aiohttp", client_manager=manager, **options)
    register(sio)
    app = web.Application()
    sio.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    async with AsyncExitStack() as stack:
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(sio.shutdown)
        # A client that reconnects while the listener is still open must not open the store again.
        stack.callback(setattr, manager, "reopens", False)
        await web.TCPSite(runner, HOST, 0, ssl_context=tls).start()
        port = runner.addresses[0][1]
        http = await stack.enter_async_context(aiohttp.ClientSession())
        scheme = "http" if tls is None else "https"
        server = Server(sio, manager, http, f"{scheme}://{HOST}:{port}/socket.io/")
        stack.push_async_callback(server.close_sockets)
        yield server


@asynccontextmanager
async def answering_pings(*clients: Socket) -> AsyncIterator[None]:
    """The clients read, and answer pings, inside the block; received packets are dropped."""
    reading = [asyncio.create_task(client.rest()) for client in clients]
    try:
        yield
    finally:
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)


async def until(happened: Callable[[], object]) -> None:
    """Lets the server work until a condition without an event holds.

    After some time, the check runs only every millisecond: a waiting test must not use a whole processor.
    """
    async with asyncio.timeout(DEADLINE):
        rounds = 0
        while not happened():
            rounds += 1
            await asyncio.sleep(0 if rounds < EAGER_ROUNDS else 0.001)


def prefix(namespace: str) -> str:
    return "" if namespace == "/" else f"{namespace},"


async def poll_is_open(server: Server) -> None:
    """Waits until the only connection has a waiting poll."""
    (connection,) = server.engine.sockets.values()
    await until(lambda: connection._poll_buffer.has_poll)


async def packets_until_marker(server: Server, *clients: Socket) -> list[list[str | bytes]]:
    """The packets of each client before an event to all clients, sent now."""
    offset = await server.sio.emit("marker", to=[client.sid for client in clients])
    received = []
    for client in clients:
        packets: list[str | bytes] = []
        while (packet := await client.packet()) != f'42["marker","{offset}"]':
            assert packet is not None
            packets.append(packet)
        received.append(packets)
    return received


async def away(server: Server, client: Socket) -> None:
    """The client's transport ends; waits until the session is away."""
    session = (await server.manager.start()).registry.get("/", client.sid)
    assert session is not None
    await client.leave()
    await until(lambda: session.state is State.AWAY)


async def results(server: Server) -> dict[RecoveryResult, int]:
    return dict((await server.manager.start()).recovery.results)
