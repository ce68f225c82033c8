from __future__ import annotations

import asyncio
import decimal
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import engineio.packet
import pytest
import socketio
from socketio import exceptions

from support.embedded import Seen, Server, away, packets_until_marker, serving

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
async def test_emit_data_become_arguments_before_the_offset(server: Server, data: Any, text: str) -> None:
    """The data of an emit become the arguments; the offset is the last argument."""
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
        ({"to": []}, ""),
        ({"to": ()}, ""),
        ({"to": set()}, ""),
        ({"to": {}}, ""),
        ({"to": [], "room": "A"}, ""),
        ({"to": 0}, "a"),
        ({"to": ""}, "b"),
        ({"to": 0, "room": "B"}, "a"),
        ({"to": "", "room": "A"}, "b"),
        ({"room": 0}, "a"),
        ({"room": ""}, "b"),
        ({"to": [0, ""]}, "ab"),
        ({"to": None, "room": "B"}, "b"),
        ({"skip_sid": []}, "abc"),
        ({"skip_sid": ""}, "abc"),
        ({"skip_sid": 0}, "abc"),
        ({"to": 0, "skip_sid": set()}, "a"),
    ],
)
@pytest.mark.parametrize("more", KINDS.values(), ids=KINDS.keys())
async def test_emit_reaches_the_addressed_clients(
    server: Server, address: dict[str, Any], expected: str, more: dict[str, Any]
) -> None:
    """An emit reaches the clients that its rooms and sids address, except the skipped ones."""
    clients = {name: await server.client() for name in "abc"}
    joins = [("a", "A"), ("a", "AB"), ("b", "AB"), ("b", "B"), ("b", 42), ("c", "42"), ("a", 0), ("b", "")]
    for name, room in joins:
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


async def test_emit_without_clients_is_stored(server: Server) -> None:
    """An event that is emitted before any client connects is stored."""
    offset = await server.sio.emit("early")
    client = await server.client()
    later = await server.sio.emit("later")
    assert await client.packet() == f'42["later","{later}"]'
    assert offset.partition(".")[2] == "1" and later.partition(".")[2] == "2"


async def test_large_volatile_emits_let_others_run(server: Server) -> None:
    """A handler that emits large volatile events in a loop keeps no other task waiting."""
    served: list[None] = []

    async def other() -> None:
        while True:
            served.append(None)
            await asyncio.sleep(0)

    await server.client()
    task = asyncio.create_task(other())
    for _ in range(20):
        await server.sio.emit("large", "x" * 50_000, volatile=True)
    assert len(served) >= 20
    task.cancel()


async def test_volatile_emit_ends_in_the_current_offset(server: Server) -> None:
    """A volatile emit returns None, and its packet ends in the current offset."""
    client = await server.client()
    offset = await server.sio.emit("stored")
    assert await server.sio.emit("volatile", "text", volatile=True) is None
    assert await client.packet() == f'42["stored","{offset}"]'
    assert await client.packet() == f'42["volatile","text","{offset}"]'


async def test_callback_receives_the_acknowledgement(server: Server) -> None:
    """A callback receives the arguments of the acknowledgement, once."""
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


async def test_call_returns_the_acknowledgement(server: Server) -> None:
    """``call`` returns the arguments of the acknowledgement."""
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
    # An ack id is never used twice, and JavaScript can count so far.
    assert len(numbers) == 3 and max(numbers) < 2**53


