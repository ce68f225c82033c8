"""Proxies between a log and PostgreSQL: a proxy that cuts at an append, and PgBouncer."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.postgres import DEADLINE, Cluster
from support.proxies import Proxy, Streams

APPEND = b"CALL eventstore.append"


class Cutting(Proxy):
    """Forwards to a cluster; can end the connection in the middle of the next append."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(0)
        self._socket = str(cluster.folder / ".s.PGSQL.5432")
        self.cuts = 0
        """The number of cut appends."""
        self._cut_request = self._cut_answer = False
        self._is_appending = False

    def url_of(self, database: str) -> str:
        return self.url.replace("http://", "postgresql://tests@") + f"/{database}?sslmode=disable"

    def cut_next_request(self) -> None:
        """The next append does not arrive."""
        self._cut_request = True

    def cut_next_answer(self) -> None:
        """The next append is stored, and the answer does not arrive."""
        self._cut_answer = True

    async def _connect(self) -> Streams:
        return await asyncio.open_unix_connection(self._socket)

    async def _pass_on(self, data: bytes, target: asyncio.StreamWriter) -> None:
        if APPEND in data:
            self._is_appending = True
            if self._cut_request:
                self._cut_request = False
                self._cut()
                return
        await super()._pass_on(data, target)

    async def _pass_back(self, data: bytes, client: asyncio.StreamWriter) -> None:
        if self._is_appending:
            self._is_appending = False
            if self._cut_answer:
                self._cut_answer = False
                self._cut()
                return
        await Proxy._pass_on(self, data, client)

    def _cut(self) -> None:
        self.cuts += 1
        self._close()


class Freezing(Cutting):
    """Can stop to forward, on all connections and on new connections, without an end."""

    is_frozen = False

    async def _pass_on(self, data: bytes, target: asyncio.StreamWriter) -> None:
        if not self.is_frozen:
            await super()._pass_on(data, target)

    async def _pass_back(self, data: bytes, client: asyncio.StreamWriter) -> None:
        if not self.is_frozen:
            await super()._pass_back(data, client)


@contextmanager
def pgbouncer(cluster: Cluster) -> Iterator[Path]:
    """PgBouncer in transaction mode in front of a cluster; yields the folder of the socket.

    Without PgBouncer the test is skipped; in CI the test fails.
    """
    program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("pgbouncer is missing")
        pytest.skip("pgbouncer is missing")
    folder = cluster.folder / "pgbouncer"
    folder.mkdir()
    (folder / "users").write_text('"tests" ""\n')
    (folder / "settings").write_text(
        f"[databases]\n* = host={cluster.folder}\n[pgbouncer]\nlisten_addr =\nunix_socket_dir = {folder}\n"
        f"auth_type = trust\nauth_file = {folder}/users\npool_mode = transaction\n"
        f"server_login_retry = 1\nlogfile = {folder}/log\n"
    )
    cluster.give_away(folder)
    with cluster.spawn(program, str(folder / "settings")) as process:
        try:
            give_up = time.monotonic() + DEADLINE
            while not (folder / ".s.PGSQL.6432").exists():
                assert time.monotonic() < give_up and process.poll() is None, (folder / "log").read_text()
            yield folder
        finally:
            process.kill()
            process.wait(DEADLINE)
            shutil.rmtree(folder)
