from __future__ import annotations

import asyncio
import decimal
import gc
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import engineio.packet
import pytest
import socketio
from socketio import exceptions
from storing import opened
from test_transport import Polling, Seen, Server, Socket, serving, until

from socketio_eventstore.server.adapter import RecoverableServer, RecoveryManager
from socketio_eventstore.server.recovery import Result
from socketio_eventstore.server.registry import State
from socketio_eventstore.store.errors import StoreClosed, StoreNotUsable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture(name="server")
async def started_server(path: Path) -> AsyncIterator[Server]:
    async with serving(path) as server:
        yield server


async def packets_until_marker(server: Server, *clients: Socket) -> list[list[str | bytes]]:
    """What each client got, apart from an event that is sent to all of them now."""
    offset = await server.sio.emit("marker", to=[client.sid for client in clients])
    received = []
    for client in clients:
        packets: list[str | bytes] = []
        while (packet := await client.packet()) != f'42["marker","{offset}"]':
            assert packet is not None
            packets.append(packet)
        received.append(packets)
    return received


async def away(server: Server, client: Socket) -> None:
    """The client's transport ends; waits until its session is away."""
    session = (await server.manager.start()).registry.get("/", client.sid)
    assert session is not None
    await client.leave()
    await until(lambda: session.state is State.AWAY)


async def results(server: Server) -> dict[Result, int]:
    return dict((await server.manager.start()).recovery.results)


# Emits ----------------------------------------------------------------------------------------------

DATA: dict[str, tuple[Any, str]] = {
    "nothing": (None, ""),
    "an empty text": ("", ',""'),
    "a text": ("Grüße \U0001f600", ',"Grüße \U0001f600"'),
    "a lone surrogate": ("\ud83d", ',"\\ud83d"'),
    "zero": (0, ",0"),
    "no": (False, ",false"),
    "a fraction": (0.5, ",0.5"),
    "a list is one argument": ([1, 2], ",[1,2]"),
    "a dict": ({"a": {"b": [None, True]}}, ',{"a":{"b":[null,true]}}'),
    "a tuple is several arguments": (("a", 1, [2]), ',"a",1,[2]'),
    "an empty tuple": ((), ""),
    "a tuple in a list": ([(1, 2)], ",[[1,2]]"),
    "a key that is a number": ({1: "a"}, ',{"1":"a"}'),
}


KINDS: dict[str, dict[str, Any]] = {
    "stored": {},
    "volatile": {"volatile": True},
    "acknowledged": {"callback": lambda *_: None},
}


@pytest.mark.parametrize(("data", "text"), DATA.values(), ids=DATA.keys())
async def test_data_of_an_emit_become_arguments_and_the_offset_is_the_last(
    server: Server, data: Any, text: str
) -> None:
    client = await server.client()
    offset = await server.sio.emit("event", data)
    assert await client.packet() == f'42["event"{text},"{offset}"]'


async def test_binary_data_may_be_anywhere_in_the_arguments(server: Server) -> None:
    client = await server.client()
    data = (b"first", {"deep": [1, {"er": bytearray(b"second")}]}, [memoryview(b"third")])
    offset = await server.sio.emit("binary", data)
    first, second, third = (f'{{"_placeholder":true,"num":{number}}}' for number in range(3))
    assert await client.packet() == (
        f'453-["binary",{first},{{"deep":[1,{{"er":{second}}}]}},[{third}],"{offset}"]'
    )
    assert [await client.packet() for _ in range(3)] == [b"first", b"second", b"third"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ({}, "abc"),
        ({"to": "A"}, "a"),
        ({"room": "A"}, "a"),
        ({"room": ["A", "B"]}, "ab"),
        ({"room": ("A", "AB")}, "ab"),
        ({"to": ["A", "sid c"]}, "ac"),
        ({"room": 42}, "b"),
        ({"room": "42"}, "c"),
        ({"to": "sid c"}, "c"),
        ({"to": "nobody's"}, ""),
        ({"skip_sid": "sid a"}, "bc"),
        ({"skip_sid": ["sid a", "sid c", None]}, "b"),
        ({"room": "AB", "skip_sid": "sid a"}, "b"),
        ({"to": "sid a", "skip_sid": "sid a"}, ""),
        ({"room": []}, ""),
    ],
)
@pytest.mark.parametrize("more", KINDS.values(), ids=KINDS.keys())
async def test_an_emit_reaches_those_that_it_addresses(
    server: Server, address: dict[str, Any], expected: str, more: dict[str, Any]
) -> None:
    clients = {name: await server.client() for name in "abc"}
    for name, room in [("a", "A"), ("a", "AB"), ("b", "AB"), ("b", "B"), ("b", 42), ("c", "42")]:
        await server.sio.enter_room(clients[name].sid, room)

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(item) for item in value]
        is_sid = isinstance(value, str) and value.startswith("sid ")
        return clients[value.removeprefix("sid ")].sid if is_sid else value

    await server.sio.emit("event", **{key: named(value) for key, value in address.items()}, **more)
    received = await packets_until_marker(server, *clients.values())
    assert "".join(name for name, packets in zip(clients, received, strict=True) if packets) == expected
    assert sum(map(len, received)) == len(expected)


