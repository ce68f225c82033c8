from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio
from aiohttp import WSMsgType, web
from processes import DEADLINE, HOST

from socketio_eventstore.server import upgrade
from socketio_eventstore.server.adapter import RecoveryManager
from socketio_eventstore.server.engine import Engine
from socketio_eventstore.server.registry import State

GARBAGE = (
    "",
    "2",
    "8",
    "hello",
    "4",
    "49",
    "4x",
    "42",
    "42{}",
    "42[]",
    "42[1]",
    '42"text"',
    "42[",
    "44{}",
    '43{"a":1}',
    "45",
    "451-[",
    "45x-[]",
    '42["connect"]',
    '42["connect_error"]',
    '42["disconnect","reason"]',
    '42["disconnecting"]',
    '42["session_expired","sid",{}]',
    "42" + "[" * 100_000,
)
"""Not packets of Engine.IO or not of Socket.IO, and events that only the server raises."""


class Socket:
    """A WebSocket that speaks Engine.IO by hand."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self._websocket = websocket
        self.sid = ""
        """The session in the main namespace."""

    async def raw_packet(self) -> str | bytes | None:
        """The next packet, a heartbeat as well; None when the server has closed the connection."""
        async with asyncio.timeout(DEADLINE):
            message = await self._websocket.receive()
        return message.data if message.type in (WSMsgType.TEXT, WSMsgType.BINARY) else None

    async def packet(self) -> str | bytes | None:
        """The next packet that is not a heartbeat; those are answered."""
        while (packet := await self.raw_packet()) == "2":
            await self.send("3")
        return packet

    async def rest(self) -> list[str | bytes]:
        """What still comes before the server closes the connection."""
        packets = []
        while (packet := await self.packet()) is not None:
            packets.append(packet)
        return packets

    async def send(self, packet: str | bytes) -> None:
        await (
            self._websocket.send_str(packet)
            if isinstance(packet, str)
            else self._websocket.send_bytes(packet)
        )

    async def connect(self, namespace: str = "/", auth: Mapping[str, object] | None = None) -> dict[str, Any]:
        """CONNECT; returns what the server's CONNECT carries."""
        await self.send(f"40{prefix(namespace)}" + ("" if auth is None else json.dumps(auth)))
        answer = await self.content(f"40{prefix(namespace)}")
        assert isinstance(answer, dict)
        if namespace == "/":
            self.sid = answer["sid"]
        return answer

    async def event(self, namespace: str = "/") -> list[Any]:
        """The next packet, which must be an event: its name and arguments, offset included."""
        event = await self.content(f"42{prefix(namespace)}")
        assert isinstance(event, list)
        return event

    async def event_of(self, emit: Awaitable[str | None], namespace: str = "/") -> list[Any]:
        """The event that this emit sends, without its offset, which must be the one that emit returns."""
        offset = await emit
        *event, last = await self.event(namespace)
        assert offset is not None and last == offset
        return event

    async def content(self, start: str) -> Any:
        """The JSON in the next packet, which must start like this."""
        packet = await self.packet()
        assert isinstance(packet, str) and packet.startswith(start), packet
        return json.loads(packet.removeprefix(start))

    async def call(self, name: str, *arguments: object, namespace: str = "/") -> Any:
        """Emits and returns the acknowledgement, which must be the next packet."""
        await self.send(f"42{prefix(namespace)}7{json.dumps([name, *arguments])}")
        return await self.content(f"43{prefix(namespace)}7")

    async def leave(self) -> None:
        """The transport ends without a word of Socket.IO."""
        await self._websocket.close()


