"""The answer of the readiness probe, and of the metric ``ready``."""

from __future__ import annotations

from socketio_eventlog.errors import StoreError
from socketio_eventstore.adapter.server import RecoveryServer


def problems(sio: RecoveryServer) -> list[str]:
    """Return the reasons why a server is not ready; an empty list for a ready server."""
    if sio.eio.is_draining:
        return ["the server is stopping"]
    if sio.rejoining.is_running:
        return ["this node is joining the log anew", *_reason(sio.rejoining.failure)]
    runtime = sio.manager.runtime
    return ["the store is not open"] if runtime is None else runtime.health.problems()


def _reason(failure: StoreError | None) -> list[str]:
    """Return why a node could not join, without names: the answer is public, and the log has the details."""
    return [] if failure is None else [f"{failure.summary} The log of this server says more."]
