"""Disks that are full, files that are damaged, programs that interfere: each tried for real.

Whatever happens, the server says what is wrong, serves what it can, loses nothing that it acknowledged,
tells no client to stay away, and recovers by itself when the cause goes away.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import aiohttp
import pytest
from processes import DEADLINE, ServerProcess
from storing import opened, python
from test_transport import Socket

HANDLERS = """
from socketio_eventstore.store.errors import StoreError

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
    # Heartbeats are the clock of these tests: while a condition is waited for, they keep coming.
    "server": {"ping_interval": 0.1},
    "store": {"prune_interval": 0.2},
}


class Faulty(ServerProcess):
    """A server that something happens to."""

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
        """Try to start it, in vain; what it says, in one line, with the code for that."""
        done = subprocess.run(
            self.command(), cwd=self.folder, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        lines = [line for line in done.stderr.splitlines() if not line.startswith("20")]
        assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
        assert len(lines) == 1 and lines[0].startswith("socketio-eventstore: "), done.stderr
        return lines[0]


class Visitor:
    """A client that comes back, and one that publishes; what was acknowledged must have arrived."""

    def __init__(self, server: Faulty, http: aiohttp.ClientSession) -> None:
        self.server = server
        self._http = http
        self.acknowledged: list[int] = []
        self.received: list[int] = []
        self.pid: str | None = None
        self.offset: str | None = None
        self._number = 0

    async def socket(self) -> Socket:
        url = f"{self.server.url}/socket.io/?EIO=4&transport=websocket"
        socket = Socket(await self._http.ws_connect(url, max_msg_size=0))
        handshake = await socket.raw_packet()
        assert isinstance(handshake, str) and handshake.startswith("0")
        return socket

    async def arrive(self) -> None:
        """Both connect, for the first time or again."""
        await self.take_control()
        await self.come_back()

    async def take_control(self) -> None:
        """The one that publishes connects, and one that has nothing but heartbeats."""
        self.control, self._clock = await self.socket(), await self.socket()
        await self.control.connect("/control")

    async def come_back(self) -> bool:
        """The client connects; whether its session was recovered."""
        self.client = await self.socket()
        auth = {key: value for key, value in (("pid", self.pid), ("offset", self.offset)) if value}
        answer = await self.client.connect(auth=auth)
        former, self.pid = self.pid, answer["pid"]
        return former == self.pid

    async def publish(self, size: int = 0) -> str | None:
        """Publish the next number; returns why that was not possible."""
        self._number += 1
        (answer,) = await self.control.call("publish", self._number, size, namespace="/control")
        if "offset" in answer:
            self.acknowledged.append(self._number)
            return None
        error: str = answer["error"]
        return error

    async def publish_until_it_fails(self, size: int, at_most: int = 500) -> str:
        for _ in range(at_most):
            if (error := await self.publish(size)) is not None:
                return error
        raise AssertionError(f"{at_most} events of {size} bytes could be stored")

    async def publish_until_it_works(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while await self.publish() is not None:
                pass

    async def collect(self) -> None:
        """The client has received what was acknowledged, in order, and nothing else."""
        while len(self.received) < len(self.acknowledged):
            name, number, _, self.offset = await self.client.event()
            assert name == "numbered"
            self.received.append(number)
        assert self.received == self.acknowledged

    async def log_says(self, text: str) -> None:
        """Waits, heartbeat by heartbeat."""
        async with asyncio.timeout(DEADLINE):
            while text not in self.server.log:
                await self.beat()

    async def beat(self) -> None:
        packet = await self._clock.raw_packet()
        assert packet == "2", packet
        await self._clock.send("3")


@pytest.fixture
def server(tmp_path: Path) -> Faulty:
    return make_server(tmp_path)


def make_server(tmp_path: Path, **config: dict[str, object]) -> Faulty:
    handlers = tmp_path / "handlers_of_faults.py"
    handlers.write_text(HANDLERS)
    folder = tmp_path / "server"
    folder.mkdir()
    return Faulty(folder, {**CONFIG, **config}, handlers)


@asynccontextmanager
async def visiting(server: Faulty, http: aiohttp.ClientSession) -> AsyncIterator[Visitor]:
    with server:
        visitor = Visitor(server, http)
        await visitor.arrive()
        yield visitor


async def leaves_a_healthy_database(server: Faulty, visitor: Visitor) -> None:
    """After a restart everything that was acknowledged is there, and the client recovers."""
    await asyncio.to_thread(server.restart)
    await visitor.arrive()
    await visitor.publish_until_it_works()
    await visitor.collect()
    with closing(sqlite3.connect(server.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute("SELECT payload FROM events ORDER BY offset").fetchall()
    stored = [json.loads(payload)[1] for (payload,) in rows]
    assert set(visitor.acknowledged) - set(stored) == set()
    assert stored == sorted(set(stored))


async def is_turned_away_without_a_word(visitor: Visitor) -> None:
    """Who comes now finds a closed transport, and neither CONNECT_ERROR nor DISCONNECT: it will return."""
    for auth in ("", json.dumps({"pid": visitor.pid})):
        socket = await visitor.socket()
        await socket.send(f"40{auth}")
        assert await socket.rest() == []


# No room --------------------------------------------------------------------------------------------


async def test_a_file_that_may_not_grow_stops_emits_and_nothing_else(
    server: Faulty, http: aiohttp.ClientSession
) -> None:
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (server.wal.stat().st_size + 200_000, hard))
        for size in (50_000, 0):  # until there is no room for anything
            assert "cannot be written" in await visitor.publish_until_it_fails(size)
        await visitor.collect()
        await is_turned_away_without_a_word(visitor)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
        # The attempt to take its session over cost the client its transport, as every attempt may.
        assert await visitor.client.rest() == []
        assert await visitor.come_back()
        await visitor.publish_until_it_works()
        await visitor.collect()
        await leaves_a_healthy_database(server, visitor)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder))
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here (it takes root, and not in every container)")
    try:
        yield
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True)


