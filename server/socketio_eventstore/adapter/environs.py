"""The environ of each connection, made for the first handler that asks for it."""

from __future__ import annotations

from typing import Any

from socketio_eventstore.transport.request_head import REQUEST_ID, RequestHead
from socketio_eventstore.transport.websocket import Environ


class Environs(dict[str, Any]):
    """The environs by Engine.IO connection id; ``python-socketio`` and the handlers read them.

    A value is a request until somebody reads it: an environ takes a tenth of the time of a handshake, and
    most applications read none.
    """

    def __getitem__(self, connection_id: str) -> Environ:
        found = super().__getitem__(connection_id)
        if isinstance(found, RequestHead):
            found = self[connection_id] = found.make_environ()
        environ: Environ = found
        return environ

    def request_id(self, connection_id: str) -> str | None:
        """Return the id of the request that opened a connection; None for an unknown connection."""
        found = super().get(connection_id)
        if isinstance(found, RequestHead):
            return found.request_id
        return None if found is None else found.get(REQUEST_ID)

    def get(self, connection_id: str, default: Any = None) -> Any:
        """Return an environ, or ``default`` for an unknown connection."""
        try:
            return self[connection_id]
        except KeyError:
            return default
