"""python-socketio above the core: the only part that knows it.

``RecoveryManager`` is the one constructor argument that an application needs::

    sio = socketio.AsyncServer(async_mode="aiohttp", client_manager=RecoveryManager("events.db"))
"""

from socketio_eventstore.adapter.manager import RecoveryManager
from socketio_eventstore.adapter.server import AsyncServer

__all__ = ["AsyncServer", "RecoveryManager"]
