"""Redaction, backup and restore of a busy server: every official client is told the truth."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from support.clients import Client, NodeClients
from support.command_line import run
from support.processes import ServerProcess


async def command(server: ServerProcess, *arguments: str) -> str:
    """The output of a command that succeeds, while the clients go on."""
    done = await asyncio.to_thread(run, server.folder, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


async def connected(node: NodeClients, server: ServerProcess, namespace: str = "") -> Client:
    client = await node.client(server.url, namespace, reconnection=False)
    await client.connected()
    return client


async def test_truth_after_a_restore(tmp_path: Path, node: NodeClients) -> None:
    """A backup under load, kill -9, restore: who has seen the lost future starts anew, nobody else.

    Who was away before the backup recovers what it missed, a redacted event in the place of the original.
    """
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url, reconnection=False)
        behind, ahead, quiet = [await connected(node, server, namespace) for namespace in ("", "", "/other")]
        await behind.call("join", "room")
        await behind.close()
        offset = await control.call("publish", {"name": "personal", "to": "room", "args": ["Ann"]})
        await control.call("publish", {"name": "later", "to": "room"})
        assert f"offset {offset} is 'redacted'" in await command(server, "redact", offset, '"gone"')

        is_over = asyncio.Event()

        async def load() -> None:
            while not is_over.is_set():
                await control.call("publish", {"name": "load", "to": "nobody"})

        loading = asyncio.create_task(load())
        backup = json.loads(await command(server, "backup", "copy.db", "--json"))
        is_over.set()
        await loading
        await control.call("publish", {"name": "lost future"})
        await ahead.received("lost future")
        server.kill()
        restored = json.loads(await command(server, "restore", "copy.db", "--json"))
        assert restored["head"] == backup["head"] > 2
        assert restored["replaced"] == f"{server.database}-replaced"
        assert json.loads(await command(server, "check-store", "--json"))["is_sound"]
        await command(server, "emit", "offline", "--room", "room")  # no server runs
        await asyncio.to_thread(server.start)

        for client in (behind, ahead, quiet):
            await client.gone()
            await client.connect()
        await behind.recovered_again()
        await behind.until(lambda: len(behind.events) == 3, "the missed events")
        assert [event.name for event in behind.events] == ["redacted", "later", "offline"]
        assert behind.events[0].args == ["gone", offset]
        assert not (await ahead.reconnected()).recovered
        assert f"reconnection of {ahead.sid}" not in server.log and ": rolled_back\n" in server.log
        await quiet.recovered_again()
        assert server.log.count(": rolled_back\n") == 1
