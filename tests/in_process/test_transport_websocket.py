from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from socketio_eventstore.transport import upgrade
from support.embedded import Seen, Server, Socket, poll_is_open, serving
from support.hostile import GARBAGE

# WebSocket ------------------------------------------------------------------------------------------


async def test_compression_is_declined(server: Server) -> None:
    query = {"EIO": "4", "transport": "websocket"}
    async with server.http.ws_connect(server.url, params=query, compress=15) as websocket:
        assert websocket.compress == 0


async def test_binary_packets_travel_as_they_are_over_websocket(path: Path) -> None:
    seen = Seen()
    async with serving(path, register=lambda sio: sio.on("binary", lambda _, b: seen(b))) as server:
        client = await server.client()
        placeholder = '{"_placeholder":true,"num":0}'
        await client.send(f'451-["binary",{placeholder}]')
        await client.send(b"\x00\xff")
        assert await seen.until(1) == [b"\x00\xff"]
        for blob in (b"", b"small", b"x" * 1_000, b"y" * 100_000):
            offset = await server.sio.emit("binary", blob)
            assert await client.packet() == f'451-["binary",{placeholder},"{offset}"]'
            assert await client.packet() == blob


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda text: text[:30])
async def test_garbage_over_websocket_closes_it_without_a_packet(server: Server, garbage: str) -> None:
    client = await server.client()
    await client.send(garbage)
    assert await client.rest() == []
    assert server.engine.sockets == {}


@pytest.mark.parametrize(
    "packets",
    [
        [b"an attachment of nothing"],
        ['451-["x",{"_placeholder":true,"num":0}]', "text instead of the attachment"],
        ['451-["x",{"_placeholder":true,"num":0}]', '42["in between"]'],
        ['451-["x",{"_placeholder":true,"num":7}]', b"for another placeholder"],
    ],
)
async def test_attachments_out_of_place_close_the_websocket(
    server: Server, packets: list[str | bytes]
) -> None:
    client = await server.client()
    for packet in packets:
        await client.send(packet)
    assert await client.rest() == []


async def test_a_message_that_is_too_large_closes_the_websocket(path: Path) -> None:
    async with serving(path, max_http_buffer_size=1_000) as server:
        client = await server.client()
        await client.send('42["x","' + "x" * 2_000 + '"]')
        assert await client.rest() == []
        assert server.engine.sockets == {}


async def test_garbage_of_one_client_leaves_its_session_recoverable(server: Server) -> None:
    client = await server.socket()
    pid = (await client.connect())["pid"]
    await client.send("garbage")
    assert await client.rest() == []
    offset = await server.sio.emit("missed", 1)
    again = await server.socket()
    assert (await again.connect(auth={"pid": pid}))["sid"] == client.sid
    assert await again.event() == ["missed", 1, offset]


async def test_the_client_closes_the_transport_by_a_packet(server: Server) -> None:
    client = await server.client()
    await client.send("1")
    assert await client.rest() == []
    assert server.engine.sockets == {}


# Upgrade --------------------------------------------------------------------------------------------


async def test_events_of_every_phase_of_an_upgrade_come_once_and_in_order(server: Server) -> None:
    polling, received, numbers = await server.polling(), list[str](), iter(range(100))

    async def emit() -> None:
        await server.sio.emit("number", next(numbers))

    await polling.connect()
    await emit()  # waits for a poll
    received += await polling.poll()
    poll = asyncio.create_task(polling.poll())
    await poll_is_open(server)
    await emit()  # ends the poll
    received += await poll
    websocket = await polling.websocket()
    await emit()  # the WebSocket is open and silent
    received += await polling.poll()
    poll = asyncio.create_task(polling.poll())
    await poll_is_open(server)
    await websocket.send("2probe")
    assert await websocket.raw_packet() == "3probe"
    assert await poll == ["6"]  # so that the client can go over
    await emit()  # nothing leaves by polling any more
    assert await polling.poll() == ["6"]
    await emit()
    await websocket.send("5")
    await emit()
    first = [await websocket.packet() for _ in range(3)]
    await emit()
    received += [str(packet) for packet in [*first, await websocket.packet()]]
    assert numbers_of(received) == list(range(7))
    assert (await polling.get())[0] == 400  # polling is over


async def test_emits_that_go_on_during_an_upgrade_come_once_and_in_order(server: Server) -> None:
    polling, received, total, enough = await server.polling(), list[str](), 300, asyncio.Event()
    await polling.connect()

    async def emit_all() -> None:
        for number in range(total):
            await server.sio.emit("number", number)
            if number == total // 3:
                enough.set()

    async def poll_until_noop() -> None:
        while "6" not in (packets := await polling.poll()):
            received.extend(packets)
        received.extend(packet for packet in packets if packet != "6")

    emits, polls = asyncio.create_task(emit_all()), asyncio.create_task(poll_until_noop())
    await enough.wait()
    websocket = await polling.websocket()
    await websocket.send("2probe")
    assert await websocket.raw_packet() == "3probe"
    await polls
    await websocket.send("5")
    while len(received) < total:
        received.append(str(await websocket.packet()))
    await emits
    assert numbers_of(received) == list(range(total))


async def test_an_upgrade_that_comes_to_nothing_leaves_polling_as_it_was(server: Server) -> None:
    polling = await server.polling()
    await polling.connect()
    for words in (["hello"], ["2probe", "hello"], ["2probe", None]):
        websocket = await polling.websocket()
        for word in words:
            if word is None:
                assert await websocket.raw_packet() == "3probe"
                await websocket.leave()
            else:
                await websocket.send(word)
        await websocket.rest()
        offset = await server.sio.emit("still here")
        packets = await polling.poll()
        while packets == ["6"]:  # the server has not noticed yet
            packets = await polling.poll()
        assert packets == [f'42["still here","{offset}"]']


async def test_of_several_websockets_that_want_to_upgrade_one_becomes_the_transport(server: Server) -> None:
    polling = await server.polling()
    await polling.connect()
    early, first, second = [await polling.websocket() for _ in range(3)]

    async def is_refused(websocket: Socket) -> bool:
        await websocket.send("2probe")
        return await websocket.rest() == []

    await first.send("2probe")
    assert await first.raw_packet() == "3probe"
    assert await is_refused(second)
    await first.send("5")
    assert await first.event_of(server.sio.emit("upgraded")) == ["upgraded"]
    assert await is_refused(early) and await is_refused(await polling.websocket())
    assert await first.event_of(server.sio.emit("still here")) == ["still here"]


async def test_an_upgrade_that_is_never_finished_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade, "UPGRADE_TIMEOUT_SECONDS", 0.05)
    polling = await server.polling()
    await polling.connect()
    silent = await polling.websocket()
    probing = await polling.websocket()
    await probing.send("2probe")
    assert await probing.raw_packet() == "3probe"
    assert await probing.rest() == [] and await silent.rest() == []
    offset = await server.sio.emit("still here")
    assert await polling.poll() == [f'42["still here","{offset}"]']


# ----------------------------------------------------------------------------------------------------


def numbers_of(packets: list[str]) -> list[int]:
    """The numbers in events that are called so; each ends in a higher offset than the one before."""
    events = [json.loads(packet.removeprefix("42")) for packet in packets]
    places = [int(event[-1].rpartition(".")[2]) for event in events]
    assert places == sorted(set(places))
    return [event[1] for event in events]
