"""The operations of the HTTP interface. Each asks ``Administration``, and has no logic of its own."""

from __future__ import annotations

from collections.abc import Sequence

from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.program.api.endpoints import Endpoint
from socketio_eventstore.program.api.events import events_endpoint
from socketio_eventstore.program.api.maintenance import maintenance_endpoints
from socketio_eventstore.program.api.publish import emit_endpoint
from socketio_eventstore.program.api.recipients import recipients_endpoint
from socketio_eventstore.program.api.server import server_endpoints
from socketio_eventstore.program.api.sessions import session_endpoints
from socketio_eventstore.program.api.stream import stream_endpoint


def endpoints(administration: Administration) -> Sequence[Endpoint]:
    """Return all operations."""
    return [
        emit_endpoint(administration),
        events_endpoint(administration),
        recipients_endpoint(administration),
        stream_endpoint(administration),
        *session_endpoints(administration),
        *server_endpoints(administration),
        *maintenance_endpoints(administration.maintenance),
    ]
