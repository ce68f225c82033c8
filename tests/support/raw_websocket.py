"""WebSocket clients of raw frames and raw sockets."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import trustme

from support.embedded import Server
from support.processes import DEADLINE, HOST

HANDSHAKE = (
    "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{more}\r\n"
)

SilentSocket: TypeAlias = socket.socket
ESTABLISHED = "01"
"""The state of an open connection in ``/proc/net/tcp``."""


def handshake_request(extensions: str = "") -> bytes:
    """Return a WebSocket handshake with an offer of extensions."""
    more = f"Sec-WebSocket-Extensions: {extensions}\r\n" if extensions else ""
    key = base64.b64encode(os.urandom(16)).decode()
    return HANDSHAKE.format(key=key, more=more).encode()


def frame(head: int, payload: bytes, mask: bytes = bytes(4)) -> bytes:
    """Return the frame of a client; ``head`` is the first byte."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = struct.pack("!BH", 0x80 | 126, size)
    else:
        length = struct.pack("!BQ", 0x80 | 127, size)
    masked = payload if mask == bytes(4) else bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes([head]) + length + mask + masked


def text(packet: str) -> bytes:
    """Return a text frame."""
    return frame(0x81, packet.encode())


def silent_socket() -> SilentSocket:
    """Return a TCP socket that accepts few bytes until it is read."""
    silent = socket.socket()
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    silent.setblocking(False)
    return silent


async def closed_by_the_server(silent: SilentSocket) -> None:
    """Wait, without reading, for the server's close of a connection; only Linux shows the close."""
    ends = [f"{port:04X}" for _, port in (silent.getpeername(), silent.getsockname())]

    def is_open() -> bool:
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return any([end[-4:] for end in line[1:3]] == ends and line[3] == ESTABLISHED for line in lines)

    async with asyncio.timeout(DEADLINE):
        while is_open():  # noqa: ASYNC110 - no event reports it
            await asyncio.sleep(0.02)


class Wire:
    """A WebSocket client that sends and reads raw frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.response = ""

    async def shake_hands(self, extensions: str = "") -> None:
        """Complete the WebSocket handshake with an offer of extensions."""
        self._writer.write(handshake_request(extensions))
        self.response = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        assert " 101 " in self.response

    def send(self, head: int, payload: bytes, *, mask: bytes = b"\1\2\3\4") -> None:
        self._writer.write(frame(head, payload, mask))

    def send_deflated(self, *payloads: bytes) -> None:
        """Send compressed text messages with one write, in short frames."""
        frames = []
        for payload in payloads:
            deflater = zlib.compressobj(wbits=-15)
            content = (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
            frames.append(struct.pack("!BBH", 0xC1, 0x80 | 126, len(content)) + bytes(4) + content)
        self._writer.write(b"".join(frames))

    async def frame(self) -> tuple[int, bytes]:
        """Return the first byte and the payload of the next frame."""
        async with asyncio.timeout(DEADLINE):
            head, size = await self._reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", await self._reader.readexactly(2))
            return head, await self._reader.readexactly(size)

    async def connect(self) -> None:
        """Read the Engine.IO handshake and connect to the namespace /."""
        assert (await self.frame())[1].startswith(b"0")
        self.send(0x81, b"40")
        assert (await self.frame())[1].startswith(b"40")

    def stop_reading(self) -> None:
        """Leave all further bytes of the server in the buffers of TCP."""
        transport = self._writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()

    async def is_over(self) -> bool:
        """Whether the server has closed the TCP connection."""
        async with asyncio.timeout(DEADLINE):
            return await self._reader.read() == b""


def trusting() -> ssl.SSLContext:
    """Return the TLS context of a client that accepts any certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def certified() -> ssl.SSLContext:
    """Return the TLS context of a server with a certificate of an unknown authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert(HOST).configure_cert(context)
    return context


@asynccontextmanager
async def wire_to(server: Server) -> AsyncIterator[Wire]:
    address = urlsplit(server.url)
    tls = trusting() if address.scheme == "https" else None
    reader, writer = await asyncio.open_connection(address.hostname, address.port, ssl=tls)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