class Polling:
    """An Engine.IO session of bare HTTP requests."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.query = {"EIO": "4", "transport": "polling"}

    async def open(self) -> dict[str, Any]:
        """The Engine.IO handshake."""
        (packet,) = await self.poll()
        assert packet.startswith("0"), packet
        handshake: dict[str, Any] = json.loads(packet[1:])
        self.query["sid"] = handshake["sid"]
        return handshake

    async def get(self) -> tuple[int, str]:
        async with self._server.http.get(self._server.url, params=self.query) as response:
            return response.status, await response.text()

    async def post(self, body: str | bytes) -> tuple[int, str]:
        async with self._server.http.post(self._server.url, params=self.query, data=body) as response:
            return response.status, await response.text()

    async def poll(self) -> list[str]:
        """One GET; the packets of its body."""
        async with asyncio.timeout(DEADLINE):
            status, body = await self.get()
        assert status == 200, (status, body)
        return body.split("\x1e")

    async def send(self, *packets: str) -> None:
        status, body = await self.post("\x1e".join(packets))
        assert status == 200, (status, body)

    async def connect(self) -> dict[str, Any]:
        """CONNECT to the main namespace; returns what the server's CONNECT carries."""
        await self.send("40")
        while (packets := await self.poll()) == ["2"]:
            await self.send("3")
        (packet,) = packets
        assert packet.startswith("40{"), packet
        answer: dict[str, Any] = json.loads(packet[2:])
        return answer

    async def is_over(self) -> bool:
        """Whether the server has forgotten the session."""
        return (await self.post("3"))[0] == 400 and (await self.get())[0] == 400

    async def websocket(self) -> Socket:
        """A WebSocket for the upgrade."""
        return await self._server.open_socket({**self.query, "transport": "websocket"})


class Server:
    """An application with a server of its own, in this process."""

    def __init__(self, sio: Any, manager: RecoveryManager, http: aiohttp.ClientSession, url: str) -> None:
        self.sio = sio
        self.manager = manager
        self.http = http
        self.url = url
        self._sockets: list[Socket] = []

    @property
    def engine(self) -> Engine:
        engine: Engine = self.sio.eio
        return engine

    async def open_socket(self, query: dict[str, str]) -> Socket:
        socket = Socket(await self.http.ws_connect(self.url, params=query, max_msg_size=0))
        self._sockets.append(socket)
        return socket

    async def close_sockets(self) -> None:
        for socket in self._sockets:
            await socket.leave()

    async def websocket(self) -> tuple[Socket, dict[str, Any]]:
        """A WebSocket without polling before it, and its handshake."""
        socket = await self.open_socket({"EIO": "4", "transport": "websocket"})
        handshake = await socket.content("0")
        assert isinstance(handshake, dict)
        return socket, handshake

    async def socket(self) -> Socket:
        return (await self.websocket())[0]

    async def client(self, auth: Mapping[str, object] | None = None, namespace: str = "/") -> Socket:
        """A client that is connected to a namespace."""
        socket = await self.socket()
        await socket.connect(namespace, auth)
        return socket

    async def polling(self) -> Polling:
        """A session of polling whose handshake is done."""
        polling = Polling(self)
        await polling.open()
        return polling


class Seen:
    """What handlers saw, for those who wait for it."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._more = asyncio.Event()

    def __call__(self, *what: Any) -> None:
        self.all.append(what[0] if len(what) == 1 else what)
        self._more.set()

    async def until(self, count: int) -> list[Any]:
        """Waits until so much was seen; returns all of it."""
        async with asyncio.timeout(DEADLINE):
            while len(self.all) < count:
                self._more.clear()
                await self._more.wait()
        return self.all


@asynccontextmanager
async def serving(
    path: Path | None,
    *,
    recovery: Mapping[str, Any] | None = None,
    register: Callable[[Any], None] = lambda _: None,
    server_class: type[Any] = socketio.AsyncServer,
    **options: Any,
) -> AsyncIterator[Server]:
    """``recovery`` are options of the manager, the others are those of python-socketio's server."""
    manager = RecoveryManager(path, **(recovery or {}))
    sio = server_class(async_mode="aiohttp", client_manager=manager, **options)
    register(sio)
    app = web.Application()
    sio.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    async with AsyncExitStack() as stack:
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(sio.shutdown)
        await web.TCPSite(runner, HOST, 0).start()
        port = runner.addresses[0][1]
        http = await stack.enter_async_context(aiohttp.ClientSession())
        server = Server(sio, manager, http, f"http://{HOST}:{port}/socket.io/")
        stack.push_async_callback(server.close_sockets)
        yield server


async def until(happened: Callable[[], object]) -> None:
    """Lets the server work until something has happened that nobody is told of."""
    async with asyncio.timeout(DEADLINE):
        while not happened():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)


def prefix(namespace: str) -> str:
    return "" if namespace == "/" else f"{namespace},"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture(name="server")
async def started_server(path: Path) -> AsyncIterator[Server]:
    async with serving(path) as server:
        yield server


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


