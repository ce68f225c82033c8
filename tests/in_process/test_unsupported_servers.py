"""A server that cannot recover sessions is refused when it is made, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import socketio

from socketio_eventstore import AsyncServer, RecoveryManager

MODES = r"async_mode is 'sanic'; recovery works with 'aiohttp' and 'asgi'"


class OwnServer(socketio.Server):  # type: ignore[misc]  # python-socketio is not typed
    """A server as an extension makes it, for example Flask-SocketIO."""


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda manager: socketio.Server(async_mode="threading", client_manager=manager),
            TypeError,
            "Server",
        ),
        (lambda manager: OwnServer(async_mode="threading", client_manager=manager), TypeError, "OwnServer"),
        (
            lambda manager: socketio.AsyncServer(async_mode="sanic", client_manager=manager),
            RuntimeError,
            MODES,
        ),
        (lambda _: AsyncServer(None, async_mode=cast("Any", "sanic")), RuntimeError, MODES),
    ],
    ids=["Server", "subclass", "sanic", "own sanic"],
)
def test_unsupported_server_is_refused(make: Callable[[Any], Any], error: type[Exception], text: str) -> None:
    """The error names what works; none blames a version."""
    with pytest.raises(error, match=text) as raised:
        make(RecoveryManager(None))
    assert "version" not in str(raised.value)


def test_tornado_is_refused() -> None:
    """Another mode of python-engineio is refused like sanic."""
    server = socketio.AsyncServer(async_mode="asgi")
    server.eio.async_mode = "tornado"
    with pytest.raises(RuntimeError, match="async_mode is 'tornado'"):
        RecoveryManager(None).set_server(server)


def test_synchronous_server_is_named() -> None:
    """The error for a synchronous server says what to use, and names Flask-SocketIO."""
    with pytest.raises(TypeError, match=r"needs a socketio.AsyncServer; Server has .*Flask-SocketIO"):
        socketio.Server(async_mode="threading", client_manager=RecoveryManager(None))


def test_manager_of_two_servers_is_refused() -> None:
    """A second server would take the clients of the first."""
    manager = RecoveryManager(None)
    socketio.AsyncServer(async_mode="asgi", client_manager=manager)
    with pytest.raises(RuntimeError, match="belongs to another server"):
        socketio.AsyncServer(async_mode="asgi", client_manager=manager)
