from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore.core.sessions import State
from socketio_eventstore.transport.http_responses import COMPRESSED_AT_ONCE_BYTES
from support.embedded import Polling, Seen, Server, serving, until

# Handshake ------------------------------------------------------------------------------------------


async def test_handshake_settings(path: Path) -> None:
    """The handshake contains the server's settings in milliseconds and bytes."""
    async with serving(path, ping_interval=0.25, ping_timeout=0.125, max_http_buffer_size=5_000) as server:
        settings = {"pingInterval": 250, "pingTimeout": 125, "maxPayload": 5_000}
        polling = await Polling(server).open()
        sid = polling.pop("sid")
        assert polling == {**settings, "upgrades": ["websocket"]}
        _, websocket = await server.websocket()
        assert websocket.pop("sid") not in ("", sid)
        assert websocket == {**settings, "upgrades": []}


async def test_cookie(path: Path) -> None:
    """The polling handshake sets a cookie with the sid if the application configures a cookie."""
    async with (
        serving(path, cookie="io") as server,
        server.http.get(server.url, params={"EIO": "4", "transport": "polling"}) as response,
    ):
        sid = json.loads((await response.text())[1:])["sid"]
        assert response.headers["Set-Cookie"] == f"io={sid}; path=/; SameSite=Lax"


@pytest.mark.parametrize(
    "query",
    [{"EIO": "4", "transport": "pigeon"}, {"transport": "polling"}, {"EIO": "3"}, {"sid": "nobody's"}],
)
async def test_invalid_query(server: Server, query: dict[str, str]) -> None:
    """The server answers 400 to a request without an open session and without a valid handshake."""
    stranger = Polling(server)
    stranger.query = query
    assert (await stranger.get())[0] == 400


async def test_handshake_without_store(tmp_path: Path) -> None:
    """The server answers 503 to a handshake while the store cannot be opened."""
    path = tmp_path  # a folder, which is not a database
    async with serving(path) as server:
        assert (await Polling(server).get())[0] == 503
        assert server.engine.sockets == {}


# Heartbeat, bounds, timeouts ------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["polling", "websocket"])
async def test_ping_timeout(path: Path, over: str) -> None:
    """The server disconnects a client without a pong, with the reason "ping timeout"."""
    seen = Seen()

    def register(sio: Any) -> None:
        sio.on("disconnect", lambda _, reason: seen(reason))

    async with serving(path, register=register, ping_interval=0.25, ping_timeout=2.0) as server:
        if over == "polling":
            await (await server.polling()).connect()
        else:
            client = await server.client()
            assert await client.raw_packet() == "2"
            assert await client.raw_packet() is None
        assert await seen.until(1) == ["ping timeout"]
        assert server.engine.sockets == {}


async def test_pong_confirms_position(path: Path) -> None:
    """A pong confirms the events written before the ping, and no later event."""
    async with serving(path, ping_interval=0.05) as server:
        client = await server.client()
        runtime = await server.manager.start()
        session = runtime.registry.get("/", client.sid)
        assert session is not None and session.confirmed == 0
        await server.sio.emit("before")
        assert (await client.event())[0] == "before"  # answers the pings that came before
        while await client.raw_packet() != "2":
            pass
        await server.sio.emit("after")
        await client.send("3")
        while await client.raw_packet() != "2":
            pass
        assert session.confirmed == 1
        await client.send("3")
        while await client.raw_packet() != "2":
            pass
        assert session.confirmed == 2


async def test_slow_client_is_aborted_and_recovers(path: Path) -> None:
    """A client above max_client_buffer is aborted without a DISCONNECT and recovers all events."""
    text = "x" * 40_000
    async with serving(path, recovery={"max_client_buffer": 100_000}) as server:
        slow = await server.socket()
        pid = (await slow.connect())["pid"]
        first = await server.sio.emit("number", (0, text))
        assert (await slow.event())[1] == 0
        count = 1
        while server.engine.slow_clients == 0 and count < 1_000:
            await server.sio.emit("number", (count, text))
            count += 1
        assert server.engine.slow_clients == 1 and server.engine.sockets == {}
        after = await server.sio.emit("number", (count, text))
        again = await server.socket()
        assert (await again.connect(auth={"pid": pid, "offset": first}))["sid"] == slow.sid
        events = [await again.event() for _ in range(count)]
        assert [event[1] for event in events] == list(range(1, count + 1))
        assert events[-1][-1] == after
        assert "41" not in await slow.rest()


async def test_client_without_polls_is_aborted(path: Path) -> None:
    """A client that does not poll is aborted when its unsent bytes exceed max_client_buffer."""
    async with serving(path, recovery={"max_client_buffer": 10_000}) as server:
        slow = await server.polling()
        await slow.connect()
        for _ in range(3):
            await server.sio.emit("large", "x" * 4_000)
        assert server.engine.slow_clients == 1
        assert (await slow.get())[0] == 400


