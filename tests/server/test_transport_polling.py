from __future__ import annotations

import asyncio
from base64 import b64encode
from pathlib import Path

import pytest

from support.embedded import Seen, Server, poll_is_open, serving
from support.hostile import GARBAGE
from support.processes import DEADLINE


async def test_events_between_two_polls(server: Server) -> None:
    """The events emitted between two polls are sent in order with the next poll."""
    client = await server.polling()
    await client.connect()
    offsets = [await server.sio.emit("number", number) for number in range(20)]
    assert await client.poll() == [f'42["number",{n},"{offset}"]' for n, offset in enumerate(offsets)]


async def test_event_during_an_open_poll(server: Server) -> None:
    """An emitted event answers an open poll."""
    client = await server.polling()
    await client.connect()
    poll = asyncio.create_task(client.poll())
    await poll_is_open(server)
    offset = await server.sio.emit("text", "Grüße 中 \U0001f600")
    assert await poll == [f'42["text","Grüße 中 \U0001f600","{offset}"]']


async def test_many_packets_in_one_post(path: Path) -> None:
    """The packets of one POST are handled in order."""
    seen = Seen()
    async with serving(path, register=lambda sio: sio.on("number", lambda _, n: seen(n))) as server:
        client = await server.polling()
        await client.connect()
        await client.send(*(f'42["number",{number}]' for number in range(40)))
        assert await seen.until(40) == list(range(40))


async def test_binary_packets_over_polling(path: Path) -> None:
    """Attachments are base64 over polling in both directions."""
    seen = Seen()
    blob = bytes(range(256))
    coded = "b" + b64encode(blob).decode()
    async with serving(path, register=lambda sio: sio.on("binary", lambda _, b: seen(b))) as server:
        client = await server.polling()
        await client.connect()
        placeholder = '{"_placeholder":true,"num":0}'
        await client.send(f'451-["binary",{placeholder}]', coded)
        assert await seen.until(1) == [blob]
        offset = await server.sio.emit("binary", blob)
        assert await client.poll() == [f'451-["binary",{placeholder},"{offset}"]', coded]


async def test_post_above_max_payload(path: Path) -> None:
    """A POST above max_http_buffer_size closes the session."""
    async with serving(path, max_http_buffer_size=1_000) as server:
        client = await server.polling()
        await client.connect()
        await client.send('42["x","' + "x" * 990 + '"]')
        assert (await client.post('42["x","' + "x" * 991 + '"]'))[0] == 400
        assert await client.is_over()


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda text: text[:30])
async def test_garbage_in_a_post(server: Server, garbage: str) -> None:
    """An invalid packet in a POST closes the session."""
    client = await server.polling()
    await client.connect()
    assert (await client.post(garbage))[0] == 400
    assert await client.is_over()


@pytest.mark.parametrize("body", [b"4\xff", b"b!", b"bAA"])
async def test_post_with_invalid_encoding(server: Server, body: bytes) -> None:
    """A POST with invalid UTF-8 or invalid base64 closes the session."""
    client = await server.polling()
    assert (await client.post(body))[0] == 400
    assert await client.is_over()


async def test_packet_after_a_close_packet(server: Server) -> None:
    """A packet after the client's CLOSE packet is ignored."""
    seen = Seen()
    server.sio.on("late", lambda _: seen("late"))
    client = await server.polling()
    await client.connect()
    await client.post('1\x1e42["late"]')
    assert await client.is_over() and seen.all == []


async def test_second_open_poll(server: Server) -> None:
    """A second poll during an open poll closes the session."""
    client = await server.polling()
    await client.connect()
    first = asyncio.create_task(client.get())
    await poll_is_open(server)
    assert (await client.get())[0] == 400
    await first
    assert await client.is_over()


async def test_open_poll_at_shutdown(path: Path) -> None:
    """The shutdown answers an open poll, without a DISCONNECT packet."""
    async with serving(path) as server:
        client = await server.polling()
        await client.connect()
        poll = asyncio.create_task(client.get())
        await poll_is_open(server)
        await server.sio.shutdown()
        async with asyncio.timeout(DEADLINE):
            _, body = await poll
        assert "41" not in body
