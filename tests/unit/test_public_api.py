from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import engineio
import pytest
import socketio

import socketio_eventstore
from socketio_eventstore import AsyncServer, QueueFull, RecoveryManager, StoreError
from socketio_eventstore.adapter.async_server import ServerArguments
from socketio_eventstore.adapter.recovery_arguments import RecoveryArguments
from socketio_eventstore.core.options import Options
from socketio_eventstore.transport.engine import Engine


def test_every_public_name_is_there() -> None:
    """Each name of ``__all__`` can be imported, and ``dir`` lists it."""
    for name in socketio_eventstore.__all__:
        assert getattr(socketio_eventstore, name) is not None
        assert name in dir(socketio_eventstore)


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that is not public raises AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        _ = socketio_eventstore.Server


def test_import_is_lazy() -> None:
    """Importing the package does not import the frameworks."""
    code = "import sys, socketio_eventstore; print([m for m in ('socketio', 'aiohttp') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_errors_have_one_base() -> None:
    """Every exported error is a StoreError."""
    names = [name for name in socketio_eventstore.__all__ if name.startswith("Store")]
    assert all(issubclass(getattr(socketio_eventstore, name), StoreError) for name in names)
    assert issubclass(QueueFull, StoreError)


def test_argument_names_are_the_options() -> None:
    """The keyword arguments are the fields of ``Options``, less the place and the derived heartbeat."""
    names = {field.name for field in fields(Options)} - {"path", "url", "heartbeat"}
    assert set(RecoveryArguments.__annotations__) == names
    assert names < set(ServerArguments.__annotations__)


def test_every_argument_of_the_base_classes_is_known() -> None:
    """AsyncServer takes every named argument of python-socketio's and python-engineio's servers."""
    theirs = {
        name
        for base in (socketio.AsyncServer, engineio.AsyncServer)
        for cls in base.__mro__
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    } - {"self", "client_manager"}
    assert {"async_mode", "cors_credentials", "always_connect"} <= theirs
    assert theirs <= set(ServerArguments.__annotations__)


def test_async_server_is_a_subclass(tmp_path: Path) -> None:
    """AsyncServer is made by its own class, engine included; no class is changed afterwards."""
    sio = AsyncServer(tmp_path / "events.db", async_mode="asgi", ping_interval=7, synchronous="normal")
    assert type(sio) is AsyncServer and isinstance(sio, socketio.AsyncServer)
    assert type(sio.eio) is Engine and sio.eio.ping_interval == 7
    assert sio.manager.options == Options(
        path=tmp_path / "events.db", synchronous="normal", heartbeat=7 + sio.eio.ping_timeout
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"client_manager": None}, "AsyncServer makes its own client_manager"),
        ({"synchronus": "full"}, "no argument 'synchronus'; the nearest is 'synchronous'"),
        ({"xyzzy": 1}, "no argument 'xyzzy'$"),
    ],
)
def test_wrong_argument_is_named(arguments: dict[str, Any], expected: str) -> None:
    """A wrong keyword argument raises TypeError with its name."""
    with pytest.raises(TypeError, match=expected):
        AsyncServer("events.db", async_mode="asgi", **arguments)


def test_wrong_option_of_the_manager_is_named() -> None:
    """A wrong keyword argument of the manager raises TypeError with its name."""
    arguments: dict[str, Any] = {"max_disconnection": 1.0}
    with pytest.raises(TypeError, match="max_disconnection"):
        RecoveryManager("events.db", **arguments)
