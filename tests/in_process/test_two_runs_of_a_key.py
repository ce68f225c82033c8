"""Two runs of a handler with one idempotency key at once, as on two servers: one of them counts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from socketio_eventlog.sqlite.log import EventLog
from support.core import texts
from support.embedded import Seen, serving


async def test_second_run_gets_the_first_answer(path: Path) -> None:
    """The second run of a key is not stored, and its client gets the acknowledgement of the first run."""
    runs, may_go = Seen(), [asyncio.Event(), asyncio.Event()]

    def register(sio: Any) -> None:
        @sio.exactly_once("order")  # type: ignore[untyped-decorator]  # python-socketio is not typed
        async def order(sid: str, _key: str) -> int:
            number = len(runs.all)
            runs(sid)
            await may_go[number].wait()
            await sio.emit("ordered", number)
            return number

    async with serving(path, register=register) as server:
        clients = [await server.client(), await server.client()]
        for number, client in enumerate(clients):
            await client.send('427["order","key"]')
            await runs.until(number + 1)
            server.sio._exactly_once._running.clear()  # as another server does not know of the run
        may_go[1].set()
        assert (await clients[1].event())[:2] == ["ordered", 1]
        assert await clients[1].packet() == "437[1]"
        may_go[0].set()
        assert (await clients[0].event())[:2] == ["ordered", 1]
        assert await clients[0].packet() == "437[1]"
        # And a repeat of the client.
        await clients[0].send('428["order","key"]')
        assert await clients[0].packet() == "438[1]"
        log = (await server.manager.start()).log
        assert isinstance(log, EventLog)
        assert await texts(log) == ['["ordered",1]'] and len(runs.all) == 2
