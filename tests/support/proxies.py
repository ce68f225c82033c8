"""TCP proxies between clients and a server, with the faults of networks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Self

from support.processes import DEADLINE, HOST

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Forwards all bytes in both directions until the close, which closes all connections."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._is_closed = False
        self._opening: set[asyncio.Task[None]] = set()
        """Connections of clients without an open connection to the server so far."""
        self._pumps: set[asyncio.Task[None]] = set()
        self._clients: list[asyncio.StreamWriter] = []
        self._servers: list[asyncio.StreamWriter] = []
        """The streams to the server of the same connections."""

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, HOST, 0)
        self.url = f"http://{HOST}:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_closed = True
        self._listener.close()
        await self._stop()
        for writer in (*self._clients, *self._servers):
            if writer.transport.get_write_buffer_size():  # a peer without reads would keep it open
                writer.transport.abort()
        self._close()

    async def _stop(self) -> None:
        """Stop forwarding; neither side sees an end of the connection."""
        while self._opening:  # a frozen server with a full backlog takes none
            _, left = await asyncio.wait(self._opening, timeout=DEADLINE)
            for opening in left:
                opening.cancel()
        pumps, self._pumps = self._pumps, set()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    def _close(self) -> None:
        """Close both ends of all connections."""
        for writer in (*self._clients, *self._servers):
            writer.close()
        self._clients.clear()
        self._servers.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_closed:  # accepted before the close
            writer.close()
            return
        opening = asyncio.create_task(self._begin(reader, writer))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await self._connect()
        except (OSError, asyncio.CancelledError):  # the server has ended, or refuses connections
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
        except OSError:
            pass  # the same as an end
        target.close()

    async def _pass_on(self, data: bytes, target: asyncio.StreamWriter) -> None:
        target.write(data)
        await target.drain()

    async def _pass_back(self, data: bytes, client: asyncio.StreamWriter) -> None:
        """Forward bytes of the server to the client."""
        await self._pass_on(data, client)


class Stranding(Proxy):
    """A proxy that can leave the server with half-open connections."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._stranded: list[asyncio.StreamWriter] = []

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        await self.close_stranded()

    async def strand(self) -> None:
        """The clients' connections close; the server's connections stay open without any byte."""
        await self._stop()
        self._stranded += self._servers
        self._servers.clear()
        self._close()

    async def close_stranded(self) -> None:
        """Close the half-open connections of the server."""
        for server in self._stranded:
            server.close()
        self._stranded.clear()


class OneWay(Proxy):
    """A proxy that can drop the bytes of the server."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._silent = False

    def silence(self) -> None:
        """Drop the bytes of the server from now on, on the existing connections."""
        self._silent = True

    async def _connect(self) -> Streams:
        streams = await super()._connect()
        self._silent = False
        return streams

    async def _pass_back(self, data: bytes, client: asyncio.StreamWriter) -> None:
        if not self._silent:
            await super()._pass_back(data, client)


class Wire(Proxy):
    """A proxy that can close or pause connections after a number of the server's bytes."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        super().__init__(port)
        self._receive_buffer = receive_buffer
        self._budget: int | None = None
        self._running = asyncio.Event()
        self._running.set()
        self.carried = 0
        """Forwarded bytes of the server."""

    def cut_after(self, size: int | None) -> None:
        """Close all connections after so many more bytes of the server; later connections are not cut."""
        self._budget = size

    def pause(self) -> None:
        """Stop reading from the server: no byte reaches the clients."""
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    async def _connect(self) -> Streams:
        near = socket.socket()
        near.setblocking(False)
        if self._receive_buffer is not None:  # before the connect: the handshake fixes the window
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(near, (HOST, self._target))
        except OSError:
            near.close()
            raise
        return await asyncio.open_connection(sock=near)

    async def _pass_back(self, data: bytes, client: asyncio.StreamWriter) -> None:
        await self._running.wait()
        if self._budget is not None and len(data) >= self._budget:
            client.write(data[: self._budget])
            self._budget = None
            self._close()
            raise ConnectionAbortedError  # otherwise the pump would forward the rest of the buffer
        if self._budget is not None:
            self._budget -= len(data)
        self.carried += len(data)
        await super()._pass_back(data, client)


class Balancer(Proxy):
    """A proxy in front of several servers: new connections go to the first accepting server."""

    def __init__(self, *ports: int) -> None:
        super().__init__(ports[0])
        self._ports = list(ports)

    async def turn_to(self, port: int) -> None:
        """End all connections; new connections go to the port only."""
        self._ports = [port]
        await self._stop()
        self._close()

    async def _connect(self) -> Streams:
        for port in self._ports[:-1]:
            try:
                return await asyncio.open_connection(HOST, port)
            except OSError:
                pass
        return await asyncio.open_connection(HOST, self._ports[-1])