# Long-polling ---------------------------------------------------------------------------------------


async def test_what_is_sent_between_two_polls_comes_with_the_next_in_order(server: Server) -> None:
    client = await server.polling()
    await client.connect()
    offsets = [await server.sio.emit("number", number) for number in range(20)]
    assert await client.poll() == [f'42["number",{n},"{offset}"]' for n, offset in enumerate(offsets)]


async def test_an_open_poll_is_answered_by_what_is_sent(server: Server) -> None:
    client = await server.polling()
    await client.connect()
    poll = asyncio.create_task(client.poll())
    await poll_is_open(server)
    offset = await server.sio.emit("text", "Grüße 中 \U0001f600")
    assert await poll == [f'42["text","Grüße 中 \U0001f600","{offset}"]']


async def test_many_packets_in_one_post_are_taken_in_order(path: Path) -> None:
    seen = Seen()
    async with serving(path, register=lambda sio: sio.on("number", lambda _, n: seen(n))) as server:
        client = await server.polling()
        await client.connect()
        await client.send(*(f'42["number",{number}]' for number in range(40)))
        assert await seen.until(40) == list(range(40))


async def test_binary_packets_travel_in_base64_over_polling(path: Path) -> None:
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


async def test_a_post_that_is_too_large_ends_the_session(path: Path) -> None:
    async with serving(path, max_http_buffer_size=1_000) as server:
        client = await server.polling()
        await client.connect()
        await client.send('42["x","' + "x" * 990 + '"]')
        assert (await client.post('42["x","' + "x" * 991 + '"]'))[0] == 400
        assert await client.is_over()


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda text: text[:30])
async def test_garbage_in_a_post_ends_the_session(server: Server, garbage: str) -> None:
    client = await server.polling()
    await client.connect()
    assert (await client.post(garbage))[0] == 400
    assert await client.is_over()


@pytest.mark.parametrize("body", [b"4\xff", b"b!", b"bAA"])
async def test_a_post_that_is_neither_text_nor_base64_ends_the_session(server: Server, body: bytes) -> None:
    client = await server.polling()
    assert (await client.post(body))[0] == 400
    assert await client.is_over()


async def test_a_post_after_the_client_has_said_goodbye_does_nothing(server: Server) -> None:
    seen = Seen()
    server.sio.on("late", lambda _: seen("late"))
    client = await server.polling()
    await client.connect()
    await client.post('1\x1e42["late"]')
    assert await client.is_over() and seen.all == []


async def test_a_second_poll_while_one_is_open_ends_the_session(server: Server) -> None:
    client = await server.polling()
    await client.connect()
    first = asyncio.create_task(client.get())
    await poll_is_open(server)
    assert (await client.get())[0] == 400
    await first
    assert await client.is_over()


async def test_an_open_poll_ends_when_the_server_stops(path: Path) -> None:
    async with serving(path) as server:
        client = await server.polling()
        await client.connect()
        poll = asyncio.create_task(client.get())
        await poll_is_open(server)
        await server.sio.shutdown()
        async with asyncio.timeout(DEADLINE):
            _, body = await poll
        assert "41" not in body


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
    monkeypatch.setattr(upgrade, "PATIENCE_SECONDS", 0.05)
    polling = await server.polling()
    await polling.connect()
    silent = await polling.websocket()
    probing = await polling.websocket()
    await probing.send("2probe")
    assert await probing.raw_packet() == "3probe"
    assert await probing.rest() == [] and await silent.rest() == []
    offset = await server.sio.emit("still here")
    assert await polling.poll() == [f'42["still here","{offset}"]']


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
        await until(lambda: server.sio.handshake.is_connecting(connecting))
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


# ----------------------------------------------------------------------------------------------------


async def poll_is_open(server: Server) -> None:
    """Waits until the only connection has a poll that waits."""
    (connection,) = server.engine.sockets.values()
    await until(lambda: connection._poll is not None)


def numbers_of(packets: list[str]) -> list[int]:
    """The numbers in events that are called so; each ends in a higher offset than the one before."""
    events = [json.loads(packet.removeprefix("42")) for packet in packets]
    places = [int(event[-1].rpartition(".")[2]) for event in events]
    assert places == sorted(set(places))
    return [event[1] for event in events]