async def test_a_full_disk_stops_emits_and_when_there_is_room_again_they_work(
    server: Faulty, http: aiohttp.ClientSession
) -> None:
    with small_disk(server.database.parent):
        async with visiting(server, http) as visitor:
            assert await visitor.publish() is None
            ballast = server.database.with_name("ballast")
            with pytest.raises(OSError, match="No space"):
                ballast.write_bytes(bytes(2_000_000))
            for size in (20_000, 0):
                assert "full" in await visitor.publish_until_it_fails(size)
            await visitor.collect()
            await is_turned_away_without_a_word(visitor)
            ballast.unlink()
            assert await visitor.client.rest() == []
            assert await visitor.come_back()
            await visitor.publish_until_it_works()
            await visitor.collect()
            await leaves_a_healthy_database(server, visitor)


async def test_a_file_that_becomes_immutable_under_the_server_is_reported_and_recovered_from(
    server: Faulty, http: aiohttp.ClientSession
) -> None:
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        await visitor.collect()

        def make(flag: str) -> bool:
            command = ("chattr", flag, str(server.wal))
            return (
                shutil.which("chattr") is not None
                and not subprocess.run(command, capture_output=True, check=False).returncode
            )

        if not make("+i"):
            pytest.skip("chattr +i does not work here (it takes root and a file system that has it)")
        try:
            error = await visitor.publish()
        finally:
            assert make("-i")
        if error is None:
            pytest.skip("this file system lets an immutable file be written that was open before")
        assert "cannot be written" in error
        await visitor.publish_until_it_works()
        await visitor.collect()
        await leaves_a_healthy_database(server, visitor)


# Not allowed to write -------------------------------------------------------------------------------

