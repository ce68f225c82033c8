"""The number of claims of a session, which tells the last connection from all former ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from support.clients import NodeClients
from support.polling import RawPolling, rest
from support.processes import ServerProcess
from support.storing import sqlite


def claim_of(server: ServerProcess, sid: str) -> int:
    """The number of claims, as the sqlite3 program reads it while the server runs."""
    return int(sqlite(server.database, f"SELECT claim FROM sessions WHERE sid = '{sid}'"))


@pytest.mark.parametrize("crash", [True, False], ids=["kill -9", "graceful"])
async def test_claims_are_counted_over_restarts(tmp_path: Path, node: NodeClients, crash: bool) -> None:
    """Each connection of a client is a claim with a new number, also after restarts of the server."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False)
        sid = (await client.connected()).sid
        assert claim_of(server, sid) == 1
        number = 1
        for restart in (False, True, True, False):
            await client.cut()
            if restart:
                await asyncio.to_thread(server.kill if crash else server.terminate)
                await asyncio.to_thread(server.start)
                await control.reconnected()
            await client.connect()
            await client.recovered_again()
            number += 1
            assert claim_of(server, sid) == number


async def test_former_connection_ends_with_the_decision(
    tmp_path: Path, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """A former connection gets a DISCONNECT when the claim is accepted, and none when it is refused."""
    with ServerProcess(tmp_path) as server:
        accepted, refused = RawPolling(http, server.url), RawPolling(http, server.url)
        sessions = [await accepted.connect(), await refused.connect()]
        again = RawPolling(http, server.url)
        assert await again.connect(auth={"pid": sessions[0]["pid"]}) == sessions[0]
        assert await accepted.packet() == "41"
        intruder = await node.client(
            server.url, reconnection=False, auth={"pid": sessions[1]["pid"], "refuse": "stolen"}
        )
        await intruder.refused()
        assert "41" not in await rest(refused)
        assert [claim_of(server, session["sid"]) for session in sessions] == [2, 2]
        back = RawPolling(http, server.url)
        assert await back.connect(auth={"pid": sessions[1]["pid"]}) == sessions[1]
        assert claim_of(server, sessions[1]["sid"]) == 3
