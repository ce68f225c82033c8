"""New transports: accepted once the store is open, and closed unless they join a namespace."""

from __future__ import annotations

import asyncio

import socketio

from socketio_eventlog.errors import StoreError
from socketio_eventstore.adapter.answers import REFUSED_SECONDS
from socketio_eventstore.adapter.clients import Clients
from socketio_eventstore.adapter.manager_protocol import Manager
from socketio_eventstore.adapter.rejoining import Rejoining
from socketio_eventstore.adapter.request_ids import RequestIds
from socketio_eventstore.transport.connection import EngineConnection
from socketio_eventstore.transport.engine import Engine


class NewConnections(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio is not typed
    """The part of ``RecoveryServer`` for new transports."""

    manager: Manager
    eio: Engine
    connect_timeout: float
    """Seconds in which a connection must join a namespace."""
    rejoining: Rejoining
    """The end of this node's life in a running process."""
    _clients: Clients
    _request_ids: RequestIds

    async def _start(self, lock_timeout_seconds: float | None = None) -> None:
        raise NotImplementedError

    async def _connection_opened(self, connection: EngineConnection) -> bool:
        """Accept a new transport; False refuses the transport for now, and the client tries again."""
        self.manager.check_loop()
        if self.rejoining.is_running:  # the client tries again, perhaps at another node
            return False
        if self._clients.admission is None:  # before the start, and after the stop
            try:
                await self._start(lock_timeout_seconds=0.0)  # an official client tries again by itself
            except StoreError as error:
                text = f"A connection was refused. {error}"
                self._clients.calls.failures.failed(type(error).__name__, text)
                return False
        return self._opened_at_once(connection)

    def _opened_at_once(self, connection: EngineConnection) -> bool:
        """Accept a new transport; False while the store is not open, which ``_connection_opened`` opens.

        An ending life accepts no transport, either: clients are closed once, and later clients would get no
        answer.
        """
        if self._clients.admission is None or self.rejoining.is_running:
            return False
        self.manager.check_loop()
        connection.head.request_id = self._request_ids.of(connection.head, self.eio.access)
        self.environ[connection.id] = connection.head
        self._start_idle_timer(connection)
        return True

    def _start_idle_timer(self, connection: EngineConnection) -> None:
        """Close a connection in a while, unless the client joins a namespace."""
        if connection.idle_timer is not None:
            connection.idle_timer.cancel()
        place, seconds = connection.place, self.connect_timeout
        if place is not None and not place.may_open:  # the session went to a newer connection
            seconds = min(seconds, REFUSED_SECONDS)
        loop = asyncio.get_running_loop()
        connection.idle_timer = loop.call_later(seconds, self._close_if_idle, connection.id)

    def _close_if_idle(self, eio_sid: str) -> None:
        connection = self.eio.connection(eio_sid)
        if connection is None or connection.sessions:
            return
        if self._clients.is_idle(connection):
            connection.close_after_flush(self.reason.SERVER_DISCONNECT)
        else:  # the answer to CONNECT may be a refusal
            self._start_idle_timer(connection)
