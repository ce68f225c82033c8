"""The environ of each connection, made at the first access."""

from __future__ import annotations

from typing import Any

from socketio_eventstore.transport.request_head import REQUEST_ID, RequestHead
from socketio_eventstore.transport.websocket import Environ


class Environs(dict[str, Any]):
    """The environs by Engine.IO connection id, for ``python-socketio`` and the handlers.

    A value is a request until the first access makes the environ: an environ takes a tenth of the time of a
    handshake, and most applications read none.
    """

    def __getitem__(self, connection_id: str) -> Environ:
        environ: Environ = _environ_of(super().__getitem__(connection_id))
        return environ

    def request_id(self, connection_id: str) -> str | None:
        """Return the id of the request behind a connection; None for an unknown connection."""
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

    def pop(self, connection_id: str, *default: Any) -> Any:
        """Remove and return an environ."""
        return _environ_of(super().pop(connection_id, *default))

    def values(self) -> Any:
        """Return the environs."""
        return [_environ_of(found) for found in super().values()]

    def items(self) -> Any:
        """Return the connection ids and environs."""
        return [(connection_id, _environ_of(found)) for connection_id, found in super().items()]

    def copy(self) -> dict[str, Any]:
        """Return a plain dictionary of the environs."""
        return dict(self.items())


def _environ_of(found: Any) -> Any:
    return found.make_environ() if isinstance(found, RequestHead) else found