OBEDIENT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER; 24: PR_CAPBSET_DROP
    if os.geteuid() == 0 and libc.prctl(24, capability, 0, 0, 0):
        sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Root may write what it likes, unless it gives that up."""


@pytest.fixture
def obedient(server: Faulty) -> Faulty:
    prefix = (sys.executable, "-c", OBEDIENT)
    probe = server.folder / "probe"
    probe.touch(mode=0o400)
    code = f"open({str(probe)!r}, 'r+')"
    done = subprocess.run((*prefix, sys.executable, "-c", code), capture_output=True, check=False)
    if b"PermissionError" not in done.stderr:
        pytest.skip("root cannot give up its rights here")
    server.prefix = prefix
    return server


def test_a_database_that_is_read_only_is_refused_at_the_start(obedient: Faulty) -> None:
    with obedient:
        obedient.terminate()
    before = obedient.database.read_bytes()
    obedient.database.chmod(0o400)
    assert str(obedient.database) in obedient.refusal()
    assert obedient.database.read_bytes() == before
    obedient.database.chmod(0o600)
    obedient.start()
    obedient.terminate()


@pytest.mark.parametrize("is_there", [True, False], ids=["with a database", "without a database"])
def test_a_folder_that_is_read_only_is_refused_at_the_start(obedient: Faulty, is_there: bool) -> None:
    folder = obedient.database.parent
    if is_there:
        with obedient:
            obedient.terminate()
    else:
        folder.mkdir()
    folder.chmod(0o500)
    try:
        assert str(obedient.database) in obedient.refusal()
    finally:
        folder.chmod(0o700)
    obedient.start()
    obedient.terminate()


# Damage ---------------------------------------------------------------------------------------------


def overwrite(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "another header": lambda path: overwrite(path, 0, b"not a database any more"),
    "half of it": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a part of its first page": lambda path: os.truncate(path, 700),
    "ones in the schema": lambda path: overwrite(path, 100, b"\xff" * 3_000),
    "ones from the second page on": lambda path: overwrite(
        path, 4096, b"\xff" * (path.stat().st_size - 4096)
    ),
}


async def test_a_damaged_database_is_refused_at_the_start_in_one_line(
    server: Faulty, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with visiting(server, http) as visitor:
        for _ in range(20):
            assert await visitor.publish(size=2_000) is None
        server.terminate()
    healthy = shutil.copy(server.database, tmp_path / "healthy.db")
    for damage in DAMAGES.values():
        shutil.copy(healthy, server.database)
        damage(server.database)
        said = await asyncio.to_thread(server.refusal)
        assert str(server.database) in said
        assert "malformed" in said or "not a database" in said
    shutil.copy(healthy, server.database)
    server.start()
    assert await reconnects(visitor)
    server.terminate()


async def reconnects(visitor: Visitor) -> bool:
    recovered = await visitor.come_back()
    await visitor.collect()
    return recovered


RUNNING_DAMAGES = ["another header", "half of it", "ones from the second page on"]


@pytest.mark.parametrize("damage", [DAMAGES[name] for name in RUNNING_DAMAGES], ids=RUNNING_DAMAGES)
async def test_damage_under_a_running_server_is_said_clearly_and_does_not_end_it(
    server: Faulty, http: aiohttp.ClientSession, damage: Callable[[Path], None]
) -> None:
    async with visiting(server, http) as visitor:
        for _ in range(300):  # more than the cache and the WAL hide
            assert await visitor.publish(size=20_000) is None
        await visitor.collect()
        damage(server.database)
        errors = [error for _ in range(20) if (error := await visitor.publish(size=2_000)) is not None]
        assert all("event store" in error and "\n" not in error for error in errors)
        await visitor.collect()
        # Whoever is away may or may not be recovered now, but is never told half.
        await visitor.client.leave()
        socket = await visitor.socket()
        await socket.send("40" + json.dumps({"pid": visitor.pid, "offset": visitor.offset}))
        packet = await socket.packet()
        assert packet is None or (isinstance(packet, str) and packet.startswith("40{"))
        async with http.get(f"{server.url}/healthz") as response:
            assert response.status == 200


# Other programs -------------------------------------------------------------------------------------


async def test_emits_wait_for_a_foreign_writer_and_all_arrive_in_order(
    server: Faulty, http: aiohttp.ClientSession
) -> None:
    async with visiting(server, http) as visitor:
        with closing(sqlite3.connect(server.database, isolation_level=None)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
            for number in range(1, 31):
                await visitor.control.send(f'42/control,{number}["publish",{number}]')
            await visitor.log_says("Trying again")
            foreign.execute("ROLLBACK")
        for number in range(1, 31):
            answer = await visitor.control.packet()
            assert isinstance(answer, str) and answer.startswith(f'43/control,{number}[{{"offset":')
            visitor.acknowledged.append(number)
        visitor._number = 30
        await visitor.collect()
        await leaves_a_healthy_database(server, visitor)


async def test_a_client_that_goes_and_returns_while_the_database_is_locked_is_recovered(
    server: Faulty, http: aiohttp.ClientSession
) -> None:
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        await visitor.collect()
        with closing(sqlite3.connect(server.database, isolation_level=None)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
            await visitor.client.leave()
            coming = asyncio.create_task(visitor.come_back())
            await visitor.log_says("Trying again")
            foreign.execute("ROLLBACK")
        assert await coming
        assert await visitor.publish() is None
        await visitor.collect()


async def test_a_database_that_is_deleted_under_the_server_is_noticed_and_nothing_is_acknowledged_any_more(
    server: Faulty, http: aiohttp.ClientSession
) -> None:
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        for file in server.database.parent.iterdir():
            file.unlink()
        await visitor.log_says("was deleted or replaced while the server was running")
        error = await visitor.publish()
        assert error is not None and "deleted or replaced" in error and str(server.database) in error
        await is_turned_away_without_a_word(visitor)
        await asyncio.to_thread(server.restart)
        await visitor.take_control()
        assert not await visitor.come_back()  # another history, and nobody says that it is the same
        await visitor.publish_until_it_works()


async def test_a_vacuum_of_another_program_under_load_harms_nothing(
    server: Faulty, http: aiohttp.ClientSession
) -> None:
    async with visiting(server, http) as visitor:
        program = python(VACUUMS, server.database)
        while program.poll() is None or len(visitor.acknowledged) < 100:
            assert await visitor.publish(size=1_000) is None
        assert program.communicate()[0] == "" and program.returncode == 0
        await visitor.collect()
        await leaves_a_healthy_database(server, visitor)


VACUUMS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for _ in range(10):
    connection.execute("VACUUM")
"""


