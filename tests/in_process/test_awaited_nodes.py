"""The nodes whose disconnect handlers a connect handler waits for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from socketio_eventstore.adapter import departure_barrier
from support.embedded import Seen
from support.in_process_nodes import NodeLog, nodes
from support.processes import DEADLINE


async def test_node_with_connections_again_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that had no connection to the store for a while runs handlers, and is waited for again."""
    calls, may_end, ended = Seen(), asyncio.Event(), set[str]()

    async def may_live(log: NodeLog, node: str) -> bool:
        return node not in ended

    def register(sio: Any) -> None:
        async def disconnected(sid: str, reason: str) -> None:
            calls("disconnect begins", sid)
            await may_end.wait()
            calls("disconnect ends", sid)

        sio.on("connect", lambda sid, environ: calls("connect", sid))
        sio.on("disconnect", disconnected)

    monkeypatch.setattr(departure_barrier, "DEPARTURE_TIMEOUT_SECONDS", 10 * DEADLINE)
    monkeypatch.setattr(NodeLog, "may_live", may_live)
    async with nodes(monkeypatch, register) as two:
        a, b = two.servers
        first, second = [await (await a.socket()).connect() for _ in range(2)]
        await two.until_applied()
        ended.add(two.log(0).node)
        assert (await (await b.socket()).connect(auth={"pid": first["pid"]}))["sid"] == first["sid"]
        ended.clear()
        await two.pass_time(1.0)  # with heartbeats
        await two.until_applied()
        connecting = asyncio.create_task((await b.socket()).connect(auth={"pid": second["pid"]}))
        await calls.until(5)
        may_end.set()
        await connecting
        assert [name for name, sid in calls.all if sid == second["sid"]] == [
            "connect",
            "disconnect begins",
            "disconnect ends",
            "connect",
        ]
