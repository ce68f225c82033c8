"""The live figures of the inspector: for those who look, as long as they look and may look."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from socketio_eventstore.program.inspector.figures import Figures, figures
from socketio_eventstore.program.inspector.live import MAX_VIEWERS, NAMESPACE, Live
from support.embedded import Server, Socket, away, until
from support.processes import HOST

COOKIE = "a_cookie"


class Watched:
    """A source of figures that counts, and the tokens that may look."""

    def __init__(self) -> None:
        self.taken = 0
        self.allowed = {"token"}
        self.live = Live(self.take, self.allowed.__contains__, COOKIE, interval_seconds=0.01)
        self.port = 0

    async def take(self) -> Figures | None:
        self.taken += 1
        return {"at": self.taken, "away": ["only the last ones"]}

    @asynccontextmanager
    async def viewer(self, http: aiohttp.ClientSession, token: str = "token") -> AsyncIterator[Socket]:
        """A viewer that is connected."""
        url = f"ws://{HOST}:{self.port}/socket.io/?EIO=4&transport=websocket"
        async with http.ws_connect(url, headers={"Cookie": f"{COOKIE}={token}"}) as websocket:
            socket = Socket(websocket)
            await socket.packet()
            await socket.connect(NAMESPACE)
            yield socket


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    watched = Watched()
    app = web.Application()
    watched.live.add_to(app)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    watched.port = runner.addresses[0][1]
    yield watched
    await watched.live.close()
    await runner.cleanup()


async def until_idle(watched: Watched) -> None:
    await until(lambda: not watched.live.is_working)


async def test_figures_for_those_who_look(watched: Watched, http: aiohttp.ClientSession) -> None:
    """Figures are taken while somebody looks, and not before or after; a second viewer gets the last ones."""
    assert watched.taken == 0
    async with watched.viewer(http) as first:
        name, history = await first.event(NAMESPACE)
        assert (name, history) == ("history", [])
        seen = [await first.event(NAMESPACE) for _ in range(3)]
        assert [event[1]["at"] for event in seen] == [1, 2, 3]
        async with watched.viewer(http) as second:
            assert (await second.event(NAMESPACE))[0] == "history"
            assert (await second.event(NAMESPACE))[0] == "figures"
    await until_idle(watched)
    taken = watched.taken
    async with watched.viewer(http) as third:
        await third.event(NAMESPACE)
        assert (await third.event(NAMESPACE))[1]["at"] == taken + 1
    await until_idle(watched)


async def test_viewer_whose_login_has_ended(watched: Watched, http: aiohttp.ClientSession) -> None:
    """A viewer that may not look any more is disconnected, and gets nothing more."""
    async with watched.viewer(http) as viewer:
        await viewer.event(NAMESPACE)
        watched.allowed.clear()
        while (packet := await viewer.packet()) != f"41{NAMESPACE},":
            assert isinstance(packet, str) and packet.startswith(f"42{NAMESPACE},")
    await until_idle(watched)


async def test_number_of_viewers(watched: Watched, http: aiohttp.ClientSession) -> None:
    """Viewers have a limit of their own."""
    url = f"http://{HOST}:{watched.port}/socket.io/?EIO=4&transport=polling"
    statuses = []
    for _ in range(MAX_VIEWERS + 1):
        async with http.get(url) as response:
            statuses.append(response.status)
    assert statuses == [200] * MAX_VIEWERS + [503]


async def test_figures_of_a_server(server: Server) -> None:
    """The figures count sessions, events and commits, and name the sessions that expire soonest."""
    ann, bob = await server.client(), await server.client()
    await server.sio.enter_room(ann.sid, "red")
    await server.sio.bind(bob.sid, "bob")
    for _ in range(3):
        await server.sio.emit("said", "x")
    await server.sio.emit("brief", volatile=True)
    await away(server, bob)
    await server.sio.emit("said", "y", room="nobody")  # behind the end of the connection in the log
    taken = await figures(server.sio)
    assert taken is not None
    assert taken["sessions"] == {"connected": 1, "connecting": 0, "away": 1}
    assert (taken["stored"], taken["unstored"], taken["delivered"]) == (4, 1, 8)
    assert taken["namespaces"] == {"/": 1} and sum(taken["commits"]) > 0 and taken["problems"] == []
    assert len(taken["commits"]) == len(taken["bounds"]) + 1
    (one,) = taken["away"]
    assert (one["sid"], one["identity"]) == (bob.sid, "bob") and one["remaining"] > 0
