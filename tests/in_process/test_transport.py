from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore.core.sessions import State
from support.embedded import Polling, Seen, Server, serving, until

# Handshake ------------------------------------------------------------------------------------------


async def test_the_handshake_tells_the_settings_in_milliseconds_and_bytes(path: Path) -> None:
    async with serving(path, ping_interval=0.25, ping_timeout=0.125, max_http_buffer_size=5_000) as server:
        settings = {"pingInterval": 250, "pingTimeout": 125, "maxPayload": 5_000}
        polling = await Polling(server).open()
        sid = polling.pop("sid")
        assert polling == {**settings, "upgrades": ["websocket"]}
        _, websocket = await server.websocket()
        assert websocket.pop("sid") not in ("", sid)
        assert websocket == {**settings, "upgrades": []}


async def test_a_cookie_is_set_when_the_application_wants_one(path: Path) -> None:
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
async def test_requests_without_a_session_or_a_known_transport_are_refused(
    server: Server, query: dict[str, str]
) -> None:
    stranger = Polling(server)
    stranger.query = query
    assert (await stranger.get())[0] == 400


async def test_a_server_whose_store_cannot_be_opened_accepts_nobody(tmp_path: Path) -> None:
    path = tmp_path  # a folder is no database
    async with serving(path) as server:
        assert (await Polling(server).get())[0] == 401
        assert server.engine.sockets == {}


# Heartbeat, bounds, timeouts ------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["polling", "websocket"])
async def test_a_client_that_answers_no_ping_is_gone(path: Path, over: str) -> None:
    seen = Seen()

    def register(sio: Any) -> None:
        sio.on("disconnect", lambda _, reason: seen(reason))

    async with serving(path, register=register, ping_interval=0.25, ping_timeout=0.25) as server:
        if over == "polling":
            await (await server.polling()).connect()
        else:
            client = await server.client()
            assert await client.raw_packet() == "2"
            assert await client.raw_packet() is None
        assert await seen.until(1) == ["ping timeout"]
        assert server.engine.sockets == {}


async def test_an_answered_ping_confirms_what_was_sent_before_it(path: Path) -> None:
    async with serving(path, ping_interval=0.05) as server:
        client = await server.client()
        runtime = await server.manager.start()
        session = runtime.registry.get("/", client.sid)
        assert session is not None and session.confirmed == 0
        await server.sio.emit("before")
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


async def test_a_reader_that_is_too_slow_is_cut_off_and_recovers_everything(path: Path) -> None:
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


async def test_a_client_that_does_not_poll_is_cut_off_beyond_its_buffer(path: Path) -> None:
    async with serving(path, recovery={"max_client_buffer": 10_000}) as server:
        slow = await server.polling()
        await slow.connect()
        for _ in range(3):
            await server.sio.emit("large", "x" * 4_000)
        assert server.engine.slow_clients == 1
        assert (await slow.get())[0] == 400


async def test_a_slow_client_does_not_slow_down_the_others(path: Path) -> None:
    async with serving(path, recovery={"max_client_buffer": 100_000}) as server:
        slow, quick, text = await server.client(), await server.client(), "x" * 40_000
        for number in range(600):
            emit = server.sio.emit("number", (number, text))
            assert await quick.event_of(emit) == ["number", number, text]
        assert server.engine.slow_clients == 1
        assert len(await slow.rest()) < 600


async def test_a_transport_on_which_nobody_connects_is_closed(path: Path) -> None:
    async with serving(path) as server:
        server.sio.connect_timeout = 0.05
        idle = await server.socket()
        assert await idle.rest() == []
        assert server.engine.sockets == {}


async def test_a_transport_whose_connect_handler_takes_long_is_not_closed(path: Path) -> None:
    may_go = asyncio.Event()

    async def connect(*_: object) -> None:
        await may_go.wait()

    async with serving(path, register=lambda sio: sio.on("connect", connect)) as server:
        client, handshake = await server.websocket()
        await client.send("40")
        connecting = server.engine.sockets[handshake["sid"]]
        await until(lambda: server.sio.admission.is_connecting(connecting))
        server.sio._close_if_idle(handshake["sid"])
        may_go.set()
        assert "sid" in await client.content("40")


# CONNECT --------------------------------------------------------------------------------------------


async def test_an_unknown_namespace_is_refused_in_the_words_of_the_protocol(server: Server) -> None:
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
async def test_garbage_in_connect_gives_a_session_of_its_own(server: Server, payload: str) -> None:
    client = await server.socket()
    await client.send("40" + payload)
    answer = await client.content("40")
    assert set(answer) == {"sid", "pid"} and answer["sid"] != answer["pid"]
    assert await client.event_of(server.sio.emit("hello", to=answer["sid"])) == ["hello"]


@pytest.mark.parametrize("payload", ["{", "x", "[[[", "[]", '"text"', "true"])
async def test_connect_with_what_is_no_json_object_closes_the_transport(server: Server, payload: str) -> None:
    client = await server.socket()
    await client.send("40" + payload)
    assert await client.rest() == []


async def test_a_second_connect_to_the_same_namespace_closes_the_transport(server: Server) -> None:
    client = await server.socket()
    pid = (await client.connect())["pid"]
    await client.send("40")
    assert await client.rest() == []
    assert (await (await server.socket()).connect(auth={"pid": pid}))["sid"] == client.sid


async def test_packets_for_a_namespace_without_a_session_are_ignored(server: Server) -> None:
    seen = Seen()
    server.sio.on("early", lambda _: seen("early"))
    client = await server.socket()
    await client.send('42["early"]')
    await client.send("41")
    await client.send('431["ack"]')
    assert "pid" in await client.connect() and seen.all == []


async def test_a_namespace_that_the_client_leaves_leaves_the_others_alone(path: Path) -> None:
    async with serving(path, namespaces=["/", "/other"]) as server:
        client = await server.client()
        await client.connect("/other")
        await client.send("41/other,")
        assert await client.event_of(server.sio.emit("still", "here")) == ["still", "here"]
        runtime = await server.manager.start()
        (other,) = runtime.registry.namespaces["/other"].values()
        assert other.state is State.AWAY
