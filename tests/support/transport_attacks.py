"""Attacks with HTTP requests, TCP connections and WebSockets, before Socket.IO matters.

An attack returns after its last packet. Kept connections are open until the attacker hangs up, so the server
alone decides how long it holds state for the connections.
"""

from __future__ import annotations

import json
import zlib
from contextlib import suppress

import aiohttp

from support.attacker import Attacker, send_unread, together
from support.hostile import MAX_PAYLOAD
from support.polling import without_heartbeats
from support.processes import HOST
from support.raw_websocket import frame, text

POLLING = "/socket.io/?EIO=4&transport=polling"
LARGE = 90_000
DEFLATE = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"


def request(method: str, query: dict[str, str], *headers: str) -> bytes:
    """Return the head of a long-polling request."""
    lines = [f"{method} {POLLING}&sid={query['sid']} HTTP/1.1", f"Host: {HOST}", *headers, "", ""]
    return "\r\n".join(lines).encode()


async def unread_polls(attacker: Attacker) -> None:
    """Polling clients do not read a response of 3 MB."""
    helper = await attacker.socket()
    await helper.connect()
    for _ in range(3):
        query, sid = await polling_client(attacker)
        assert await helper.call("flood", 35, LARGE, sid) == ["sent"]
        await attacker.keep(request("GET", query))
    await helper.leave()


async def polling_client(attacker: Attacker) -> tuple[dict[str, str], str]:
    """Connect by long polling; return the query and the sid."""
    query = await attacker.accepted_handshake()
    await attacker.post_to(query, "40")
    packets: list[str] = []
    while not packets:
        async with attacker.http.get(attacker.url, params=query) as response:
            packets = without_heartbeats(await response.text())
    return query, json.loads(packets[0].removeprefix("40"))["sid"]


async def unread_websockets(attacker: Attacker) -> None:
    """WebSocket clients ask for 9 MB and for echoes of packets, and read nothing."""
    echo = text(f'42["anything","{"x" * 10_000}"]')
    for _ in range(3):
        kept = await attacker.keep_client()
        await send_unread(kept, text(f'42["flood",100,{LARGE}]') + echo * 20)


async def slow_bodies(attacker: Attacker) -> None:
    """POST requests with endless bodies."""
    for number in range(50):
        query = await attacker.accepted_handshake()
        framing = "Transfer-Encoding: chunked" if number % 2 else "Content-Length: 1000"
        await attacker.keep(request("POST", query, framing) + b'5\r\n42["a')


async def half_sent_handshakes(attacker: Attacker) -> None:
    """Silent connections, or connections with a part of a request."""
    parts = [b"", b"G", b"GET /socket.io/?EIO=4&tra", f"GET {POLLING} HTTP/1.1\r\nX: ".encode()]
    for number in range(150):
        await attacker.keep(parts[number % len(parts)])


async def lonely_handshakes(attacker: Attacker) -> None:
    """Handshakes without a namespace, beyond the limit."""

    async def websocket() -> None:
        with suppress(aiohttp.WSServerHandshakeError):  # refused by the server: 503
            await attacker.socket()

    await together([attacker.handshake() for _ in range(400)])
    await together([websocket() for _ in range(30)])


async def repeated_upgrades(attacker: Attacker) -> None:
    """Incomplete upgrades, several at a time, also of unknown sessions."""

    async def probe(query: dict[str, str], *packets: str) -> None:
        with suppress(aiohttp.WSServerHandshakeError, ConnectionError):
            socket = await attacker.http.ws_connect(
                attacker.url, params={**query, "transport": "websocket"}, max_msg_size=0
            )
            for packet in packets:
                await socket.send_str(packet)

    for _ in range(10):
        query, _ = await polling_client(attacker)
        await together([probe(query, "2probe") for _ in range(5)])
        await together([probe(query, "2probe", "2probe"), probe(query, "5"), probe(query)])
        await together([probe({**query, "sid": f"unknown{number}"}, "2probe") for number in range(5)])


async def compressed_bombs(attacker: Attacker) -> None:
    """Compressed messages: many at the limit in few bytes, and one beyond the limit."""

    def deflated(content: bytes) -> bytes:
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        compressed = deflater.compress(content) + deflater.flush(zlib.Z_SYNC_FLUSH)
        return frame(0xC1, compressed.removesuffix(b"\x00\x00\xff\xff"))

    at_limit = deflated(b'42["bomb","' + b"x" * (MAX_PAYLOAD - 20) + b'"]')
    kept = await attacker.keep_client(DEFLATE)
    await send_unread(kept, at_limit * 300)
    kept = await attacker.keep_client(DEFLATE)
    await send_unread(kept, deflated(bytes(100 * MAX_PAYLOAD)))


async def unasked_pongs(attacker: Attacker) -> None:
    """Pongs without pings, of Engine.IO and of WebSocket, and pings with unread answers."""
    kept = await attacker.keep_client()
    await send_unread(kept, text("3") * 20_000)
    await send_unread(kept, frame(0x8A, b"pong") * 5_000 + frame(0x89, b"p" * 125) * 5_000)


async def large_posts(attacker: Attacker) -> None:
    """POST requests beyond the limit, and with thousands of packets."""
    bodies = [
        b"4" * (MAX_PAYLOAD + 1),
        b"\x1e" * MAX_PAYLOAD,
        b"40\x1e" * 30_000,
        b'40\x1e42["nothing"]' + b'\x1e42["nothing"]' * 7_000,
        b"40\x1e" + b"3\x1e" * 40_000,
        b"b" + b"A" * (MAX_PAYLOAD - 4),
    ]
    await together([attacker.post(body) for body in bodies])
