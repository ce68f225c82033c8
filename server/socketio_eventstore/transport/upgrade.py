"""The change of a connection from long-polling to a WebSocket."""

from __future__ import annotations

import asyncio

from socketio_eventstore.core.packets import PONG_PROBE
from socketio_eventstore.transport.connection import EngineConnection
from socketio_eventstore.transport.websocket import WebSocket

UPGRADE_TIMEOUT_SECONDS = 10.0
"""How long an upgrade may take, as the reference has it (engine.io 6, ``upgradeTimeout``)."""


class Upgrade:
    """The probe and the switch (Engine.IO protocol, "Upgrade"), until the connection takes over."""

    def __init__(self, connection: EngineConnection, websocket: WebSocket) -> None:
        self._connection = connection
        self._websocket = websocket
        self._probed = False
        timeout = asyncio.get_running_loop().call_later(UPGRADE_TIMEOUT_SECONDS, self._give_up)
        self._timeout: asyncio.TimerHandle | None = timeout
        if not connection.may_upgrade:
            self._give_up()

    def data_received(self, message: str | bytes) -> None:
        """A packet on the new WebSocket: the probe, then the upgrade."""
        if self._timeout is None:
            return
        connection = self._connection
        if not self._probed and message == "2probe" and connection.may_upgrade:
            self._probed = True
            self._websocket.write([PONG_PROBE])
            connection.hold_polls()
        elif self._probed and message == "5" and not connection.closed:
            self._end(self._websocket)
            self._websocket.receiver = connection
        else:
            self._give_up()

    def connection_lost(self) -> None:
        """The WebSocket has ended before it was taken over."""
        self._give_up()

    def _give_up(self) -> None:
        if self._timeout is not None:
            self._end(None)
            self._websocket.close(abort=False)

    def _end(self, taken_over_by: WebSocket | None) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        if self._probed:
            self._connection.upgrade_ended(taken_over_by)
