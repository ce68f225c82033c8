"""The Socket.IO server of new applications: python-socketio's, made with recovery from the start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Unpack

from socketio_eventstore.adapter.manager import RecoveryManager
from socketio_eventstore.adapter.recovery_arguments import RecoveryArguments
from socketio_eventstore.adapter.server import RecoveryServer


class ServerArguments(RecoveryArguments, total=False):
    """The keyword arguments of ``AsyncServer``, from ``RecoveryManager`` and python-socketio."""

    async_mode: Literal["aiohttp", "asgi"]
    logger: bool | logging.Logger
    engineio_logger: bool | logging.Logger
    serializer: Any
    json: Any
    async_handlers: bool
    always_connect: bool
    namespaces: Sequence[str] | Literal["*"] | None
    ping_interval: float | tuple[float, float]
    ping_timeout: float
    max_http_buffer_size: int
    allow_upgrades: bool
    http_compression: bool
    compression_threshold: int
    cookie: str | dict[str, Any] | Callable[..., Any] | None
    cors_allowed_origins: str | Sequence[str] | Callable[..., Any] | None
    cors_credentials: bool
    monitor_clients: bool
    transports: str | Sequence[str] | None


class AsyncServer(RecoveryServer):
    """``socketio.AsyncServer`` with recovery of sessions.

    ``path`` is the database file, or the URL of a PostgreSQL database (``postgresql://…``); None disables
    recovery. The keyword arguments are as in ``RecoveryManager`` and ``socketio.AsyncServer``, except
    ``client_manager``. Raises TypeError for any other name.
    """

    def __init__(self, path: str | Path | None, **arguments: Unpack[ServerArguments]) -> None:
        _check_names(arguments)
        mine = RecoveryArguments.__annotations__.keys()
        recovery: Any = {name: value for name, value in arguments.items() if name in mine}
        others = {name: value for name, value in arguments.items() if name not in mine}
        super().__init__(client_manager=RecoveryManager(path, **recovery), **others)


def _check_names(arguments: Mapping[str, object]) -> None:
    """Refuse unknown arguments, which python-engineio would ignore."""
    for name in arguments:
        if name == "client_manager":
            raise TypeError(
                "AsyncServer makes its own client_manager; "
                "pass a RecoveryManager to socketio.AsyncServer instead"
            )
        known = ServerArguments.__annotations__
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
            raise TypeError(f"AsyncServer has no argument {name!r}{hint}")
