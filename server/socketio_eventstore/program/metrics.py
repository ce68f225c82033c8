"""``/metrics`` for Prometheus, in the text format of Prometheus and in OpenMetrics.

Each server has a registry of its own: the global registry of prometheus_client belongs to the application.
"""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from socketio_eventstore.adapter.server import RecoveryServer
from socketio_eventstore.program.keys import ApiKeys
from socketio_eventstore.program.local_access import refusal
from socketio_eventstore.program.metric_families import ServerCollector


def registry_of(sio: RecoveryServer) -> CollectorRegistry:
    """Return a registry with the metrics of a server and of the process."""
    registry = CollectorRegistry()
    registry.register(ServerCollector(sio))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def add_metrics(
    public: web.Application, private: web.Application, sio: RecoveryServer, keys: ApiKeys
) -> None:
    """Add the route ``/metrics``.

    ``private`` serves the address of ``[http] listen``, without a key. ``public`` asks for a key, except for
    requests with local access.
    """
    registry = registry_of(sio)

    async def guarded(request: web.Request) -> web.Response:
        if keys.caller(request.headers.get("Authorization", "")) is None:
            reason = refusal(request, sio.eio.access)
            if reason is not None:
                return web.Response(text=f"{reason}\n", status=403)
        return await metrics(request)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(",".join(request.headers.getall("Accept", [])))
        headers = {"Content-Type": content_type, "Cache-Control": "no-store", "Vary": "Accept"}
        return web.Response(body=encode(registry), headers=headers)

    public.router.add_get("/metrics", guarded)
    private.router.add_get("/metrics", metrics)
