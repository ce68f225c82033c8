from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import socketio
from socketio import exceptions

from socketio_eventlog.errors import StoreNotUsable
from socketio_eventstore import RecoveryManager
from socketio_eventstore.core.recovery import RecoveryResult
from support.embedded import Seen, Server, results, serving, until

LEGACY: dict[str, Callable[..., Any]] = {
    "a handler that takes no auth": lambda _sid, _environ: None,
    "a handler that takes auth": lambda _sid, _environ, _auth: None,
    "a handler with a default": lambda _sid, _environ, auth=None: None if auth is None else False,
}


@pytest.mark.parametrize("handler", LEGACY.values(), ids=LEGACY.keys())
async def test_connect_handlers_with_any_signature(path: Path, handler: Callable[..., Any]) -> None:
    """Connect handlers with any supported signature are called, on recovery as well."""
    async with serving(path, register=lambda sio: sio.on("connect", handler)) as server:
        client = await server.socket()
        pid = (await client.connect())["pid"]
        offset = await server.sio.emit("x")
        again = await server.socket()
        assert (await again.connect(auth={"pid": pid, "offset": offset}))["pid"] == pid
        assert await results(server) == {RecoveryResult.RECOVERED: 1}


async def test_connect_handler_gets_auth_without_pid(path: Path) -> None:
    """The connect handler receives the client's auth without pid and offset."""
    seen = Seen()
    async with serving(path, register=lambda sio: sio.on("connect", lambda *a: seen(a[2]))) as server:
        await (await server.socket()).connect(auth={"pid": "x", "offset": "y", "token": "t"})
        await (await server.socket()).connect(auth={"pid": "x"})
        await (await server.socket()).connect(auth={})
        assert seen.all == [{"token": "t"}, None, None]


async def test_recovered_inside_the_connect_handler(path: Path) -> None:
    """``recovered`` tells the connect handler whether the session was recovered."""
    seen = Seen()
    async with serving(path) as server:
        server.sio.on("connect", lambda sid, *_: seen(server.sio.recovered(sid)))
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await (await server.socket()).connect(auth={"pid": pid})
        assert seen.all == [False, True]
        with pytest.raises(KeyError, match="no session 'nobody'"):
            server.sio.recovered("nobody")


async def test_recovery_result_names_the_reason(path: Path) -> None:
    """``recovery_result`` says why a client recovered its session, or why not."""
    seen = Seen()
    async with serving(path) as server:
        sio = server.sio
        sio.on("connect", lambda sid, *_: seen(sio.recovery_result(sid)))
        client = await server.socket()
        pid = (await client.connect())["pid"]
        for auth in ({"pid": pid}, {"pid": "another"}, {"pid": pid, "offset": "1"}, {"pid": 7}):
            await (await server.socket()).connect(auth=auth)
        assert seen.all == [None, "recovered", "unknown_session", "bad_offset", "unknown_session"]
        with pytest.raises(KeyError, match="no session 'nobody'"):
            sio.recovery_result("nobody")


async def test_recovery_result_of_another_identity(path: Path) -> None:
    """A client of another identity learns that its claim was refused."""
    seen = Seen()
    async with serving(path) as server:
        sio = server.sio

        async def connect(sid: str, _environ: Any, auth: dict[str, str]) -> None:
            await sio.bind(sid, auth["as"])
            seen(sio.recovery_result(sid))

        sio.on("connect", connect)
        pid = (await (await server.socket()).connect(auth={"as": "alice"}))["pid"]
        assert (await (await server.socket()).connect(auth={"as": "bob", "pid": pid}))["pid"] != pid
        assert seen.all == [None, "refused"]


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
async def test_refused_client_gets_the_reason(path: Path, refusal: Any, answer: Any) -> None:
    """A refused client receives the reason, and its session is removed."""

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


async def test_disconnect_in_the_connect_handler_refuses(path: Path) -> None:
    """``disconnect`` inside the connect handler refuses the client."""

    async def connect(sid: str, _environ: Any) -> None:
        await server.sio.disconnect(sid)

    async with serving(path, register=lambda sio: sio.on("connect", connect)) as server:
        client = await server.socket()
        await client.send("40")
        assert "message" in await client.content("44")
        assert list((await server.manager.start()).registry) == []


async def test_emits_of_the_connect_handler_come_later(path: Path) -> None:
    """Events that the connect handler emits follow the CONNECT packet."""

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


async def test_always_connect_sends_connect_first(path: Path) -> None:
    """With ``always_connect`` CONNECT is sent before the connect handler decides."""
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


async def test_transport_ends_during_the_connect_handler(path: Path) -> None:
    """A session whose transport ends during its connect handler is removed."""
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
        assert (await runtime.log.counts())[0] == 0


async def test_unusable_store_fails_start_and_emit(tmp_path: Path) -> None:
    """``start`` and ``emit`` raise StoreNotUsable for a store that cannot be opened."""
    (tmp_path / "file").write_text("no folder")
    sio = socketio.AsyncServer(
        async_mode="aiohttp", client_manager=RecoveryManager(tmp_path / "file" / "events.db")
    )
    for use in (sio.start, lambda: sio.emit("x")):
        with pytest.raises(StoreNotUsable, match=r"events\.db"):
            await use()


async def test_concurrent_starts_open_the_store_once(server: Server) -> None:
    """Concurrent calls of ``start`` open the store once."""
    runtimes = await asyncio.gather(*(server.manager.start() for _ in range(5)))
    assert len(set(map(id, runtimes))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", b"raw"), "x"),
        (("x", float("nan")), "x"),
        (("x", {"when": {1, 2}}), "x"),
        ((b"raw",), "b'raw'"),
    ],
)
@pytest.mark.parametrize("serializer", ["default", "msgpack"])
async def test_refusal_that_clients_cannot_read(
    path: Path, arguments: tuple[Any, ...], message: str, serializer: str
) -> None:
    """A reason that clients cannot read is left out; the client still gets a CONNECT_ERROR."""
    msgpack = pytest.importorskip("msgpack")

    def refuse(*_: Any) -> None:
        raise exceptions.ConnectionRefusedError(*arguments)

    async with serving(path, serializer=serializer, register=lambda sio: sio.on("connect", refuse)) as server:
        client = await server.socket()
        if serializer == "default":
            await client.send("40")
            assert await client.content("44") == {"message": message}
        else:
            await client.send(msgpack.packb({"type": 0, "nsp": "/"}))
            answer = msgpack.unpackb(await client.packet())
            assert (answer["type"], answer["data"]["message"]) == (4, message)


async def test_refusal_that_the_serializer_cannot_take(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the serializer raises for a reason, the client hears that it is refused, and stays away."""

    class Faulty(socketio.packet.Packet):  # type: ignore[misc]  # python-socketio is not typed
        def encode(self) -> Any:
            if "reason" in str(self.data):
                raise ZeroDivisionError
            return super().encode()

    def refuse(*_: Any) -> None:
        raise exceptions.ConnectionRefusedError("x", "a reason")

    async with serving(path, serializer=Faulty, register=lambda sio: sio.on("connect", refuse)) as server:
        client = await server.socket()
        await client.send("40")
        assert await client.content("44") == {"message": "x"}
        assert "cannot be sent: ZeroDivisionError()" in caplog.text
