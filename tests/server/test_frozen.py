"""A server that stands still for a while, as after SIGSTOP, or a machine that was suspended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.clients import NodeClients
from support.processes import DEADLINE, ServerProcess
from support.proxies import Proxy
from support.storing import sqlite

PROGRAM = """
import sys

if sys.argv.pop(1) == "asyncio":
    sys.modules["uvloop"] = None

from socketio_eventstore.__main__ import main

main()
"""
PING = b"\x81\x012"
"""A WebSocket frame with the text packet of a ping."""


class FreezableServer(ServerProcess):
    """A server on one of the two event loops, which a test can freeze."""

    def __init__(self, folder: Path, loop: str, config: Mapping[str, Mapping[str, object] | None]) -> None:
        super().__init__(folder, config)
        self._loop = loop
        self._program = folder / "program.py"
        self._program.write_text(PROGRAM)

    def command(self) -> Sequence[str]:
        return (sys.executable, str(self._program), self._loop, "serve", "--config", str(self.config_file))

    @property
    def uptime(self) -> str:
        """The uptime of the last heartbeat."""
        return sqlite(self.database, "SELECT max(service_time) FROM boots")

    @asynccontextmanager
    async def frozen(self, seconds: float) -> AsyncIterator[None]:
        """Freeze the process, and let it go on after so many seconds, at least."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
            await asyncio.sleep(seconds)  # the subject of the test
        finally:
            os.kill(self.pid, signal.SIGCONT)


class HoldingPongs(Proxy):
    """A proxy that holds what the client sends after a ping, until the test lets it go."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.holds = False
        self.held = asyncio.Event()
        self.pings = 0
        self._changed = asyncio.Condition()
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    async def next_pings(self, count: int) -> None:
        """Wait for so many more pings of the server."""
        enough = self.pings + count
        async with asyncio.timeout(DEADLINE), self._changed:
            await self._changed.wait_for(lambda: self.pings >= enough)

    async def _pass_on(self, data: bytes, target: asyncio.StreamWriter) -> None:
        if not self._open.is_set() and target in self._servers:
            self.held.set()
            await self._open.wait()
        await super()._pass_on(data, target)

    async def _pass_back(self, data: bytes, client: asyncio.StreamWriter) -> None:
        await super()._pass_back(data, client)
        if data.endswith(PING):
            async with self._changed:
                self.pings += 1
                self._changed.notify_all()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_pong_during_a_standstill_counts(tmp_path: Path, node: NodeClients, loop: str) -> None:
    """A pong that arrived while the process stood still counts, and the client does not reconnect.

    The client waits for the next ping no longer than interval and timeout together: it comes at once.
    """
    config = {"server": {"ping_interval": 5.0, "ping_timeout": 4.0}}
    with FreezableServer(tmp_path, loop, config) as server:
        async with HoldingPongs(server.port) as proxy:
            client = await node.client(proxy.url, transports=("websocket",))
            await client.connected()
            proxy.hold()
            await proxy.held.wait()
            async with server.frozen(5.0):
                proxy.let_go()
            await proxy.next_pings(2)
            assert await client.call("whoami") == {"sid": client.sid, "recovered": False}
            assert len(client.connects) == 1 and client.disconnects == []


async def test_frozen_server_expires_no_session(tmp_path: Path, node: NodeClients) -> None:
    """A server that stood still for longer than the disconnection duration expires no session for it.

    Only the time counts in which the server wrote its heartbeats, and at most four seconds at once.
    """
    config = {
        "connection_state_recovery": {"max_disconnection_duration": 12.0},
        "store": {"prune_interval": 0.05},
    }
    with FreezableServer(tmp_path, "uvloop", config) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False)
        first = await client.connected()
        await client.cut()
        missed = await control.call("publish", {"name": "missed", "to": first.sid})
        async with server.frozen(12.5):
            pass
        seen = {server.uptime}
        while len(seen) < 5:  # sweeps, each with a heartbeat
            await control.call("rooms", {"sid": control.sid})
            seen.add(server.uptime)
        await client.connect()
        await client.recovered_again()
        (event,) = await client.received("missed")
        assert event.offset == missed
        assert control.by_name["session_expired"] == []
