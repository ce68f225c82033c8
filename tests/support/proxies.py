"""TCP proxies between clients and a server: what networks do to connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Self

from support.processes import HOST

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Passes everything on, both ways, until it ends and all connections with it."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._pumps: set[asyncio.Task[None]] = set()
        self._clients: list[asyncio.StreamWriter] = []
        self._servers: list[asyncio.StreamWriter] = []
        """The server's ends of the same connections."""

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, HOST, 0)
        self.url = f"http://{HOST}:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await self._stop()
        self._close()

    async def _stop(self) -> None:
        """Nothing is passed on any more, and no end either."""
        pumps, self._pumps = self._pumps, set()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    def _close(self) -> None:
        """Both ends of all connections."""
        for writer in (*self._clients, *self._servers):
            writer.close()
        self._clients.clear()
        self._servers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await self._connect()
        except ConnectionError:  # the server has ended
            writer.close()
            return
        self._clients.append(writer)
        self._servers.append(server_writer)
        self._pumps.add(asyncio.create_task(self._pump(reader, self._pass_on, server_writer)))
        self._pumps.add(asyncio.create_task(self._pump(server_reader, self._pass_back, writer)))

    async def _connect(self) -> Streams:
        return await asyncio.open_connection(HOST, self._target)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        deliver: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]],
        target: asyncio.StreamWriter,
    ) -> None:
        try:
            while data := await source.read(65536):
                await deliver(data, target)
        except ConnectionError:
            pass  # the same as an end
        target.close()

    async def _pass_on(self, data: bytes, target: asyncio.StreamWriter) -> None:
        target.write(data)
        await target.drain()

    async def _pass_back(self, data: bytes, client: asyncio.StreamWriter) -> None:
        """What the server has sent; here the client gets all of it."""
        await self._pass_on(data, client)


class Stranding(Proxy):
    """It can leave the server with connections on whose other end nobody is any more."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._stranded: list[asyncio.StreamWriter] = []

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        await self.close_stranded()

    async def strand(self) -> None:
        """The clients see their connections close, the server notices nothing: no byte, no end."""
        await self._stop()
        self._stranded += self._servers
        self._servers.clear()
        self._close()

    async def close_stranded(self) -> None:
        """The server's network finally notices."""
        for server in self._stranded:
            server.close()
        self._stranded.clear()


class OneWay(Proxy):
    """It can keep what the server says to itself, from a word on."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._silent = False

    def silence(self) -> None:
        """From here on clients hear nothing, on the connections that there are."""
        self._silent = True

    async def _connect(self) -> Streams:
        streams = await super()._connect()
        self._silent = False
        return streams

    async def _pass_back(self, data: bytes, client: asyncio.StreamWriter) -> None:
        if not self._silent:
            await super()._pass_back(data, client)


class Wire(Proxy):
    """It can break the connections after so many bytes of the server, or hold them back."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        super().__init__(port)
        self._receive_buffer = receive_buffer
        self._budget: int | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self.carried = 0
        """Bytes of the server that were passed on."""

    def cut_after(self, size: int | None) -> None:
        """All connections end when so many more bytes of the server have passed; later ones are whole."""
        self._budget = size

    def hold(self) -> None:
        """From here on nothing of the server passes, and nobody reads it."""
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    async def _connect(self) -> Streams:
        near = socket.socket()
        near.setblocking(False)
        if self._receive_buffer is not None:  # before it connects, or the window is agreed on already
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(near, (HOST, self._target))
        except ConnectionError:
            near.close()
            raise
        return await asyncio.open_connection(sock=near)

    async def _pass_back(self, data: bytes, client: asyncio.StreamWriter) -> None:
        await self._flows.wait()
        if self._budget is not None and len(data) >= self._budget:
            client.write(data[: self._budget])
            self._budget = None
            self._close()
            raise ConnectionAbortedError  # or the pump would go on with what it has in its buffer
        if self._budget is not None:
            self._budget -= len(data)
        self.carried += len(data)
        await super()._pass_back(data, client)