async def test_call_without_acknowledgement_times_out(server: Server) -> None:
    """``call`` raises TimeoutError when the client sends no acknowledgement."""
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
        ({"event": "x", "to": b"ab"}, TypeError, "not bytes"),
        ({"event": "x", "room": True}, TypeError, "not bool: True"),
        ({"event": "x", "room": [("a", "b")]}, TypeError, "not tuple"),
        ({"event": "x", "room": ["a", None]}, TypeError, "not NoneType: None"),
        ({"event": "x", "data": float("nan")}, ValueError, "not JSON compliant"),
        ({"event": "x", "data": {"a": [float("inf")]}}, ValueError, "not JSON compliant"),
        ({"event": "x", "data": {1, 2}}, TypeError, "type set is not JSON serializable"),
        ({"event": "x", "data": datetime.now(UTC)}, TypeError, "type datetime is not JSON"),
        ({"event": 42}, TypeError, "an event's name must be str, not int"),
        ({"event": "\ud800"}, ValueError, "event's name cannot be stored"),
        ({"event": "x", "namespace": "/\udfff"}, ValueError, "namespace cannot be stored"),
        ({"event": "x", "room": "\ud800"}, ValueError, "room's name cannot be stored"),
        ({"event": "x", "room": ["ü", "a\udc00"]}, ValueError, "room's name cannot be stored"),
        ({"event": "x", "to": 2**63}, ValueError, "must fit into 64 bits"),
        ({"event": "x", "to": [-(2**63) - 1]}, ValueError, "must fit into 64 bits"),
        ({"event": "x", "skip_sid": "\ud800"}, ValueError, "sid to skip cannot be stored"),
        ({"event": "connect"}, ValueError, "event name 'connect' is reserved"),
        ({"event": "connect_error", "data": 1}, ValueError, "is reserved"),
        ({"event": "disconnect", "data": "text"}, ValueError, "is reserved"),
        ({"event": "disconnecting", "data": b"1"}, ValueError, "is reserved"),
        ({"event": "newListener"}, ValueError, "is reserved"),
        ({"event": "removeListener"}, ValueError, "is reserved"),
        ({"event": "x", "data": [b"1"] * 11}, ValueError, "11 binary arguments; at most 10 can be sent"),
        ({"event": "x", "data": ({"a": [b"1"] * 6}, *[b"1"] * 5)}, ValueError, "at most 10"),
        ({"event": "x", "data": (b"1", {"_placeholder": True, "num": 0})}, ValueError, "'_placeholder'"),
        ({"event": "x", "data": [{"_placeholder": True}, b"1"]}, ValueError, "cannot be sent together"),
        ({"event": "x", "data": ({"_placeholder": 1, "num": "1", "a": b"1"},)}, ValueError, "'_placeholder'"),
        (
            {"event": "x", "data": "x" * 600},
            ValueError,
            r"event 'x' is 60\d bytes long; at most 500 can be sent",
        ),
        ({"event": "x", "data": b"x" * 501}, ValueError, "at most 500 can be sent"),
    ],
)
@pytest.mark.parametrize("more", KINDS.values(), ids=KINDS.keys())
async def test_unsendable_emit_is_refused(
    path: Path, arguments: dict[str, Any], error: type[Exception], text: str, more: dict[str, Any]
) -> None:
    """An emit that cannot be sent raises a clear error and sends nothing."""
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


async def test_json_module_without_json_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``emit`` raises ValueError when the application's json module makes no JSON."""
    for packet_class in (socketio.packet.Packet, engineio.packet.Packet):
        monkeypatch.setattr(packet_class, "json", packet_class.json)
    own = SimpleNamespace(dumps=lambda value, **_: f"<{value}>", loads=json.loads)
    async with serving(path, json=own) as server:
        with pytest.raises(ValueError, match="the server's json made"):
            await server.sio.emit("price", 1)


async def test_invalid_msgpack_packet_closes_connection(path: Path) -> None:
    """An invalid msgpack packet closes its own connection only."""
    msgpack = pytest.importorskip("msgpack")
    async with serving(path, serializer="msgpack", async_handlers=False) as server:
        for nonsense in (
            {"type": 2, "nsp": [1], "data": ["x"]},
            {"type": 2, "nsp": "/", "id": "1", "data": ["x"]},
        ):
            client = await server.socket()
            await client.send(msgpack.packb(nonsense))
            assert await client.rest() == []


async def test_msgpack_clients_receive_and_recover(path: Path) -> None:
    """Clients with the msgpack parser receive events live and on recovery."""
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


NOT_EVERYBODY: dict[str, Any] = {"a list": [], "a tuple": (), "a set": set(), "zero": 0, "an empty text": ""}


@pytest.mark.parametrize("to", NOT_EVERYBODY.values(), ids=NOT_EVERYBODY.keys())
async def test_replay_sends_no_event_without_room(path: Path, to: Any) -> None:
    """A replay, also after a restart, sends no event that was emitted to an empty address."""
    async with serving(path) as server:
        client = await server.socket()
        answer = await client.connect()
        await away(server, client)
        await server.sio.emit("nobody", to=to)
        last = await server.sio.emit("everybody")
        returned = await server.client({"pid": answer["pid"]})
        assert await returned.event() == ["everybody", last]
    async with serving(path) as server:
        returned = await server.client({"pid": answer["pid"]})
        assert await returned.event() == ["everybody", last]


@pytest.mark.parametrize("to", NOT_EVERYBODY.values(), ids=NOT_EVERYBODY.keys())
async def test_call_to_an_empty_address(server: Server, to: Any) -> None:
    """``call`` to an empty address asks no client, whatever ``sid`` says."""
    client = await server.client()
    with pytest.raises(exceptions.TimeoutError):
        await server.sio.call("question", to=to, sid=client.sid, timeout=0.01)
    assert await packets_until_marker(server, client) == [[]]


@pytest.mark.parametrize("to", NOT_EVERYBODY.values(), ids=NOT_EVERYBODY.keys())
async def test_namespace_emits_to_an_empty_address(server: Server, to: Any) -> None:
    """The methods of ``AsyncNamespace`` reach no client by an empty address."""
    namespace = socketio.AsyncNamespace("/")
    server.sio.register_namespace(namespace)
    client = await server.client()
    await namespace.emit("event", to=to)
    await namespace.emit("event", room=to)
    await namespace.send("text", to=to)
    with pytest.raises(exceptions.TimeoutError):
        await namespace.call("question", to=to, timeout=0.01)
    assert await packets_until_marker(server, client) == [[]]
