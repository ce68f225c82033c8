"""The operations of the HTTP interface. Each asks ``Administration``, and has no logic of its own."""

from __future__ import annotations

from collections.abc import Sequence

from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.program.api.endpoints import Call, Endpoint
from socketio_eventstore.program.api.events import events_endpoint
from socketio_eventstore.program.api.models import StatsResult
from socketio_eventstore.program.api.publish import emit_endpoint
from socketio_eventstore.program.api.stream import stream_endpoint


def endpoints(administration: Administration) -> Sequence[Endpoint]:
    """Return all operations."""
    return [
        emit_endpoint(administration),
        events_endpoint(administration),
        stream_endpoint(administration),
        _stats(administration),
    ]


def _stats(administration: Administration) -> Endpoint:
    async def stats(_: Call) -> StatsResult:
        return StatsResult.model_validate(await administration.stats())

    return Endpoint(
        "getStats", "GET", "/stats", "The server in numbers.", stats, StatsResult, statuses=(503,)
    )