async def test_an_emit_stays_in_its_namespace(path: Path) -> None:
    async with serving(path, namespaces=["/", "/other"]) as server:
        client = await server.client()
        await client.connect("/other")
        assert await client.event_of(server.sio.emit("x", 1, namespace="/other"), "/other") == ["x", 1]
        assert await client.event_of(server.sio.emit("y", 2)) == ["y", 2]


async def test_send_emits_the_event_message(server: Server) -> None:
    client = await server.client()
    assert await client.event_of(server.sio.send({"a": 1})) == ["message", {"a": 1}]
    assert await client.event_of(server.sio.send("to me", to=client.sid)) == ["message", "to me"]


async def test_an_emit_before_anybody_has_connected_is_stored(server: Server) -> None:
    offset = await server.sio.emit("early")
    client = await server.client()
    later = await server.sio.emit("later")
    assert await client.packet() == f'42["later","{later}"]'
    assert offset.partition(".")[2] == "1" and later.partition(".")[2] == "2"


async def test_a_volatile_emit_returns_nothing_and_ends_in_the_present_offset(server: Server) -> None:
    client = await server.client()
    offset = await server.sio.emit("stored")
    assert await server.sio.emit("volatile", "text", volatile=True) is None
    assert await client.packet() == f'42["stored","{offset}"]'
    assert await client.packet() == f'42["volatile","text","{offset}"]'


async def test_a_callback_is_called_with_what_the_client_answers(server: Server) -> None:
    client, answers = await server.client(), Seen()
    assert await server.sio.emit("question", ("a", 1), to=client.sid, callback=answers) is None
    packet = await client.packet()
    assert isinstance(packet, str) and packet.endswith('["question","a",1]')  # and no offset
    number = packet.removeprefix("42").partition("[")[0]
    await client.send(f'43{number}["yes",{{"really":true}}]')
    assert await answers.until(1) == [("yes", {"really": True})]
    await client.send(f'43{number}["again"]')
    await packets_until_marker(server, client)
    assert len(answers.all) == 1


async def test_call_returns_what_the_client_answers(server: Server) -> None:
    client = await server.client()
    numbers = set()
    for answer, expected in [('["yes"]', "yes"), ("[]", None), ("[1,2]", (1, 2))]:
        asked = asyncio.create_task(server.sio.call("question", b"\x00", to=client.sid))
        packet = await client.packet()
        assert isinstance(packet, str) and packet.startswith("451-")
        assert await client.packet() == b"\x00"
        number = packet.removeprefix("451-").partition("[")[0]
        numbers.add(int(number))
        await client.send(f"43{number}{answer}")
        assert await asked == expected
    # Numbers are not used twice, and JavaScript can count so far.
    assert len(numbers) == 3 and max(numbers) < 2**53


async def test_call_gives_up_when_the_client_does_not_answer(server: Server) -> None:
    client = await server.client()
    with pytest.raises(exceptions.TimeoutError):
        await server.sio.call("question", to=client.sid, timeout=0.01)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            {"event": "x", "room": 1.5},
            TypeError,
            "room's name must be str or int to be stored, not float: 1.5",
        ),
        ({"event": "x", "room": True}, TypeError, "not bool: True"),
        ({"event": "x", "room": [("a", "b")]}, TypeError, "not tuple"),
        ({"event": "x", "room": ["a", None]}, TypeError, "not NoneType: None"),
        ({"event": "x", "data": float("nan")}, ValueError, "not JSON compliant"),
        ({"event": "x", "data": {"a": [float("inf")]}}, ValueError, "not JSON compliant"),
        ({"event": "x", "data": {1, 2}}, TypeError, "type set is not JSON serializable"),
        ({"event": "x", "data": datetime.now(UTC)}, TypeError, "type datetime is not JSON"),
        ({"event": 42}, TypeError, "an event's name must be str, not int"),
        (
            {"event": "x", "data": "x" * 600},
            ValueError,
            r"event 'x' is 60\d bytes long; at most 500 can be sent",
        ),
        ({"event": "x", "data": b"x" * 501}, ValueError, "at most 500 can be sent"),
    ],
)
@pytest.mark.parametrize("more", KINDS.values(), ids=KINDS.keys())
async def test_what_cannot_be_sent_is_refused_in_words_and_nothing_is_sent(
    path: Path, arguments: dict[str, Any], error: type[Exception], text: str, more: dict[str, Any]
) -> None:
    async with serving(path, recovery={"max_client_buffer": 1_000}) as server:
        client = await server.client()
        with pytest.raises(error, match=text):
            await server.sio.emit(**arguments, **more)
        assert await packets_until_marker(server, client) == [[]]
        assert (await server.manager.start()).log.head == 1  # the marker


