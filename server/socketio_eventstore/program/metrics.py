"""``/metrics`` for Prometheus, in its text format and in OpenMetrics.

Each server has a registry of its own: the global one of prometheus_client belongs to the application.
"""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from socketio_eventstore.adapter.server import RecoveryServer
from socketio_eventstore.program.local_access import refusal
from socketio_eventstore.program.metric_families import ServerCollector


def registry_of(sio: RecoveryServer) -> CollectorRegistry:
    """Return a registry with the metrics of a server and of its process."""
    registry = CollectorRegistry()
    registry.register(ServerCollector(sio))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def add_metrics(app: web.Application, sio: RecoveryServer) -> None:
    """Add the route ``/metrics``, for requests that ``local_access.refusal`` lets pass."""
    registry = registry_of(sio)

    async def metrics(request: web.Request) -> web.Response:
        if (reason := refusal(request)) is not None:
            return web.Response(text=f"{reason}\n", status=403)
        encode, content_type = choose_encoder(",".join(request.headers.getall("Accept", [])))
        headers = {"Content-Type": content_type, "Cache-Control": "no-store", "Vary": "Accept"}
        return web.Response(body=encode(registry), headers=headers)

    app.router.add_get("/metrics", metrics)
