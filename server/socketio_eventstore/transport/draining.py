"""The end of all connections, spread over a time, so the clients do not all reconnect at the same moment."""

from __future__ import annotations

import asyncio
import math
from typing import Final

from socketio_eventstore.transport.engine import Engine

STEP_SECONDS: Final = 0.05


async def drain(engine: Engine, seconds: float) -> None:
    """Refuse new connections from now on, and close the open connections evenly over ``seconds``.

    No client gets a DISCONNECT packet, so each client comes back, to another server or to the restarted
    server. Waiting connections are served as before. The whole time passes, also without connections: a load
    balancer has to see that the server is not ready before the server stops listening.
    """
    engine.is_draining = True
    loop = asyncio.get_running_loop()
    connections, begun, closed, passed = list(engine.sockets.values()), loop.time(), 0, 0.0
    while passed < 1.0:
        await asyncio.sleep(min(STEP_SECONDS, seconds / max(1, len(connections))))
        passed = min(1.0, (loop.time() - begun) / seconds)
        due = math.floor(passed * len(connections))
        for connection in connections[closed:due]:
            connection.close_after_flush(engine.reason.SERVER_DISCONNECT)
        closed = max(closed, due)