async def test_the_applications_json_module_encodes_events(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dumps(value: Any, **options: Any) -> str:
        return json.dumps(value, default=str, **options)

    for packet_class in (socketio.packet.Packet, engineio.packet.Packet):  # which python-socketio changes
        monkeypatch.setattr(packet_class, "json", packet_class.json)
    own = SimpleNamespace(dumps=dumps, loads=json.loads)
    async with serving(path, json=own) as server:
        client = await server.client()
        number, reply = decimal.Decimal("1.50"), Seen()
        assert await client.event_of(server.sio.emit("price", number)) == ["price", "1.50"]
        await server.sio.emit("price", number, to=client.sid, callback=reply)
        assert str(await client.packet()).endswith('["price","1.50"]')


async def test_a_json_module_that_does_not_make_json_is_noticed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for packet_class in (socketio.packet.Packet, engineio.packet.Packet):
        monkeypatch.setattr(packet_class, "json", packet_class.json)
    own = SimpleNamespace(dumps=lambda value, **_: f"<{value}>", loads=json.loads)
    async with serving(path, json=own) as server:
        with pytest.raises(ValueError, match="the server's json made"):
            await server.sio.emit("price", 1)


async def test_msgpack_clients_receive_and_miss_the_same_events(path: Path) -> None:
    msgpack = pytest.importorskip("msgpack")
    async with serving(path, serializer="msgpack") as server:
        client = await server.socket()
        await client.send(msgpack.packb({"type": 0, "nsp": "/"}))
        connect = msgpack.unpackb(await client.packet())
        offset = await server.sio.emit("x", {"bin": b"\x00\xff"})
        expected = {"type": 2, "nsp": "/", "data": ["x", {"bin": b"\x00\xff"}, offset]}
        assert msgpack.unpackb(await client.packet()).items() >= expected.items()
        again = await server.socket()
        await again.send(msgpack.packb({"type": 0, "nsp": "/", "data": {"pid": connect["data"]["pid"]}}))
        assert msgpack.unpackb(await again.packet())["data"] == connect["data"]
        assert msgpack.unpackb(await again.packet()).items() >= expected.items()


# Handlers -------------------------------------------------------------------------------------------


async def test_handlers_get_the_arguments_and_what_they_return_is_the_acknowledgement(server: Server) -> None:
    async def echo(_sid: str, *arguments: Any) -> Any:
        return arguments

    server.sio.on("echo", echo)
    server.sio.on("none", lambda _: None)
    server.sio.on("one", lambda _, argument: {"got": argument})
    client = await server.client()
    assert await client.call("echo", 1, {"a": "ü"}) == [1, {"a": "ü"}]
    assert await client.call("none") == []
    assert await client.call("one", "x") == [{"got": "x"}]
    await client.send('427["nobody handles this"]')
    assert await packets_until_marker(server, client) == [[]]


async def test_catch_all_handlers_and_namespaces_work(path: Path) -> None:
    def register(sio: Any) -> None:
        sio.on("*", lambda event, sid, *_: f"{event} by {sid}")
        sio.on("*", lambda event, namespace, *_: f"{event} in {namespace}", namespace="*")

    async with serving(path, register=register, namespaces="*") as server:
        client = await server.client()
        assert await client.call("any") == [f"any by {client.sid}"]
        await client.connect("/of/any/kind")
        assert await client.call("any", namespace="/of/any/kind") == ["any in /of/any/kind"]


@contextmanager
def reported_errors() -> Iterator[list[str]]:
    """What the event loop is told of: the errors of tasks that nobody awaits."""
    reported: list[str] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(type(context["exception"]).__name__))
    try:
        yield reported
        gc.collect()
    finally:
        loop.set_exception_handler(before)


async def test_a_handler_that_raises_harms_nobody_but_its_event(server: Server) -> None:
    async def fault(_sid: str) -> None:
        raise ZeroDivisionError

    with reported_errors() as errors:
        server.sio.on("fault", fault)
        client = await server.client()
        await client.send('427["fault"]')
        assert await packets_until_marker(server, client) == [[]]
    assert errors == ["ZeroDivisionError"]


async def test_without_async_handlers_events_are_handled_one_after_the_other(path: Path) -> None:
    seen, may_go = Seen(), asyncio.Event()

    async def slow(_sid: str) -> None:
        seen("slow begins")
        await may_go.wait()
        seen("slow ends")

    def register(sio: Any) -> None:
        sio.on("slow", slow)
        sio.on("quick", lambda _: seen("quick"))

    async with serving(path, register=register, async_handlers=False) as server:
        client = await server.client()
        await client.send('42["slow"]')
        await client.send('42["quick"]')
        await seen.until(1)
        assert await packets_until_marker(server, client) == [[]]
        assert seen.all == ["slow begins"]
        may_go.set()
        assert await seen.until(3) == ["slow begins", "slow ends", "quick"]


async def test_without_async_handlers_a_fault_does_not_close_the_transport(path: Path) -> None:
    def fault(_sid: str) -> None:
        raise ZeroDivisionError

    async with serving(path, register=lambda sio: sio.on("fault", fault), async_handlers=False) as server:
        server.sio.on("echo", lambda _, x: x)
        with reported_errors() as errors:
            client = await server.client()
            await client.send('42["fault"]')
            assert await client.call("echo", 1) == [1]
            polling = await server.polling()
            await polling.connect()
            await polling.send('42["fault"]', '427["echo",2]')
            assert await polling.poll() == ["437[2]"]
        assert errors == ["ZeroDivisionError"] * 2


