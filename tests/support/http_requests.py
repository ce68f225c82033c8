"""Single requests over HTTP/1.1 with any headers, as hostile pages and simple probes send them."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.processes import DEADLINE, HOST

HANDSHAKE = "/socket.io/?EIO=4&transport=polling"
WEBSOCKET = "/socket.io/?EIO=4&transport=websocket"
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@dataclass(frozen=True)
class Answer:
    """A response, with the names of headers in lower case."""

    status: int
    headers: dict[str, list[str]] = field(repr=False)
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a single header, or None."""
        values = self.headers.get(name)
        if values is None:
            return None
        (value,) = values
        return value

    @property
    def error(self) -> dict[str, Any]:
        """The JSON of an error."""
        error: dict[str, Any] = json.loads(self.body)
        return error


def ask(
    where: int | Path | socket.socket,
    path: str = HANDSHAKE,
    *headers: tuple[str, str],
    method: str = "GET",
    version: str = "1.1",
    body: bytes = b"",
    **named: str,
) -> Answer:
    """Send a request to a port, a Unix socket or over a connection; ``named`` are headers such as ``Origin``.

    Of an accepted WebSocket, only the head of the response is read.
    """
    every = [*headers, *((name.replace("_", "-"), value) for name, value in named.items())]
    if path.startswith(WEBSOCKET):
        every += UPGRADE.items()
    elif version == "1.1":
        every.append(("Connection", "close"))
    if body:
        every.append(("Content-Length", str(len(body))))
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in every), "", ""]
    with connect(where) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + body)
        return _read(connection)


def connect(where: int | Path | socket.socket) -> socket.socket:
    if isinstance(where, socket.socket):
        return where
    if isinstance(where, int):
        return socket.create_connection((HOST, where), DEADLINE)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE)
    connection.connect(str(where))
    return connection


def _read(connection: socket.socket) -> Answer:
    response = http.client.HTTPResponse(connection)
    response.begin()
    headers: dict[str, list[str]] = {}
    for name, value in response.getheaders():
        headers.setdefault(name.lower(), []).append(value)
    return Answer(response.status, headers, response.read())