async def test_a_foreign_reader_lets_the_wal_grow_and_after_it_the_wal_is_cut(
    server: Faulty, http: aiohttp.ClientSession
) -> None:
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        with closing(sqlite3.connect(server.database, isolation_level=None)) as foreign:
            foreign.execute("BEGIN")
            assert foreign.execute("SELECT count(*) FROM events").fetchone() == (1,)
            for _ in range(20):
                assert await visitor.publish(size=900_000) is None
                await visitor.collect()
            grown = server.wal.stat().st_size
            assert grown > 15_000_000
            assert foreign.execute("SELECT count(*) FROM events").fetchone() == (1,)
            foreign.execute("COMMIT")
        for _ in range(10):
            assert await visitor.publish(size=900_000) is None
            await visitor.collect()
        assert server.wal.stat().st_size <= 8_000_000


async def test_a_backup_of_the_running_server_has_all_that_was_acknowledged_before_it(
    server: Faulty, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"
    async with visiting(server, http) as visitor:
        for _ in range(20):
            assert await visitor.publish() is None
        await visitor.collect()
        taken = len(visitor.acknowledged)
        program = python(BACKS_UP, server.database, backup)
        while program.poll() is None:
            assert await visitor.publish() is None
        assert program.communicate()[0] == "" and program.returncode == 0
        offset = visitor.offset
        await visitor.collect()
    assert offset is not None
    async with opened(backup) as log:
        assert log.locate(offset).number == taken
        assert log.head >= taken and len(await log.read(range(1, log.head + 1))) == log.head
        assert [row.namespace for row in await log.load_sessions()].count("/") == 1


BACKS_UP = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("VACUUM INTO ?", (sys.argv[2],))
"""


# Faults of the application --------------------------------------------------------------------------


async def test_a_session_that_has_expired_is_not_recovered_later_without_what_was_pruned(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """Its end cannot be stored, since the handler of session_expired fails; the events are pruned."""
    server = make_server(tmp_path, connection_state_recovery={"max_disconnection_duration": 0.5})
    visitor = Visitor(server, http)
    server.start()
    try:
        await visitor.arrive()
        assert await visitor.publish() is None
        await visitor.collect()
        await asyncio.to_thread(server.restart)  # a crash leaves the session open
        await visitor.take_control()
        assert await visitor.publish() is None
        await visitor.log_says("has expired but could not be ended")
        with closing(sqlite3.connect(server.database)) as connection:
            query = "SELECT pruned_through FROM log_state"
            async with asyncio.timeout(DEADLINE):
                while connection.execute(query).fetchone() != (2,):
                    # Nothing is pruned before the others have confirmed it, by their heartbeats.
                    assert await visitor.control.raw_packet() == "2"
                    await visitor.control.send("3")
        await asyncio.to_thread(server.restart)
        assert not await visitor.come_back(), "recovered, although the second event is gone"
    finally:
        server.kill()