async def test_a_callback_that_raises_does_not_close_the_transport(server: Server) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError

    client = await server.client()
    await server.sio.emit("question", to=client.sid, callback=fault)
    packet = str(await client.packet())
    with reported_errors() as errors:
        await client.send(f"43{packet.removeprefix('42').partition('[')[0]}[]")
        assert await client.event_of(server.sio.emit("still here")) == ["still here"]
    assert errors == ["ZeroDivisionError"]


class Chat(socketio.AsyncNamespace):  # type: ignore[misc]  # python-socketio is not typed
    """Handlers in a class, as python-socketio documents them."""

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace)
        self.seen = Seen()

    async def on_connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        self.seen("connect", sid, environ["REQUEST_METHOD"], auth)
        await self.enter_room(sid, "room")
        await self.save_session(sid, {"visits": 1})

    async def on_say(self, sid: str, text: str) -> Any:
        async with self.session(sid) as session:
            session["said"] = text
        return await self.emit("said", text, room="room", skip_sid=None)

    async def on_disconnect(self, sid: str, reason: str) -> None:
        self.seen("disconnect", sid, reason, self.rooms(sid), await self.get_session(sid))


async def test_class_based_namespaces_work(path: Path) -> None:
    chat = Chat("/chat")
    async with serving(path, register=lambda sio: sio.register_namespace(chat)) as server:
        client = await server.socket()
        sid = (await client.connect("/chat", auth={"token": "t"}))["sid"]
        await client.send('42/chat,7["say","hello"]')
        *event, offset = await client.event("/chat")
        assert event == ["said", "hello"]
        assert await client.content("43/chat,7") == [offset]
        await server.sio.disconnect(sid, namespace="/chat")
        assert await client.packet() == "41/chat,"
        data = {"visits": 1, "said": "hello"}
        assert await chat.seen.until(2) == [
            ("connect", sid, "GET", {"token": "t"}),
            ("disconnect", sid, "server disconnect", [sid, "room"], data),
        ]


