"""Events that official clients can read: the others are refused at the call, or arrive as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.embedded import Seen, Server, packets_until_marker, serving, until


async def test_max_attachments_in_both_directions(path: Path) -> None:
    """``max_attachments`` limits the binary arguments of emits, acknowledgements and clients' packets."""
    seen = Seen()

    def register(sio: Any) -> None:
        sio.on("give", lambda _sid, count: (b"1",) * count)
        sio.on("take", lambda _sid, *blobs: seen(len(blobs)))

    def packet(count: int) -> str:
        placeholders = [{"_placeholder": True, "num": number} for number in range(count)]
        return f"45{count}-{json.dumps(['take', *placeholders])}"

    async with serving(path, recovery={"max_attachments": 3}, register=register) as server:
        client = await server.client()
        await server.sio.emit("x", [b"1"] * 3)
        assert str(await client.packet()).startswith("453-") and await client.packet() == b"1"
        with pytest.raises(ValueError, match="at most 3"):
            await server.sio.emit("x", [b"1"] * 4)
        for part in (packet(3), b"1", b"2", b"3"):
            await client.send(part)
        assert await seen.until(1) == [3]
        await client.send(packet(4))
        await client.rest()
        assert not server.engine.sockets


@pytest.mark.parametrize("value", [[b"1"] * 11, (b"1", {"_placeholder": True, "num": 0}), float("nan")])
async def test_unreadable_acknowledgement_is_not_sent(
    path: Path, caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    """An acknowledgement that clients cannot read is a failure of the handler: one line, however often."""
    async with serving(path, register=lambda sio: sio.on("ask", lambda _sid: value)) as server:
        client = await server.client()
        for number in range(10):
            await client.send(f'42{number}["ask"]')
        await until(lambda: caplog.messages)
        assert await packets_until_marker(server, client) == [[]]
        (line,) = caplog.messages
        assert line.startswith(f"The 'ask' handler of / failed for {client.sid}: ValueError(")


async def test_warning_names_clients_that_cannot_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A larger ``max_attachments`` is logged with the clients that cannot read such events."""
    async with serving(path, recovery={"max_attachments": 10}):
        assert "max_attachments" not in caplog.text
    async with serving(path, recovery={"max_attachments": 11}) as server:
        assert "socket.io-parser 4.2.6 or later take at most 10" in caplog.text
        await server.sio.emit("x", [b"1"] * 11)


async def test_placeholder_without_bytes_is_data(server: Server) -> None:
    """An object that looks like a placeholder is sent when no bytes are beside the object."""
    client, value = await server.client(), {"_placeholder": True, "num": 0}
    assert await client.event_of(server.sio.emit("x", value)) == ["x", value]


NATIVE: list[Any] = [
    (b"1", {"_placeholder": True, "num": 0}),
    ([{"_placeholder": True, "num": 0, "_x": b"1"}], {"__placeholder": b"2", "_placeholder": "a"}),
    ({"_placeholder": True, "num": 0},),
    tuple([b"1"] * 11),
    ("Date", ("ext", 0, b"12345678")),
    ({"when": ("ext", -1, b"\x00\x00\x00\x07"), "_placeholder": {"__placeholder": b""}},),
]


@pytest.mark.parametrize("data", NATIVE, ids=range(len(NATIVE)))
async def test_msgpack_data_arrive_as_they_were(path: Path, data: Any) -> None:
    """Bytes, lookalikes of placeholders and extension types arrive as they were: live, asked and replayed."""
    msgpack = pytest.importorskip("msgpack")

    def made(value: Any) -> Any:
        match value:
            case ("ext", -1, bytes(content)):
                return msgpack.Timestamp.from_bytes(content)
            case ("ext", int(code), bytes(content)):
                return msgpack.ExtType(code, content)
            case dict():
                return {key: made(item) for key, item in value.items()}
            case list():
                return [made(item) for item in value]
            case _:
                return value

    def decoded(packet: Any) -> Any:
        return msgpack.unpackb(packet, ext_hook=msgpack.ExtType, timestamp=0)["data"]

    values = tuple(made(value) for value in data)
    expected = ["x", *(msgpack.unpackb(msgpack.packb(value)) for value in values)]
    async with serving(path, serializer="msgpack") as server:
        client = await server.socket()
        await client.send(msgpack.packb({"type": 0, "nsp": "/"}))
        connect = decoded(await client.packet())
        await server.sio.emit("x", values)
        assert decoded(await client.packet())[:-1] == expected
        await server.sio.emit("x", values, callback=lambda: None)
        assert decoded(await client.packet()) == expected
        again = await server.socket()
        await again.send(msgpack.packb({"type": 0, "nsp": "/", "data": {"pid": connect["pid"]}}))
        assert decoded(await again.packet()) == connect
        assert decoded(await again.packet())[:-1] == expected


@pytest.mark.parametrize("value", [2**70, "\ud800", {"a": [-(2**63) - 1]}])
async def test_value_that_msgpack_does_not_have_is_refused(path: Path, value: Any) -> None:
    """A value that msgpack cannot encode raises ValueError at emit, and nothing is stored."""
    pytest.importorskip("msgpack")
    async with serving(path, serializer="msgpack") as server:
        for more in ({}, {"volatile": True}, {"callback": print}):
            with pytest.raises(ValueError):
                await server.sio.emit("x", value, **more)
        assert (await server.manager.start()).log.head == 0
