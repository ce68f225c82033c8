"""The data of a server and its clients for the Socket.IO Admin UI.

Source: socket.io Admin UI, https://socket.io/docs/v4/admin-ui/, the types ``SerializedSocket`` and
``ServerStats``.
"""

from __future__ import annotations

import os
import socket as network
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import Session
from socketio_eventstore.transport.connection import EngineConnection


def iso(timestamp: float) -> str:
    """Return a wall-clock time in seconds as ISO text in UTC."""
    return datetime.fromtimestamp(timestamp, UTC).isoformat()


def server(sio: Any, runtime: Runtime) -> dict[str, Any]:
    """Describe the process of a ``RecoveryServer``, and count the clients of each namespace."""
    connections = list(sio.eio.sockets.values())
    namespaces = runtime.registry.namespaces
    served = {*sio.handlers, *sio.namespace_handlers, *namespaces} - {"*"}
    return {
        "hostname": network.gethostname(),
        "pid": os.getpid(),
        "clientsCount": len(connections),
        "pollingClientsCount": sum(not connection.upgraded for connection in connections),
        "namespaces": [
            {
                "name": name,
                "socketsCount": sum(session.is_connected for session in namespaces.get(name, {}).values()),
            }
            for name in sorted(served)
        ],
    }


def socket(sio: Any, runtime: Runtime, session: Session) -> dict[str, Any]:
    """Describe a connected client, with the headers of the handshake."""
    connection = session.current.connection
    assert isinstance(connection, EngineConnection)
    return {
        "id": session.sid,
        "clientId": connection.id,
        "transport": "websocket" if connection.upgraded else "polling",
        "nsp": session.namespace,
        "data": {},
        "handshake": _handshake(sio.environ.get(connection.id, {}), session.current.connected_at),
        "rooms": sio.manager.get_rooms(session.sid, session.namespace),
    }


def _handshake(environ: dict[str, Any], connected_at: float) -> dict[str, Any]:
    query = parse_qs(environ.get("QUERY_STRING", ""))
    return {
        "address": _address(environ),
        "headers": {
            key[5:].lower().replace("_", "-"): value
            for key, value in environ.items()
            if key.startswith("HTTP_")
        },
        "query": {name: values[0] if len(values) == 1 else values for name, values in query.items()},
        "secure": environ.get("wsgi.url_scheme") == "https",
        "url": environ.get("PATH_INFO", ""),
        "issued": round(connected_at * 1000),
        "time": iso(connected_at),
    }


def _address(environ: dict[str, Any]) -> str:
    """Return the address of the client; ``REMOTE_ADDR`` of python-engineio is always 127.0.0.1."""
    if (request := environ.get("aiohttp.request")) is not None:
        return request.remote or ""
    client = environ.get("asgi.scope", {}).get("client")
    return client[0] if client else ""
