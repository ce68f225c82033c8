"""The limits for connections and for handshakes that join nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import WSServerHandshakeError

from support.embedded import Server, serving, until

HANDSHAKE = {"EIO": "4", "transport": "polling"}


async def status(server: Server) -> tuple[int, str | None]:
    async with server.http.get(server.url, params=HANDSHAKE) as response:
        await response.read()
        return response.status, response.headers.get("Retry-After")


async def test_pending_handshakes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Handshakes that join nothing are refused beyond the limit; clients that join do not count."""
    async with serving(tmp_path / "events.db", recovery={"pending_handshakes": 3}) as server:
        for _ in range(5):
            await server.client()
        waiting = [await server.polling() for _ in range(3)]
        for _ in range(10):
            assert await status(server) == (503, "5")
        with pytest.raises(WSServerHandshakeError) as refused:
            await server.socket()
        assert refused.value.status == 503
        assert server.engine.refused_handshakes == {"pending_handshakes": 11}
        assert caplog.messages == ["A handshake was refused: there are 3 pending_handshakes"]

        await waiting[0].connect()
        assert await status(server) == (200, None)
        assert await status(server) == (503, "5")
        await waiting[1].send("1")  # the client closes
        assert await status(server) == (200, None)


async def test_other_namespaces_count_as_pending(tmp_path: Path) -> None:
    """A CONNECT to a namespace that does not exist leaves the connection pending."""
    async with serving(tmp_path / "events.db", recovery={"pending_handshakes": 1}) as server:
        client = await server.socket()
        await client.send("40/unknown,")
        assert await client.packet() == '44/unknown,{"message":"Invalid namespace"}'
        assert server.engine.pending == 1 and await status(server) == (503, "5")
        await client.leave()
        await until(lambda: server.engine.pending == 0)


async def test_connections(tmp_path: Path) -> None:
    """Connections beyond the limit are refused, and a closed connection makes room at once."""
    async with serving(tmp_path / "events.db", recovery={"connections": 2}) as server:
        client = await server.client()
        polling = await server.polling()
        await polling.connect()
        assert await status(server) == (503, "5")
        assert server.engine.refused_handshakes == {"connections": 1}
        await client.leave()
        await until(lambda: len(server.engine.sockets) == 1)
        assert await status(server) == (200, None)
        assert server.engine.pending == 1
