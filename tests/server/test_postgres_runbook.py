"""The commands of ``docs/postgresql-runbook.md``, exactly, with a server, a client and a standby."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clients import NodeClients
from support.postgres import Cluster
from support.processes import ServerProcess

DOCUMENT = Path(__file__).parents[2] / "docs" / "postgresql-runbook.md"


def blocks() -> dict[str, list[str]]:
    """The blocks of commands of each section, by its title."""
    sections = re.split(r"^## (.+)\n", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    return {
        title: re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for title, text in zip(sections[::2], sections[1::2], strict=True)
    }


class Shell:
    """Runs commands in the folder of a server, beside the programs of PostgreSQL."""

    def __init__(self, folder: Path, primary: Cluster, standby: Cluster) -> None:
        self._folder, self._primary, self._standby = folder, primary, standby
        self.blocks = blocks()

    async def run(self, title: str, number: int = 0) -> str:
        """Run a block of a section; a command that fails fails the test. Return the output."""
        text = self.blocks[title][number].replace("--host=db2", f"--host={self._standby.folder}")
        path = os.pathsep.join([str(Path(sys.executable).parent), str(self._primary.bin), os.environ["PATH"]])
        environ = {"PATH": path, "PGHOST": str(self._primary.folder), "PGUSER": "tests"}
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-e", "-c", text],
            cwd=self._folder,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def primary() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        cluster.start(fsync="on")
        cluster.sql("postgres", "CREATE DATABASE events")
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def standby(primary: Cluster) -> Iterator[Cluster]:
    standby = primary.standby()
    try:
        standby.start(fsync="on")
        yield standby
    finally:
        standby.remove()


@pytest.fixture
def server(primary: Cluster, standby: Cluster, tmp_path: Path) -> Iterator[ServerProcess]:
    store = {"path": "data/events.db", "url": primary.url("events", standby)}
    with ServerProcess(tmp_path, {"store": store}) as server:
        yield server


@pytest.mark.timeout(240)
async def test_runbook(server: ServerProcess, primary: Cluster, standby: Cluster, node: NodeClients) -> None:
    """A restored backup refuses clients from beyond it; a promoted synchronous standby has lost nothing."""
    shell = Shell(server.folder, primary, standby)
    publisher = await node.control(server.url)
    client = await node.client(server.url)
    first = await client.connected()
    await client.call("join", "room")
    await publisher.call("publish", {"name": "before", "to": "room"})
    await client.received("before")
    await shell.run("Back up")
    assert "successfully verified" in await shell.run("Back up", 1)
    await publisher.call("publish", {"name": "after", "to": "room"})
    await client.received("after")

    server.terminate()
    assert "events on" in await shell.run("Restore")
    await asyncio.to_thread(server.start)
    again = await client.reconnected()
    assert not again.recovered and again.sid != first.sid, "its offset is from beyond the backup"
    assert "rolled_back" in server.log
    await shell.run("Restore", 1)
    assert primary.sql("events", "SELECT event FROM eventstore.events") == "before\n"

    await shell.run("Keep a synchronous standby")
    setting = "SELECT 'set' WHERE current_setting('synchronous_standby_names') <> ''"
    await asyncio.to_thread(primary.until, "events", setting)
    await asyncio.to_thread(standby.until_caught_up_with, primary)
    await client.call("join", "room")
    await publisher.connected()
    last = await publisher.call("publish", {"name": "replicated", "to": "room"})
    await client.received("replicated")
    await asyncio.to_thread(primary.stop)
    assert "is sound" in await shell.run("Promote a standby")
    await publisher.pump("publish", {"name": "promoted", "to": "room"}, window=1)
    assert (await client.received("replicated"))[0].offset == last
    await client.received("promoted")
    assert all(connect.recovered for connect in client.connects[2:]), client.story()
    assert "replicated" in standby.sql("events", "SELECT event FROM eventstore.events")


def test_alerts_name_metrics() -> None:
    """Each metric in an expression is documented."""
    alerts = DOCUMENT.read_text().partition("## Alerts")[2].partition("\n## ")[0]
    expressions = [line.split("|")[2] for line in alerts.splitlines() if line.startswith("| ")][1:]
    documented = set(
        re.findall(r"^\| `(\w+)` \|", (DOCUMENT.parent / "monitoring.md").read_text(), re.MULTILINE)
    )
    for text in expressions:
        (expression,) = re.findall(r"`(.+)`", text)
        bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", "", expression)
        names = set(re.findall(r"[a-z]\w*", bare)) - {
            "min",
            "max",
            "count",
            "rate",
            "increase",
            "histogram_quantile",
        }
        assert names and {name.removesuffix("_bucket") for name in names} <= documented, text
