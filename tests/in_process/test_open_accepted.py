"""New sessions that no connect handler can refuse: opened and accepted in one transaction."""

from __future__ import annotations

import bisect
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import socketio

from socketio_eventstore import RecoveryManager
from socketio_eventstore.core.sessions import State
from support.embedded import Seen, serving, until


def refuse(*_: Any) -> bool:
    return False


class Refusing(socketio.AsyncNamespace):  # type: ignore[misc]  # python-socketio is not typed
    async def on_connect(self, *_: Any) -> bool:
        return False


@pytest.mark.parametrize(
    "register",
    [
        pytest.param(lambda sio: sio.on("connect", refuse), id="handler"),
        pytest.param(lambda sio: sio.on("connect", refuse, namespace="*"), id="for all namespaces"),
        pytest.param(lambda sio: sio.register_namespace(Refusing("/")), id="class"),
        pytest.param(lambda sio: sio.register_namespace(Refusing("*")), id="class for all namespaces"),
    ],
)
async def test_every_kind_of_handler_may_refuse(path: Path, register: Callable[[Any], None]) -> None:
    """A connect handler is called, however it was registered."""
    async with serving(path, register=register) as server:
        client = await server.socket()
        await client.send("40")
        assert str(await client.packet()).startswith("44")


async def test_server_class_with_handlers_of_its_own(path: Path) -> None:
    """A server class that calls handlers itself is asked for each client."""
    seen = Seen()

    class Server(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio is not typed
        async def _trigger_event(self, event: str, *arguments: Any) -> Any:
            seen(event)
            return await super()._trigger_event(event, *arguments)

    sio = Server(async_mode="aiohttp", client_manager=RecoveryManager(path))
    assert sio.handles("connect", "/")


async def test_handler_calls_that_are_replaced_later(path: Path) -> None:
    """A tool that replaces ``_trigger_event`` of a server sees the events of clients, too."""
    seen = Seen()
    async with serving(path) as server:
        original = server.sio._trigger_event

        async def observe(event: str, *arguments: Any) -> Any:
            seen(event)
            return await original(event, *arguments)

        async def hello(sid: str) -> None:
            pass

        server.sio.on("hello", hello)
        server.sio._trigger_event = observe
        client = await server.client()
        await client.send('42["hello"]')
        assert await seen.until(2) == ["connect", "hello"]


def test_emit_is_a_coroutine_function(path: Path) -> None:
    """Background tasks and mocks ask whether a call is a coroutine function, as on the stock server."""
    sio = socketio.AsyncServer(async_mode="aiohttp", client_manager=RecoveryManager(path))
    names = [name for name in dir(socketio.AsyncServer) if not name.startswith("_")]
    for name in names:
        stock = inspect.iscoroutinefunction(getattr(socketio.AsyncServer, name))
        assert inspect.iscoroutinefunction(getattr(sio, name)) == stock, name


async def test_client_that_leaves_before_the_commit(path: Path) -> None:
    """A client that leaves while its session is stored leaves no session behind."""
    async with serving(path) as server:
        await server.sio.start()
        client = await server.socket()
        (connection,) = server.engine.sockets.values()
        connection.data_received("40")
        connection.abort("the client leaves")
        runtime, admission = server.sio.manager.runtime, server.sio._clients.admission
        assert runtime is not None and admission.answers_for(connection)
        await until(lambda: not admission.answers_for(connection))
        await until(lambda: not list(runtime.registry))
        assert await runtime.log.counts() == (0, 0)
        assert await client.rest() == []


async def test_shutdown_waits_for_the_answer(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A client that is being accepted at the shutdown leaves neither a session nor an error behind."""
    async with serving(path) as server:
        await server.sio.start()
        await server.socket()
        (connection,) = server.engine.sockets.values()
        connection.data_received("40")
        await server.sio.shutdown()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    async with serving(path) as server:
        runtime = await server.sio.manager.start()
        assert {session.state for session in runtime.registry} <= {State.AWAY}
        assert (await runtime.log.counts())[0] == len(list(runtime.registry))


def deepest_that_is_parsed() -> int:
    """The depth of lists that the parser takes in this Python, with the frames that stand below it here."""

    def is_parsed(depth: int) -> bool:
        try:
            json.loads("[" * depth + "]" * depth)
        except RecursionError:
            return False
        return True

    return bisect.bisect_left(range(1, 100_000), True, key=lambda depth: not is_parsed(depth))


async def test_auth_that_is_nested_too_deeply(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An auth that is parsed and cannot be hashed is one line for its client, no fault of the transport."""
    async with serving(path) as server:
        deepest = deepest_that_is_parsed()
        for depth in range(deepest - 30, deepest + 10):
            client = await server.socket()
            await client.send('40{"a":' + "[" * depth + "]" * depth + "}")
            await client.packet()
        said = [record.getMessage() for record in caplog.records]
        if sys.version_info < (3, 12):  # later ones hash whatever they can parse
            assert any("could not connect to /" in text for text in said)
        assert not any(record.name == "asyncio" for record in caplog.records), said
        client = await server.socket()
        await client.send("40")
        assert str(await client.packet()).startswith("40")


async def test_opening_that_fails_is_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake that fails for a fault of the server takes no place in the limits."""

    async def fail(_: Any) -> bool:
        raise RuntimeError

    async with serving(path) as server:
        monkeypatch.setattr(server.engine, "connection_opened", fail)
        response = await server.http.get(server.url, params={"EIO": "4", "transport": "polling"})
        assert response.status == 500
        assert not server.engine.sockets and not server.engine.pending