class OwnServer(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio is not typed
    """An application's server with a method of its own, and one that it overrides."""

    async def shout(self, text: str) -> Any:
        return await self.emit("shouted", text.upper())

    async def emit(self, event: str, *arguments: Any, **options: Any) -> Any:
        return await super().emit(f"own {event}", *arguments, **options)


async def test_a_subclass_of_the_applications_keeps_its_methods(path: Path) -> None:
    async with serving(path, server_class=OwnServer) as server:
        assert isinstance(server.sio, OwnServer) and isinstance(server.sio, RecoverableServer)
        client = await server.client()
        *event, offset = await client.event_of(server.sio.shout("hello")), ""
        assert event == [["own shouted", "HELLO"]] and offset == ""


async def test_an_instrumented_server_works_as_before(path: Path) -> None:
    seen = Seen()

    def register(sio: Any) -> None:
        sio.on("connect", lambda *_: seen("connect"))
        sio.on("disconnect", lambda *_: seen("disconnect"))
        sio.on("echo", lambda _, x: x)

    async with serving(path, register=register) as server:
        admin = server.sio.instrument(auth=False, server_id="here")
        try:
            client = await server.socket()
            pid = (await client.connect())["pid"]
            await server.sio.enter_room(client.sid, "room")
            assert await client.call("echo", 1) == [1]
            assert await client.event_of(server.sio.emit("hello", room="room")) == ["hello"]
            await away(server, client)
            offset = await server.sio.emit("missed", room="room")
            again = await server.socket()
            assert (await again.connect(auth={"pid": pid}))["sid"] == client.sid
            assert (await again.event())[0] == "hello"
            assert await again.event() == ["missed", offset]
            await server.sio.disconnect(client.sid)
            assert await again.packet() == "41"
            assert seen.all == ["connect", "disconnect", "connect", "disconnect"]
        finally:
            admin.uninstrument()
            await admin.shutdown()


def test_a_python_socketio_without_a_needed_hook_is_refused(path: Path) -> None:
    class Changed(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio is not typed
        _send_packet = None

    with pytest.raises(RuntimeError, match="has no _send_packet"):
        Changed(async_mode="aiohttp", client_manager=RecoveryManager(path))


# Coming ---------------------------------------------------------------------------------------------

LEGACY: dict[str, Callable[..., Any]] = {
    "a handler that takes no auth": lambda _sid, _environ: None,
    "a handler that takes auth": lambda _sid, _environ, _auth: None,
    "a handler with a default": lambda _sid, _environ, auth=None: None if auth is None else False,
}


@pytest.mark.parametrize("handler", LEGACY.values(), ids=LEGACY.keys())
async def test_connect_handlers_of_any_age_work_also_on_recovery(
    path: Path, handler: Callable[..., Any]
) -> None:
    async with serving(path, register=lambda sio: sio.on("connect", handler)) as server:
        client = await server.socket()
        pid = (await client.connect())["pid"]
        offset = await server.sio.emit("x")
        again = await server.socket()
        assert (await again.connect(auth={"pid": pid, "offset": offset}))["pid"] == pid
        assert await results(server) == {Result.RECOVERED: 1}


async def test_the_connect_handler_sees_the_clients_auth_without_pid_and_offset(path: Path) -> None:
    seen = Seen()
    async with serving(path, register=lambda sio: sio.on("connect", lambda *a: seen(a[2]))) as server:
        await (await server.socket()).connect(auth={"pid": "x", "offset": "y", "token": "t"})
        await (await server.socket()).connect(auth={"pid": "x"})
        await (await server.socket()).connect(auth={})
        assert seen.all == [{"token": "t"}, None, None]


async def test_a_connect_handler_knows_whether_the_session_was_recovered(path: Path) -> None:
    seen = Seen()
    async with serving(path) as server:
        server.sio.on("connect", lambda sid, *_: seen(server.sio.recovered(sid)))
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await (await server.socket()).connect(auth={"pid": pid})
        assert seen.all == [False, True]
        with pytest.raises(KeyError, match="no session 'nobody'"):
            server.sio.recovered("nobody")


REFUSALS: dict[str, tuple[Any, Any]] = {
    "a refusal": (exceptions.ConnectionRefusedError(), {"message": "Connection rejected by server"}),
    "with words": (exceptions.ConnectionRefusedError("no"), {"message": "no"}),
    "with data": (exceptions.ConnectionRefusedError("no", {"a": 1}), {"message": "no", "data": {"a": 1}}),
    "with more": (exceptions.ConnectionRefusedError("no", 1, 2), {"message": "no", "data": [1, 2]}),
    "Python's own": (ConnectionRefusedError(), {"message": "Connection refused by server"}),
    "False": (False, {"message": "Connection rejected by server"}),
    "a fault": (ZeroDivisionError(), {"message": "Connection rejected by server"}),
    "a fault of type TypeError": (TypeError("mine"), {"message": "Connection rejected by server"}),
}


@pytest.mark.parametrize(("refusal", "answer"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_refused_client_is_told_why_and_leaves_nothing_behind(
    path: Path, refusal: Any, answer: Any
) -> None:
    async def connect(sid: str, _environ: Any) -> Any:
        await server.sio.enter_room(sid, "room")
        await server.sio.emit("for nobody", to=sid)
        if isinstance(refusal, Exception):
            raise refusal
        return refusal

    async with serving(path, register=lambda sio: sio.on("connect", connect)) as server:
        client = await server.socket()
        await client.send("40")
        assert await client.content("44") == answer
        runtime = await server.manager.start()
        assert list(runtime.registry) == [] and runtime.registry.rooms == {}
        await client.send("1")
        assert await client.rest() == []


async def test_a_connect_handler_that_disconnects_its_client_refuses_it(path: Path) -> None:
    async def connect(sid: str, _environ: Any) -> None:
        await server.sio.disconnect(sid)

    async with serving(path, register=lambda sio: sio.on("connect", connect)) as server:
        client = await server.socket()
        await client.send("40")
        assert "message" in await client.content("44")
        assert list((await server.manager.start()).registry) == []


async def test_what_a_connect_handler_emits_follows_connect(path: Path) -> None:
    async def connect(sid: str, _environ: Any) -> None:
        await server.sio.enter_room(sid, "room")
        await server.sio.emit("stored", to=sid)
        await server.sio.emit("to room", room="room")
        await server.sio.emit("asked", to=sid, callback=lambda: None)

    async with serving(path, register=lambda sio: sio.on("connect", connect)) as server:
        client = await server.client()
        assert (await client.event())[0] == "stored"
        assert (await client.event())[0] == "to room"
        assert str(await client.packet()).endswith('["asked"]')
        assert server.sio.rooms(client.sid) == [client.sid, "room"]


async def test_with_always_connect_the_client_is_told_before_its_handler_decides(path: Path) -> None:
    decisions: asyncio.Queue[bool] = asyncio.Queue()

    async def connect(*_: object) -> bool:
        return await decisions.get()

    async with serving(path, register=lambda sio: sio.on("connect", connect), always_connect=True) as server:
        accepted, refused = await server.client(), await server.client()
        await decisions.put(True)
        await decisions.put(False)
        assert await refused.packet() == "41"
        assert await accepted.event_of(server.sio.emit("hello", to=accepted.sid)) == ["hello"]
        assert server.sio.manager.is_connected(accepted.sid, "/")
        assert not server.sio.manager.is_connected(refused.sid, "/")


async def test_a_client_that_leaves_while_its_handler_runs_leaves_nothing_behind(path: Path) -> None:
    seen, may_go = Seen(), asyncio.Event()

    async def connect(sid: str, *_: object) -> None:
        seen(sid)
        await may_go.wait()

    def register(sio: Any) -> None:
        sio.on("connect", connect)
        sio.on("disconnect", lambda sid, _: seen(sid))

    async with serving(path, register=register) as server:
        client = await server.socket()
        await client.send("40")
        (sid,) = await seen.until(1)
        await client.leave()
        await until(lambda: not server.engine.sockets)
        may_go.set()
        assert await seen.until(2) == [sid, sid]  # what its connect handler began, disconnect ends
        runtime = await server.manager.start()
        await until(lambda: not list(runtime.registry))
        await server.sio.emit("so that all before it is on disk")
        assert await runtime.log.load_sessions() == []  # type: ignore[union-attr]


async def test_a_store_that_cannot_be_opened_is_reported_by_start_and_by_emit(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    sio = socketio.AsyncServer(
        async_mode="aiohttp", client_manager=RecoveryManager(tmp_path / "file" / "events.db")
    )
    for use in (sio.start, lambda: sio.emit("x")):
        with pytest.raises(StoreNotUsable, match=r"events\.db"):
            await use()


async def test_starting_at_the_same_time_opens_the_store_once(server: Server) -> None:
    runtimes = await asyncio.gather(*(server.manager.start() for _ in range(5)))
    assert len(set(map(id, runtimes))) == 1


# Going ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["transport", "client", "client for good", "server"])
async def test_a_disconnect_handler_can_ask_for_rooms_and_data(path: Path, how: str) -> None:
    seen = Seen()

    async def disconnect(sid: str, reason: str) -> None:
        data = await server.sio.get_session(sid)
        seen(reason, server.sio.rooms(sid), data, server.sio.recovered(sid))

    recovery = {"recover_client_disconnect": how != "client for good"}
    async with serving(
        path, recovery=recovery, register=lambda sio: sio.on("disconnect", disconnect)
    ) as server:
        client = await server.client()
        await server.sio.enter_room(client.sid, "room")
        await server.sio.save_session(client.sid, {"name": "Ada"})
        match how:
            case "transport":
                await client.leave()
            case "server":
                await server.sio.disconnect(client.sid)
            case _:
                await client.send("41")
        reason = {"transport": "transport close", "server": "server disconnect"}.get(how, "client disconnect")
        assert await seen.until(1) == [(reason, [client.sid, "room"], {"name": "Ada"}, False)]
        if how in ("client for good", "server"):
            registry = (await server.manager.start()).registry
            await until(lambda: registry.get("/", client.sid) is None)


async def test_a_disconnect_handler_of_the_old_kind_is_called_without_a_reason(path: Path) -> None:
    seen = Seen()

    def disconnect(sid: str) -> None:
        seen(sid)

    async with serving(path, register=lambda sio: sio.on("disconnect", disconnect)) as server:
        client = await server.client()
        await client.leave()
        assert await seen.until(1) == [client.sid]


async def test_leaving_rooms_in_the_disconnect_handler_changes_nothing(path: Path) -> None:
    seen = Seen()

    async def disconnect(sid: str, _reason: str) -> None:
        for room in list(server.sio.rooms(sid)):
            await server.sio.leave_room(sid, room)
        seen("left")

    async with serving(path, register=lambda sio: sio.on("disconnect", disconnect)) as server:
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await server.sio.enter_room(client.sid, "room")
        await client.leave()
        await seen.until(1)
        offset = await server.sio.emit("missed", room="room")
        again = await server.socket()
        await again.connect(auth={"pid": pid})
        assert await again.event() == ["missed", offset]
        assert server.sio.rooms(client.sid) == [client.sid, "room"]
        # Outside of that handler it counts.
        await server.sio.leave_room(client.sid, "room")
        assert server.sio.rooms(client.sid) == [client.sid]


async def test_a_disconnect_handler_that_raises_is_logged_and_the_session_recovers(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def disconnect(*_: object) -> None:
        raise ZeroDivisionError

    async with serving(path, register=lambda sio: sio.on("disconnect", disconnect)) as server:
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await away(server, client)
        assert (await (await server.socket()).connect(auth={"pid": pid}))["sid"] == client.sid
    assert "The disconnect handler of / failed" in caplog.text


async def test_a_takeover_calls_disconnect_before_connect_and_the_old_transport_falls_silent(
    path: Path,
) -> None:
    seen = Seen()

    def register(sio: Any) -> None:
        sio.on("connect", lambda sid, *_: seen("connect", sid))
        sio.on("disconnect", lambda sid, reason: seen("disconnect", sid, reason))

    async with serving(path, register=register) as server:
        old = await server.socket()
        pid = (await old.connect())["pid"]
        new = await server.socket()
        sid = (await new.connect(auth={"pid": pid}))["sid"]
        assert seen.all == [("connect", sid), ("disconnect", sid, "transport close"), ("connect", sid)]
        assert await old.packet() == "41"
        assert await new.event_of(server.sio.emit("hello")) == ["hello"]
        await old.send("1")
        assert await old.rest() == []
        assert server.sio.manager.is_connected(sid, "/")
        assert len(seen.all) == 3


async def test_a_takeover_that_is_refused_leaves_the_session_to_its_owner(path: Path) -> None:
    async def connect(_sid: str, _environ: Any, auth: Any) -> bool:
        return auth is None

    async with serving(path, register=lambda sio: sio.on("connect", connect)) as server:
        owner = await server.socket()
        pid = (await owner.connect())["pid"]
        thief = await server.socket()
        await thief.send(json.dumps({"pid": pid, "token": "wrong"}).join(["40", ""]))
        offset = await server.sio.emit("secret")
        assert "message" in await thief.content("44")
        packets = await owner.rest()  # closed without a DISCONNECT, so that the client comes back
        assert "41" not in packets
        back = await server.socket()
        assert (await back.connect(auth={"pid": pid}))["sid"] == owner.sid
        assert await back.event() == ["secret", offset]
        await thief.send("1")
        assert await thief.rest() == []
        assert await results(server) == {Result.REFUSED: 1, Result.RECOVERED: 1}


# Rooms and data of clients that are here or away ----------------------------------------------------


async def test_rooms_of_a_client_that_is_away_can_be_changed_and_count_from_then_on(server: Server) -> None:
    client = await server.socket()
    pid = (await client.connect())["pid"]
    await server.sio.enter_room(client.sid, "left")
    await away(server, client)
    expected = []
    await server.sio.emit("before", room="joined")
    expected.append(["before leaving", await server.sio.emit("before leaving", room="left")])
    await server.sio.enter_room(client.sid, "joined")
    await server.sio.leave_room(client.sid, "left")
    assert server.sio.rooms(client.sid) == [client.sid, "joined"]
    await server.sio.emit("after leaving", room="left")
    expected.append(["after", await server.sio.emit("after", room=["joined", "left"])])
    again = await server.socket()
    await again.connect(auth={"pid": pid})
    assert [await again.event(), await again.event()] == expected
    assert await packets_until_marker(server, again) == [[]]


async def test_closing_a_room_takes_out_clients_that_are_here_and_away(server: Server) -> None:
    here, gone = await server.client(), await server.client()
    for client in (here, gone):
        await server.sio.enter_room(client.sid, "room")
    await away(server, gone)
    await server.sio.close_room("room")
    assert [server.sio.rooms(client.sid) for client in (here, gone)] == [[here.sid], [gone.sid]]
    await server.sio.emit("to nobody", room="room")
    assert await packets_until_marker(server, here) == [[]]


async def test_data_of_a_client_that_is_away_can_be_read_and_saved(server: Server) -> None:
    client = await server.client()
    await server.sio.save_session(client.sid, {"name": "Ada"})
    await away(server, client)
    assert await server.sio.get_session(client.sid) == {"name": "Ada"}
    await server.sio.save_session(client.sid, {"name": "Grace", "list": [1, {"a": None}]})
    async with server.sio.session(client.sid) as session:
        session["more"] = True
    assert await server.sio.get_session(client.sid) == {
        "name": "Grace",
        "list": [1, {"a": None}],
        "more": True,
    }


async def test_data_are_a_copy_until_they_are_saved(server: Server) -> None:
    client, data = await server.client(), {"list": [1]}
    await server.sio.save_session(client.sid, data)
    data["list"].append(2)
    (await server.sio.get_session(client.sid))["list"].append(3)
    assert await server.sio.get_session(client.sid) == {"list": [1]}


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ({"a": [1, datetime.now(UTC)]}, TypeError, r"session\['a'\]\[1\] is of type datetime, which cannot"),
        ({"a": {"b": b"bytes"}}, TypeError, r"session\['a'\]\['b'\] is of type bytes"),
        ({"a": {1: "x"}}, TypeError, r"session\['a'\] has a key of type int: 1; JSON needs str"),
        ([1], TypeError, "session data must be a dict, not list"),
        ({"a": float("nan")}, ValueError, "not JSON compliant"),
        ({"a": "x" * 1_000}, ValueError, r"session data is 1\d+ characters long, at most 1000 can be saved"),
    ],
)
async def test_data_that_cannot_be_saved_are_refused_in_words_and_change_nothing(
    path: Path, data: Any, error: type[Exception], text: str
) -> None:
    async with serving(path, max_http_buffer_size=1_000) as server:
        client = await server.client()
        await server.sio.save_session(client.sid, {"kept": True})
        with pytest.raises(error, match=text):
            await server.sio.save_session(client.sid, data)
        assert await server.sio.get_session(client.sid) == {"kept": True}


@pytest.mark.parametrize("is_away", [True, False])
@pytest.mark.parametrize("how", ["disconnect", "revoke"])
async def test_a_session_that_was_ended_is_never_recovered(server: Server, how: str, is_away: bool) -> None:
    client = await server.socket()
    pid = (await client.connect())["pid"]
    if is_away:
        await away(server, client)
    await getattr(server.sio, how)(client.sid)
    if not is_away and how == "disconnect":
        assert await client.packet() == "41"
    elif not is_away:
        assert await client.rest() == []  # the client comes back at once, as a new one
    await server.sio.emit("secret", to=client.sid)
    again = await server.socket()
    answer = await again.connect(auth={"pid": pid})
    assert answer["sid"] != client.sid and answer["pid"] != pid
    assert await packets_until_marker(server, again) == [[]]
    assert await results(server) == {Result.UNKNOWN_SESSION: 1}
    with pytest.raises(KeyError):
        await server.sio.get_session(client.sid)


async def test_calls_for_unknown_sids_say_so_or_do_nothing(server: Server) -> None:
    client = await server.client()
    for unknown in ("nobody", client.sid + "x"):
        for call in (server.sio.get_session(unknown), server.sio.save_session(unknown, {})):
            with pytest.raises(KeyError, match="no session"):
                await call
        with pytest.raises(ValueError, match="sid is not connected to requested namespace"):
            await server.sio.enter_room(unknown, "room")
        await server.sio.leave_room(unknown, "room")
        await server.sio.disconnect(unknown)
        await server.sio.revoke(unknown)
        assert server.sio.rooms(unknown) == []


async def test_rooms_that_cannot_be_are_refused(server: Server) -> None:
    one, two = await server.client(), await server.client()
    with pytest.raises(ValueError, match="cannot enter a sid room"):
        await server.sio.enter_room(one.sid, two.sid)
    with pytest.raises(ValueError, match="cannot close a sid room"):
        await server.sio.close_room(one.sid)
    for room in (1.5, True, None, ("a",)):
        with pytest.raises(TypeError, match="a room's name must be str or int to be stored"):
            await server.sio.enter_room(one.sid, room)
    assert server.sio.rooms(one.sid) == [one.sid]


async def test_what_python_socketio_tells_about_clients_is_true(server: Server) -> None:
    client = await server.client()
    polling = await server.polling()
    sid = (await polling.connect())["sid"]
    assert (server.sio.transport(client.sid), server.sio.transport(sid)) == ("websocket", "polling")
    assert server.sio.get_environ(client.sid)["PATH_INFO"] == "/socket.io/"
    manager = server.manager
    assert manager.get_namespaces() == ["/"]
    assert {sid for sid, _ in manager.get_participants("/", None)} == {client.sid, sid}
    eio_sid = manager.eio_sid_from_sid(client.sid, "/")
    assert eio_sid is not None and manager.sid_from_eio_sid(eio_sid, "/") == client.sid
    assert manager.is_connected(client.sid, "/") and await manager.can_disconnect(client.sid, "/")
    await away(server, client)
    assert not manager.is_connected(client.sid, "/") and await manager.can_disconnect(client.sid, "/")
    assert manager.eio_sid_from_sid(client.sid, "/") is None
    assert [sid for sid, _ in manager.get_participants("/", None)] == [sid]


async def test_the_environ_of_a_connection_goes_with_it(server: Server) -> None:
    client = await server.client()
    assert len(server.sio.environ) == 1
    await away(server, client)
    await until(lambda: not server.sio.environ)


# Restart --------------------------------------------------------------------------------------------


async def test_sessions_rooms_and_data_are_there_after_a_restart(path: Path) -> None:
    async with serving(path) as server:
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await server.sio.enter_room(client.sid, "room")
        await server.sio.enter_room(client.sid, 42)
        await server.sio.save_session(client.sid, {"name": "Ada"})
        offset = await server.sio.emit("received", room=42)
        assert (await client.event())[-1] == offset
    assert "41" not in await client.rest()
    async with serving(path) as server:
        missed = await server.sio.emit("missed", room="room")
        again = await server.socket()
        assert (await again.connect(auth={"pid": pid, "offset": offset}))["sid"] == client.sid
        assert await again.event() == ["missed", missed]
        assert set(server.sio.rooms(client.sid)) == {client.sid, "room", 42}
        assert await server.sio.get_session(client.sid) == {"name": "Ada"}


async def test_after_its_shutdown_a_server_takes_nothing_any_more(server: Server) -> None:
    client = await server.client()
    await server.sio.shutdown()
    assert await client.rest() == []
    with pytest.raises(StoreClosed):
        await server.sio.emit("too late")
    assert (await Polling(server).get())[0] == 401
    await server.sio.shutdown()


async def test_disconnect_handlers_run_to_their_end_before_the_store_closes(path: Path) -> None:
    async def disconnect(sid: str, _reason: str) -> None:
        await asyncio.sleep(0)
        await server.sio.save_session(sid, {"said": "goodbye"})
        await server.sio.emit("gone", sid)

    async with serving(path, register=lambda sio: sio.on("disconnect", disconnect)) as server:
        client = await server.client()
    async with opened(path) as log:
        assert [stored.data for stored in await log.load_sessions()] == ['{"said":"goodbye"}']
        assert [logged.event.payload for logged in await log.read([1])] == [f'["gone","{client.sid}"]']


async def test_without_a_path_clients_cannot_recover_and_nothing_is_added() -> None:
    async with serving(None) as server:
        client = await server.socket()
        answer = await client.connect(auth={"pid": "x", "offset": "y"})
        assert list(answer) == ["sid"]
        assert await server.sio.emit("hello", "you") is None
        assert await client.packet() == '42["hello","you"]'
        await server.sio.save_session(client.sid, {"a": 1})
        assert await server.sio.get_session(client.sid) == {"a": 1}
        registry = (await server.manager.start()).registry
        await client.leave()
        await until(lambda: not list(registry))
