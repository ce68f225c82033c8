"""The limits for connections, handshakes that join nothing, rooms and names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


async def test_rooms_of_a_session(tmp_path: Path) -> None:
    """A session beyond its limit of rooms joins no further one, and may leave and join again."""
    async with serving(tmp_path / "events.db", recovery={"rooms_per_session": 2}) as server:
        sio, sid = server.sio, (await server.client()).sid
        for room in ("a", "b", "a"):
            await sio.enter_room(sid, room)
        with pytest.raises(ValueError, match="is in 2 rooms, which is the limit rooms_per_session"):
            await sio.enter_room(sid, "c")
        await sio.leave_room(sid, "a")
        await sio.enter_room(sid, "c")
        assert sorted(sio.rooms(sid)) == sorted(["b", "c", sid])


LONG = "x" * 1001


@pytest.mark.parametrize(
    ("event", "to", "skip", "error"),
    [
        (LONG, None, None, "an event's name may have 1000 characters, not 1001"),
        ("e", LONG, None, "a room's name may have 1000 characters"),
        ("e", None, LONG, "a sid to skip may have 1000 characters"),
        ("e", list(range(10_001)), None, "an emit can address 10000 rooms, not 10001"),
        ("e", None, ["a"] * 10_001, "an emit can skip 10000 sids, not 10001"),
        ("e", [*range(9_000)], ["a"] * 2_000, "event 'e' is 2200005 bytes long; at most 2000000"),
    ],
)
async def test_addresses_are_bounded(tmp_path: Path, event: str, to: Any, skip: Any, error: str) -> None:
    """An emit with long names or with too many addresses raises, and is not stored."""
    async with serving(tmp_path / "events.db") as server:
        with pytest.raises(ValueError, match=error):
            await server.sio.emit(event, to=to, skip_sid=skip)
        offset = await server.sio.emit("next")
        assert offset is not None and offset.endswith(".1")


async def test_names_of_sessions_are_bounded(tmp_path: Path) -> None:
    """A room, an identity and a namespace with a long name are refused."""
    async with serving(tmp_path / "events.db") as server:
        client = await server.client()
        with pytest.raises(ValueError, match="a room's name may have 1000 characters"):
            await server.sio.enter_room(client.sid, LONG)
        with pytest.raises(ValueError, match="an identity may have 1000 characters"):
            await server.sio.bind(client.sid, LONG)
        server.sio.namespaces = "*"
        other = await server.socket()
        await other.send(f"40/{LONG},")
        assert await other.packet() == f'44/{LONG},{{"message":"Invalid namespace"}}'
