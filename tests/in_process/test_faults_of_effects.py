"""A fault between the commit of an event and its effect: clients come back for the event, exactly once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from socketio_eventstore.core import effects_in_order, supervisor
from socketio_eventstore.core.recovery import RecoveryResult
from support.clients import Client, NodeClients
from support.embedded import Server, results, until


class FaultyEncoder:
    """Raises for an event of this name, so often, instead of encoding it."""

    def __init__(self, server_encoder: Any, name: str, times: int) -> None:
        self._encode = server_encoder.event
        self._start = f'["{name}"'
        self.times = times

    def event(self, namespace: str, payload: str, *more: Any) -> Any:
        if payload.startswith(self._start) and self.times:
            self.times -= 1
            raise ZeroDivisionError
        return self._encode(namespace, payload, *more)


async def fault(server: Server, monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> FaultyEncoder:
    encoder = (await server.manager.start()).encoder
    faulty = FaultyEncoder(encoder, name, times)
    monkeypatch.setattr(encoder, "event", faulty.event)
    return faulty


async def clients_of(server: Server, node: NodeClients, count: int) -> list[Client]:
    url = server.url.removesuffix("/socket.io/")
    clients = [await node.client(url) for _ in range(count)]
    for client in clients:
        await client.connected()
    return clients


async def test_event_comes_by_replay_after_a_fault(
    server: Server, node: NodeClients, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a fault in the effect the emit returns the offset, and clients get the event exactly once."""
    clients = await clients_of(server, node, 2)
    _, other = clients
    await server.sio.enter_room(other.sid, "elsewhere")
    expected = [await server.sio.emit("before")]
    for client in clients:
        await client.received("before")
    await fault(server, monkeypatch, "broken", times=1)
    expected.append(await server.sio.emit("broken"))
    expected += [await server.sio.emit("after", number) for number in range(3)]
    for client in clients:
        await client.recovered_again()
        await client.received("after", 3)
    expected.append(await server.sio.emit("live"))
    for client in clients:
        await client.received("live")
        assert [event.offset for event in client.events] == expected
        assert [event.name for event in client.events] == ["before", "broken", *["after"] * 3, "live"]
        assert len(client.connects) == 2
    assert caplog.text.count("could not take effect; its clients reconnect") == 1
    assert await results(server) == {RecoveryResult.RECOVERED: 2}


async def test_fault_concerns_the_recipients_alone(
    server: Server, node: NodeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault with an event for a room does not disturb the clients outside of the room."""
    member, other = await clients_of(server, node, 2)
    await server.sio.enter_room(member.sid, "room")
    await fault(server, monkeypatch, "broken", times=1)
    broken = await server.sio.emit("broken", to="room")
    after = await server.sio.emit("after")
    await member.recovered_again()
    await member.received("after")
    await other.received("after")
    assert [event.offset for event in member.events] == [broken, after]
    assert [event.offset for event in other.events] == [after]
    assert len(other.connects) == 1 and other.disconnects == []


async def test_event_that_can_never_be_encoded(
    server: Server, node: NodeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that can never be encoded does not loop: its reader gets a new session, and goes on."""
    (client,) = await clients_of(server, node, 1)
    sid = client.sid
    faulty = await fault(server, monkeypatch, "broken", times=1_000_000)
    assert isinstance(await server.sio.emit("broken"), str)
    await client.until(
        lambda: len(client.connects) > 1 and not client.connects[-1].recovered, "a new session"
    )
    after = await server.sio.emit("after")
    await client.received("after")
    assert client.sid != sid and [event.offset for event in client.events] == [after]
    assert (await results(server))[RecoveryResult.POISONED] == 1
    used = 1_000_000 - faulty.times
    assert used <= 4 and len(client.connects) <= 4  # live, and by replay


async def test_fault_between_two_effects(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault between the effects of a batch ends the connections that lack the rest of it."""
    runtime = await server.manager.start()
    client = await server.socket()
    pid = (await client.connect())["pid"]

    async def fault() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(supervisor, "RESTART_PAUSE_SECONDS", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(effects_in_order, "SLICE_BYTES", -1)
        patch.setattr(runtime.flush_schedule, "flush_and_yield", fault)
        emits = [asyncio.create_task(server.sio.emit("event", number)) for number in range(2)]
        outcomes = await asyncio.gather(*emits, return_exceptions=True)
    assert isinstance(outcomes[1], ZeroDivisionError)
    await until(lambda: not server.engine.sockets)
    again = await server.socket()
    assert (await again.connect(auth={"pid": pid}))["pid"] == pid
    assert [(await again.event())[1] for _ in range(2)] == [0, 1]
