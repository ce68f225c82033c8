"""The Engine.IO server, as its connections see it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.transport.packet_log import PacketLog
from socketio_eventstore.transport.rate_limits import RateLimits
from socketio_eventstore.transport.shared_rounds import SharedRounds

if TYPE_CHECKING:
    from socketio_eventstore.transport.connection import EngineConnection

HandleMessage = Callable[["EngineConnection", "str | bytes"], "asyncio.Task[None] | None"]
"""Handles an Engine.IO message. Returns the task of the started handler, if any."""


class EngineServer(Protocol):
    """The Engine.IO server as its connections see it.

    ``engine.Engine`` and its base classes, such as ``Opening``, describe the attributes.
    """

    ping_interval: float
    ping_timeout: float
    max_client_buffer: int
    handlers_at_once: int
    slow_clients: int
    received_bytes: int
    pending: int
    rate_limits: RateLimits
    shared_rounds: SharedRounds
    refused_handshakes: Counter[str]
    failures: RepeatedFailures
    sockets: dict[str, EngineConnection]
    reason: Any
    connection_closed: Callable[[EngineConnection, str], None]
    handle_message: HandleMessage
    ping_written: Callable[[EngineConnection], None]
    sessions_left: Callable[[EngineConnection], None]
    flush: Callable[[], None]
    packet_log: PacketLog | None
