"""Answers to CONNECT without a session: refusals, and the end of a connection after a failed answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from socketio_eventlog.errors import StoreError
from socketio_eventstore.adapter.application import Application
from socketio_eventstore.adapter.handlers import HandlerCalls
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operations import SendPacket
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.transport.address_limits import CONNECTIONS, AddressPlace
from socketio_eventstore.transport.connection import EngineConnection

REFUSED_SECONDS: Final = 2.0
"""The time until the close of a connection from an address with too many connections."""


class Answers:
    """Answers clients without a session."""

    def __init__(
        self, application: Application, runtime: Runtime, calls: HandlerCalls, refused: Counter[str]
    ) -> None:
        self._application = application
        self._runtime = runtime
        self._failures = calls.failures
        self._refused = refused

    def refuse_address(self, connection: EngineConnection, namespace: str, place: AddressPlace) -> None:
        """Refuse a client from an address with too many connections, and close the connection soon.

        Not at once: a polling client fetches the answer with the next request.
        """
        self._refused[CONNECTIONS] += 1
        reason = {"message": "Too many connections from this address", "data": {"code": CONNECTIONS}}
        self.send(connection, namespace, self._application.connect_error(namespace, reason))
        if not place.is_refused:
            place.is_refused = True
            end, loop = self._application.reason.SERVER_DISCONNECT, asyncio.get_running_loop()
            loop.call_later(REFUSED_SECONDS, _close_unless_used, connection, end)

    def failed(self, connection: EngineConnection, namespace: str, error: BaseException) -> None:
        """End a connection after a failed answer to CONNECT; without CONNECT_ERROR, so the client returns."""
        text = f"{connection.id} could not connect to {namespace}"
        if isinstance(error, StoreError):
            self._failures.failed(type(error).__name__, f"{text}. {error}")
            connection.abort("the store is not available")
        else:
            self._failures.failed(type(error).__name__, text, error=error)
            connection.abort("CONNECT could not be answered")

    def send(self, connection: EngineConnection, namespace: str, frames: Frames) -> None:
        """Send a packet at the present place in the order."""
        try:
            self._runtime.queue.enqueue(SendPacket(connection, namespace, frames))
        except StoreError as error:
            text = f"CONNECT of {connection.id} could not be answered. {error}"
            self._failures.failed("answer", text)


def _close_unless_used(connection: EngineConnection, reason: str) -> None:
    """Close a connection from an address with too many, unless the connection recovered a session."""
    if not connection.sessions:
        connection.close_after_flush(reason)
