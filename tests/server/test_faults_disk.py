"""Disks that are full, files that may not be written or are damaged: each tried for real.

In every case the server reports the fault, serves the reads that are possible, loses no acknowledged
event, sends no DISCONNECT, and recovers by itself when the cause is removed.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from support.visitor import (
    Faulty,
    Visitor,
    is_closed_without_a_packet,
    leaves_a_healthy_database,
    make_server,
    visiting,
)


@pytest.fixture
def server(tmp_path: Path) -> Faulty:
    return make_server(tmp_path)


# No room --------------------------------------------------------------------------------------------


async def test_file_size_limit_stops_emits_only(server: Faulty, http: aiohttp.ClientSession) -> None:
    """A file that may not grow stops emits, and nothing else."""
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (server.wal.stat().st_size + 200_000, hard))
        for size in (50_000, 0):  # until there is no room for anything
            assert "cannot be written" in await visitor.publish_until_failure(size)
        await visitor.receive_acknowledged()
        await is_closed_without_a_packet(visitor)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
        # The takeover was not stored, so the client has kept its session and its transport.
        await visitor.publish_until_success()
        await visitor.receive_acknowledged()
        assert await visitor.come_back()
        await visitor.publish_until_success()
        await visitor.receive_acknowledged()
        await leaves_a_healthy_database(server, visitor)


@pytest.fixture
def server_on_disk() -> Iterator[Faulty]:
    """A server beyond the folder for temporary files, which may be in memory and know no immutable files."""
    with tempfile.TemporaryDirectory(prefix="eventstore-", dir="/var/tmp") as folder:
        yield make_server(Path(folder))


async def test_file_that_becomes_immutable_is_reported(
    server_on_disk: Faulty, http: aiohttp.ClientSession
) -> None:
    """A file that becomes immutable is reported, and later emits succeed."""
    server = server_on_disk
    async with visiting(server, http) as visitor:
        assert await visitor.publish() is None
        await visitor.receive_acknowledged()

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
        assert error is None or "cannot be written" in error
        await visitor.publish_until_success()
        await visitor.receive_acknowledged()
        await leaves_a_healthy_database(server, visitor)
    if error is None:
        pytest.skip("this file system lets an immutable file be written that was open before")


# Not allowed to write -------------------------------------------------------------------------------


OBEDIENT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER; 24: PR_CAPBSET_DROP
    if os.geteuid() == 0 and libc.prctl(24, capability, 0, 0, 0):
        sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Drops the capabilities that let root write to every file, then runs a program."""


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


def test_read_only_database_is_refused_at_start(obedient: Faulty) -> None:
    """A read-only database is refused at start."""
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
def test_read_only_folder_is_refused_at_start(obedient: Faulty, is_there: bool) -> None:
    """A read-only folder is refused at start."""
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


async def test_damaged_database_is_refused_at_start(
    server: Faulty, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A damaged database is refused at start, with an error of one line."""
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
    await visitor.receive_acknowledged()
    return recovered


RUNNING_DAMAGES = ["another header", "half of it", "ones from the second page on"]


@pytest.mark.parametrize("damage", [DAMAGES[name] for name in RUNNING_DAMAGES], ids=RUNNING_DAMAGES)
async def test_damage_does_not_end_a_running_server(
    server: Faulty, http: aiohttp.ClientSession, damage: Callable[[Path], None]
) -> None:
    """Damage under a running server is reported clearly and does not end the server."""
    async with visiting(server, http) as visitor:
        for _ in range(300):  # more than the cache and the WAL hide
            assert await visitor.publish(size=20_000) is None
        await visitor.receive_acknowledged()
        damage(server.database)
        errors = [error for _ in range(20) if (error := await visitor.publish(size=2_000)) is not None]
        assert all("event store" in error and "\n" not in error for error in errors)
        await visitor.receive_acknowledged()
        # An away session may or may not be recovered now, but never in part.
        await visitor.client.leave()
        socket = await visitor.socket()
        await socket.send("40" + json.dumps({"pid": visitor.pid, "offset": visitor.offset}))
        packet = await socket.packet()
        assert packet is None or (isinstance(packet, str) and packet.startswith("40{"))
        async with http.get(f"{server.url}/healthz") as response:
            assert response.status == 200
