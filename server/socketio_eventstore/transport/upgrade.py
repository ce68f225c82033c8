"""The upgrade of a connection from long-polling to a WebSocket."""

from __future__ import annotations

import asyncio

from socketio_eventstore.core.frames import PONG_PROBE
from socketio_eventstore.transport.connection import EngineConnection
from socketio_eventstore.transport.websocket import WebSocket

UPGRADE_TIMEOUT_SECONDS = 10.0
"""The longest duration of an upgrade, in seconds; the reference's ``upgradeTimeout`` (engine.io 6)."""


class Upgrade:
    """The receiver of a WebSocket from the opening to the end of the upgrade.

    The client sends a probe (``2probe``), then the upgrade packet (``5``). After the upgrade packet the
    ``EngineConnection`` is the receiver. Source: Engine.IO protocol 4, "Upgrade".
    """

    def __init__(self, connection: EngineConnection, websocket: WebSocket) -> None:
        self._connection = connection
        self._websocket = websocket
        self._probed = False
        timeout = asyncio.get_running_loop().call_later(UPGRADE_TIMEOUT_SECONDS, self._cancel)
        self._timeout: asyncio.TimerHandle | None = timeout
        if not connection.may_upgrade:
            self._cancel()

    def data_received(self, message: str | bytes) -> None:
        """Handle the probe or the upgrade packet. Any other message cancels the upgrade."""
        if self._timeout is None:
            return
        connection = self._connection
        if not self._probed and message == "2probe" and connection.may_upgrade:
            self._probed = True
            self._websocket.write([PONG_PROBE])
            connection.pause_polling()
        elif self._probed and message == "5" and not connection.closed:
            self._stop_timeout()
            connection.complete_upgrade(self._websocket)
            self._websocket.receiver = connection
        else:
            self._cancel()

    def connection_lost(self, *, in_order: bool = False) -> None:
        """Cancel the upgrade, since the WebSocket has ended before the upgrade packet."""
        self._cancel()

    def _cancel(self) -> None:
        if self._timeout is None:
            return
        self._stop_timeout()
        if self._probed:
            self._connection.cancel_upgrade()
        self._websocket.close()

    def _stop_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
