"""Acknowledgements that never come: bounded per session, and taken back after a timeout."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import pytest
from socketio import exceptions

from socketio_eventstore.adapter.acknowledgements import CALLBACKS_PER_SESSION
from support.embedded import Seen, Server


async def test_silent_clients(server: Server) -> None:
    """The callbacks of silent clients are bounded for each of them."""
    silent = [await server.client() for _ in range(3)]
    for number in range(CALLBACKS_PER_SESSION + 200):
        await server.sio.emit("question", number, callback=lambda *_: None)
    assert [len(server.manager.callbacks[client.sid]) for client in silent] == [CALLBACKS_PER_SESSION] * 3


async def test_newest_callbacks_stay(server: Server) -> None:
    """Beyond the limit the oldest callback goes, and the newest is called."""
    seen = Seen()
    client = await server.client()
    for number in range(CALLBACKS_PER_SESSION + 1):
        await server.sio.emit("question", to=client.sid, callback=partial(seen, number))
    ids = []
    for _ in range(CALLBACKS_PER_SESSION + 1):
        packet = str(await client.packet())
        ids.append(packet[2 : packet.index("[")])
    for ack_id in (ids[0], ids[1], ids[-1]):
        await client.send(f"43{ack_id}[0]")
    assert await seen.until(2) == [(1, 0), (CALLBACKS_PER_SESSION, 0)]


async def test_call_that_times_out(server: Server) -> None:
    """A call that times out, or is cancelled, leaves no callback."""
    client = await server.client()
    with pytest.raises(exceptions.TimeoutError):
        await server.sio.call("question", to=client.sid, timeout=0.05)
    assert client.sid not in server.manager.callbacks
    call = asyncio.create_task(server.sio.call("question", to=client.sid))
    await client.packet()
    await client.packet()
    assert len(server.manager.callbacks[client.sid]) == 1
    call.cancel()
    await asyncio.wait([call])
    assert client.sid not in server.manager.callbacks


async def test_call_returns_the_acknowledgement(server: Server) -> None:
    """A call returns the acknowledgement, beside an emit with a callback."""
    client, seen = await server.client(), Seen()
    await server.sio.emit("other", to=client.sid, callback=seen)
    other = str(await client.packet())
    call = asyncio.create_task(server.sio.call("question", {"a": 1}, to=client.sid))
    packet = str(await client.packet())
    start = packet.index("[")
    assert json.loads(packet[start:]) == ["question", {"a": 1}]
    await client.send(f"43{packet[2:start]}[7]")
    assert await call == 7
    await client.send(f"43{other[2 : other.index('[')]}[8]")
    assert await seen.until(1) == [8]
