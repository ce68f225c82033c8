"""New sessions that no connect handler can refuse: opened and accepted in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import socketio

from socketio_eventstore import RecoveryManager
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
