from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from socketio_eventstore.transport import upgrade
from support.embedded import Seen, Server, Socket, poll_is_open, serving
from support.hostile import GARBAGE

# WebSocket ------------------------------------------------------------------------------------------


async def test_compression_is_off_by_default(server: Server) -> None:
    """The server declines permessage-deflate by default."""
    query = {"EIO": "4", "transport": "websocket"}
    async with server.http.ws_connect(server.url, params=query, compress=15) as websocket:
        assert websocket.compress == 0


async def test_binary_packets_over_websocket(path: Path) -> None:
    """Attachments are binary WebSocket messages in both directions."""
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
async def test_garbage_over_websocket(server: Server, garbage: str) -> None:
    """An invalid packet closes the WebSocket, and the server sends no further packet."""
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
async def test_unexpected_attachments(server: Server, packets: list[str | bytes]) -> None:
    """An unexpected or missing attachment closes the WebSocket."""
    client = await server.client()
    for packet in packets:
        await client.send(packet)
    assert await client.rest() == []


async def test_message_above_max_payload(path: Path) -> None:
    """A message above max_http_buffer_size closes the WebSocket."""
    async with serving(path, max_http_buffer_size=1_000) as server:
        client = await server.client()
        await client.send('42["x","' + "x" * 2_000 + '"]')
        assert await client.rest() == []
        assert server.engine.sockets == {}


async def test_session_recovers_after_garbage(server: Server) -> None:
    """A session stays recoverable after the client has sent an invalid packet."""
    client = await server.socket()
    pid = (await client.connect())["pid"]
    await client.send("garbage")
    assert await client.rest() == []
    offset = await server.sio.emit("missed", 1)
    again = await server.socket()
    assert (await again.connect(auth={"pid": pid}))["sid"] == client.sid
    assert await again.event() == ["missed", 1, offset]


async def test_close_packet(server: Server) -> None:
    """The CLOSE packet of a client closes the transport."""
    client = await server.client()
    await client.send("1")
    assert await client.rest() == []
    assert server.engine.sockets == {}


# Upgrade --------------------------------------------------------------------------------------------


async def test_events_in_each_phase_of_an_upgrade(server: Server) -> None:
    """An event emitted in any phase of an upgrade arrives once and in order."""
    polling, received, numbers = await server.polling(), list[str](), iter(range(100))

    async def emit() -> None:
        await server.sio.emit("number", next(numbers))

    await polling.connect()
    await emit()  # no poll is open
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
    assert await poll == ["6"]  # the server ends the open poll with a NOOP
    await emit()  # no event is sent by polling any more
    assert await polling.poll() == ["6"]
    await emit()
    await websocket.send("5")
    await emit()
    first = [await websocket.packet() for _ in range(3)]
    await emit()
    received += [str(packet) for packet in [*first, await websocket.packet()]]
    assert numbers_of(received) == list(range(7))
    assert (await polling.get())[0] == 400  # an upgraded session refuses polls


async def test_continuous_emits_during_an_upgrade(server: Server) -> None:
    """Continuous emits during an upgrade arrive once and in order."""
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


async def test_polling_after_a_cancelled_upgrade(server: Server) -> None:
    """Polling continues after a cancelled upgrade."""
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
        while packets == ["6"]:  # the server has not cancelled the upgrade yet
            packets = await polling.poll()
        assert packets == [f'42["still here","{offset}"]']


async def test_one_of_several_upgrades_succeeds(server: Server) -> None:
    """Only one of several WebSockets of a session completes the upgrade."""
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


async def test_upgrade_timeout(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade is cancelled after UPGRADE_TIMEOUT_SECONDS, and polling continues."""
    monkeypatch.setattr(upgrade, "UPGRADE_TIMEOUT_SECONDS", 2.0)
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
    """Return the arguments of ``number`` events, after checking that the offsets increase strictly."""
    events = [json.loads(packet.removeprefix("42")) for packet in packets]
    sequences = [int(event[-1].rpartition(".")[2]) for event in events]
    assert sequences == sorted(set(sequences))
    return [event[1] for event in events]
