"""A server with injected faults, and the clients that observe it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TypeVar

import aiohttp

from support.embedded import Socket
from support.processes import DEADLINE, ServerProcess

HANDLERS = """
from socketio_eventlog.errors import StoreError

def register(sio):
    async def publish(sid, number, size=0):
        try:
            return {"offset": await sio.emit("numbered", (number, "x" * size))}
        except StoreError as error:
            return {"error": str(error)}

    async def session_expired(sid, data):
        raise RuntimeError("the handler of session_expired has a fault")

    sio.on("connect", lambda sid, environ, auth: None)
    sio.on("publish", publish, namespace="/control")
    sio.on("session_expired", session_expired)
"""
CONFIG: dict[str, dict[str, object]] = {
    # Heartbeats are the clock of the tests: a heartbeat comes at each interval while a test waits.
    "server": {"ping_interval": 0.1},
    "store": {"prune_interval": 0.2},
}


class Faulty(ServerProcess):
    """A server with injected faults."""

    prefix: Sequence[str] = ()

    def command(self) -> Sequence[str]:
        return (*self.prefix, *super().command())

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def wal(self) -> Path:
        return self.database.with_name(self.database.name + "-wal")

    def refusal(self) -> str:
        """The error line of a start that must fail, with exit code 2 and one line of output."""
        done = subprocess.run(
            self.command(), cwd=self.folder, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        lines = [line for line in done.stderr.splitlines() if not line.startswith("20")]
        assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
        assert len(lines) == 1 and lines[0].startswith("socketio-eventstore: "), done.stderr
        return lines[0]


class Visitor:
    """A recovering client and a publishing client; every acknowledged event must be received."""

    def __init__(self, server: Faulty, http: aiohttp.ClientSession) -> None:
        self.server = server
        self._http = http
        self.acknowledged: list[int] = []
        self.received: list[int] = []
        self.pid: str | None = None
        self.offset: str | None = None
        self._number = 0
        self._sockets: list[Socket] = []

    async def socket(self) -> Socket:
        url = f"{self.server.url}/socket.io/?EIO=4&transport=websocket"
        socket = Socket(await self._http.ws_connect(url, max_msg_size=0))
        self._sockets.append(socket)
        handshake = await socket.raw_packet()
        assert isinstance(handshake, str) and handshake.startswith("0")
        return socket

    async def leave(self) -> None:
        """Close all connections."""
        for socket in self._sockets:
            await socket.leave()

    async def arrive(self) -> None:
        """Connect both clients, for the first time or again."""
        await self.take_control()
        await self.come_back()

    async def take_control(self) -> None:
        """Connect the publisher, and a connection for heartbeats only."""
        self.control, self._clock = await self.socket(), await self.socket()
        await self.control.connect("/control")

    async def come_back(self) -> bool:
        """Connect the client; returns whether the session was recovered."""
        self.client = await self.socket()
        auth = {key: value for key, value in (("pid", self.pid), ("offset", self.offset)) if value}
        answer = await self.client.connect(auth=auth)
        former, self.pid = self.pid, answer["pid"]
        return former == self.pid

    async def publish(self, size: int = 0) -> str | None:
        """Publish the next number; returns the error, if any."""
        self._number += 1
        (answer,) = await self.control.call("publish", self._number, size, namespace="/control")
        if "offset" in answer:
            self.acknowledged.append(self._number)
            return None
        error: str = answer["error"]
        return error

    async def publish_until_failure(self, size: int, at_most: int = 500) -> str:
        for _ in range(at_most):
            if (error := await self.publish(size)) is not None:
                return error
        raise AssertionError(f"{at_most} events of {size} bytes could be stored")

    async def publish_until_success(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while await self.publish() is not None:
                pass

    async def receive_acknowledged(self) -> None:
        """Waits until the client has received the acknowledged events, in order, and no others."""
        while len(self.received) < len(self.acknowledged):
            name, number, _, self.offset = await self.client.event()
            assert name == "numbered"
            self.received.append(number)
        assert self.received == self.acknowledged

    async def log_says(self, text: str) -> None:
        """Waits for a text in the log, from heartbeat to heartbeat."""
        async with asyncio.timeout(DEADLINE):
            while text not in self.server.log:
                await self.heartbeat()

    async def heartbeat(self) -> None:
        packet = await self._clock.raw_packet()
        assert packet == "2", packet
        await self._clock.send("3")


Server = TypeVar("Server", bound=Faulty)


def make_server(tmp_path: Path, **config: dict[str, object]) -> Faulty:
    return make(Faulty, tmp_path, **config)


def make(kind: type[Server], tmp_path: Path, **config: dict[str, object]) -> Server:
    handlers = tmp_path / "handlers_of_faults.py"
    handlers.write_text(HANDLERS)
    folder = tmp_path / "server"
    folder.mkdir()
    server = kind(folder, {**CONFIG, **config}, handlers)
    server.has_database = False  # the WAL of the migrations is a part of the faults of disks
    return server


@asynccontextmanager
async def visiting(server: Faulty, http: aiohttp.ClientSession) -> AsyncIterator[Visitor]:
    visitor = Visitor(server, http)
    with server:
        await visitor.arrive()
        yield visitor
    await visitor.leave()


async def leaves_a_healthy_database(server: Faulty, visitor: Visitor) -> None:
    """After a restart all acknowledged events are stored, and the client recovers."""
    await asyncio.to_thread(server.restart)
    await visitor.arrive()
    await visitor.publish_until_success()
    await visitor.receive_acknowledged()
    with closing(sqlite3.connect(server.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute("SELECT payload FROM events ORDER BY offset").fetchall()
    stored = [json.loads(payload)[1] for (payload,) in rows]
    assert set(visitor.acknowledged) - set(stored) == set()
    assert stored == sorted(set(stored))


async def is_closed_without_a_packet(visitor: Visitor) -> None:
    """A new connection is closed without CONNECT_ERROR and DISCONNECT, so the client will return."""
    for auth in ("", json.dumps({"pid": visitor.pid})):
        socket = await visitor.socket()
        await socket.send(f"40{auth}")
        assert await socket.rest() == []