async def test_slow_client_does_not_delay_others(path: Path) -> None:
    """A slow client does not delay the events of another client."""
    async with serving(path, recovery={"max_client_buffer": 100_000}) as server:
        slow, quick, text = await server.client(), await server.client(), "x" * 40_000
        for number in range(600):
            emit = server.sio.emit("number", (number, text))
            assert await quick.event_of(emit) == ["number", number, text]
        assert server.engine.slow_clients == 1
        assert len(await slow.rest()) < 600


async def test_connect_timeout(path: Path) -> None:
    """A transport without a CONNECT is closed after connect_timeout."""
    async with serving(path) as server:
        server.sio.connect_timeout = 0.05
        idle = await server.socket()
        assert await idle.rest() == []
        assert server.engine.sockets == {}


async def test_connect_timeout_with_slow_handler(path: Path) -> None:
    """A running connect handler keeps the transport open beyond connect_timeout."""
    may_go = asyncio.Event()

    async def connect(*_: object) -> None:
        await may_go.wait()

    async with serving(path, register=lambda sio: sio.on("connect", connect)) as server:
        client, handshake = await server.websocket()
        await client.send("40")
        connecting = server.engine.sockets[handshake["sid"]]
        await until(lambda: server.sio._clients.admission.is_connecting(connecting))
        server.sio._close_if_idle(handshake["sid"])
        may_go.set()
        assert "sid" in await client.content("40")


# CONNECT --------------------------------------------------------------------------------------------


async def test_unknown_namespace(server: Server) -> None:
    """CONNECT to an unknown namespace gets the CONNECT_ERROR of the protocol."""
    client = await server.client()
    await client.send("40/nowhere,")
    assert await client.content("44/nowhere,") == {"message": "Invalid namespace"}
    assert await client.event_of(server.sio.emit("still", "here")) == ["still", "here"]


@pytest.mark.parametrize(
    "payload",
    [
        "42",
        "0",
        "null",
        '{"pid":1}',
        '{"pid":null,"offset":null}',
        '{"pid":{},"offset":[]}',
        '{"pid":"\\ud800","offset":"\\ud800"}',
        '{"pid":"nobody\'s","offset":"nowhere.1"}',
        '{"offset":"' + "9" * 1_000 + '"}',
        '{"offset":17}',
        '{"pid":""}',
    ],
)
async def test_garbage_in_connect(server: Server, payload: str) -> None:
    """An invalid pid or offset in CONNECT gives the client a new session."""
    client = await server.socket()
    await client.send("40" + payload)
    answer = await client.content("40")
    assert set(answer) == {"sid", "pid"} and answer["sid"] != answer["pid"]
    assert await client.event_of(server.sio.emit("hello", to=answer["sid"])) == ["hello"]


@pytest.mark.parametrize("payload", ["{", "x", "[[[", "[]", '"text"', "true"])
async def test_connect_payload_not_an_object(server: Server, payload: str) -> None:
    """A CONNECT with a payload other than a JSON object closes the transport."""
    client = await server.socket()
    await client.send("40" + payload)
    assert await client.rest() == []


async def test_second_connect_to_a_namespace(server: Server) -> None:
    """A second CONNECT to a namespace closes the transport, and the session stays recoverable."""
    client = await server.socket()
    pid = (await client.connect())["pid"]
    await client.send("40")
    assert await client.rest() == []
    assert (await (await server.socket()).connect(auth={"pid": pid}))["sid"] == client.sid


async def test_packets_without_a_session(server: Server) -> None:
    """The server ignores packets for a namespace without a session."""
    seen = Seen()
    server.sio.on("early", lambda _: seen("early"))
    client = await server.socket()
    await client.send('42["early"]')
    await client.send("41")
    await client.send('431["ack"]')
    assert "pid" in await client.connect() and seen.all == []


async def test_disconnect_from_one_namespace(path: Path) -> None:
    """A DISCONNECT from one namespace does not affect the other namespaces of the connection."""
    async with serving(path, namespaces=["/", "/other"]) as server:
        client = await server.client()
        await client.connect("/other")
        await client.send("41/other,")
        assert await client.event_of(server.sio.emit("still", "here")) == ["still", "here"]
        runtime = await server.manager.start()
        (other,) = runtime.registry.namespaces["/other"].values()
        assert other.state is State.AWAY


async def test_large_responses_are_compressed_aside(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread compresses the response to a poll that has megabytes; the event loop serves others."""
    threads: list[threading.Thread] = []
    compress = server.engine._gzip

    def noting(body: bytes) -> bytes:
        threads.append(threading.current_thread())
        return bytes(compress(body))

    monkeypatch.setattr(server.engine, "_gzip", noting)
    polling = await server.polling()
    sid = (await polling.connect())["sid"]
    for size, is_aside in ((10_000, False), (COMPRESSED_AT_ONCE_BYTES, True)):
        text = "x" * size
        offset = await server.sio.emit("large", text, to=sid)
        assert await polling.poll() == [f'42["large","{text}","{offset}"]']
        assert (threads.pop() is not threading.main_thread()) == is_aside
