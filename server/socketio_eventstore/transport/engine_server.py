"""The interface of ``engine.Engine`` for its connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio

    from socketio_eventstore.transport.connection import EngineConnection

HandleMessage = Callable[["EngineConnection", "str | bytes"], "asyncio.Task[None] | None"]
"""Handles an Engine.IO message. Returns the task of the started handler, if any."""


class EngineServer(Protocol):
    """The Engine.IO server as its connections see it. ``engine.Engine`` describes the attributes."""

    ping_interval: float
    ping_timeout: float
    max_client_buffer: int
    handlers_at_once: int
    slow_clients: int
    sockets: dict[str, EngineConnection]
    reason: Any
    connection_closed: Callable[[EngineConnection, str], None]
    handle_message: HandleMessage
    ping_written: Callable[[EngineConnection], None]
    flush: Callable[[], None]
