"""Calls from another thread, whose event loop is not the server's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from support.embedded import Server, packets_until_marker, serving

CALLS: dict[str, Callable[[Any, str], Coroutine[Any, Any, Any]]] = {
    "emit": lambda sio, _: sio.emit("x"),
    "emit volatile": lambda sio, _: sio.emit("x", volatile=True),
    "emit with callback": lambda sio, _: sio.emit("x", callback=print),
    "send": lambda sio, _: sio.send("x"),
    "call": lambda sio, sid: sio.call("x", to=sid),
    "enter_room": lambda sio, sid: sio.enter_room(sid, "room"),
    "leave_room": lambda sio, sid: sio.leave_room(sid, "room"),
    "close_room": lambda sio, _: sio.close_room("room"),
    "save_session": lambda sio, sid: sio.save_session(sid, {"a": 1}),
    "bind": lambda sio, sid: sio.bind(sid, "ann"),
    "disconnect": lambda sio, sid: sio.disconnect(sid),
    "revoke": lambda sio, sid: sio.revoke(sid),
    "revoke_identity": lambda sio, _: sio.revoke_identity("ann"),
    "start": lambda sio, _: sio.start(),
    "shutdown": lambda sio, _: sio.shutdown(),
}


@pytest.mark.parametrize("enabled", [True, False], ids=["", "disabled"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_call_from_another_loop_raises_at_once(
    path: Path, call: Callable[[Any, str], Coroutine[Any, Any, Any]], enabled: bool
) -> None:
    """A call on the loop of another thread raises at once, and changes nothing."""
    async with serving(path if enabled else None) as server:
        client = await server.client()
        with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(lambda: asyncio.run(call(server.sio, client.sid)))
        assert server.sio.rooms(client.sid) == [client.sid]
        assert await server.sio.get_session(client.sid) == {}
        if enabled:
            assert await packets_until_marker(server, client) == [[]]


async def test_threads_read_and_call_threadsafe(server: Server) -> None:
    """A thread can read, and can call through the server's loop."""
    client, loop = await server.client(), asyncio.get_running_loop()
    await server.sio.save_session(client.sid, {"a": 1})

    def work() -> Any:
        asyncio.run_coroutine_threadsafe(server.sio.emit("x"), loop).result(10)
        return asyncio.run(server.sio.get_session(client.sid)), server.sio.rooms(client.sid)

    assert await asyncio.to_thread(work) == ({"a": 1}, [client.sid])
    assert (await client.event())[0] == "x"
