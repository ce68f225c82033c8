from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import socketio

from socketio_eventstore import RecoveryManager
from socketio_eventstore.adapter.server import RecoveryServer
from support.embedded import Seen, Server, away, packets_until_marker, serving


async def test_handler_result_is_the_acknowledgement(server: Server) -> None:
    """A handler receives the arguments, and its result becomes the acknowledgement."""

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


async def test_emit_of_the_manager_is_a_coroutine(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can become a task, as in python-socketio; and an emit that a tool has put in its place is called."""
    manager = server.sio.manager
    await server.sio.start()
    assert await asyncio.create_task(manager.emit("said", 1, "/"))
    seen: list[str] = []
    original = manager.emit

    async def observe(event: str, *arguments: Any, **options: Any) -> Any:
        seen.append(event)
        return await original(event, *arguments, **options)

    monkeypatch.setattr(manager, "emit", observe)
    assert await server.sio.emit("said", 2)
    assert seen == ["said"]


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
    """The types of the exceptions that the server logs."""
    reported: list[str] = []

    class Recording(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info is not None and record.exc_info[0] is not None:
                reported.append(record.exc_info[0].__name__)

    handler, logger = Recording(), logging.getLogger("socketio_eventstore.adapter")
    logger.addHandler(handler)
    try:
        yield reported
    finally:
        logger.removeHandler(handler)


async def test_failing_handler_keeps_its_connection(server: Server) -> None:
    """A failing event handler is reported, and its connection stays open."""

    async def fault(_sid: str) -> None:
        raise ZeroDivisionError

    with reported_errors() as errors:
        server.sio.on("fault", fault)
        client = await server.client()
        await client.send('427["fault"]')
        assert await packets_until_marker(server, client) == [[]]
    assert errors == ["ZeroDivisionError"]


async def test_sync_handlers_run_one_after_the_other(path: Path) -> None:
    """Without ``async_handlers`` the events of a client are handled one after the other."""
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


async def test_failing_sync_handler_keeps_its_connection(path: Path) -> None:
    """Without ``async_handlers`` a failing handler does not close the transport."""

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
        assert errors == ["ZeroDivisionError"]  # of the first call


async def test_failing_callback_keeps_its_connection(server: Server) -> None:
    """A failing callback does not close the transport."""

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


async def test_subclass_of_the_server_keeps_its_methods(path: Path) -> None:
    """A subclass of ``socketio.AsyncServer`` keeps its own and overridden methods."""
    async with serving(path, server_class=OwnServer) as server:
        assert isinstance(server.sio, OwnServer) and isinstance(server.sio, RecoveryServer)
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


def test_missing_hook_of_python_socketio_is_refused(path: Path) -> None:
    """A python-socketio without a required hook is refused."""

    class Changed(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio is not typed
        _send_packet = None

    with pytest.raises(RuntimeError, match="has no _send_packet"):
        Changed(async_mode="aiohttp", client_manager=RecoveryManager(path))
