"""The answer of the readiness probe, and of the metric ``ready``."""

from __future__ import annotations

from socketio_eventstore.adapter.server import RecoveryServer


def problems(sio: RecoveryServer) -> list[str]:
    """Return why a server is not ready; an empty list when it is."""
    if sio.eio.is_draining:
        return ["the server is stopping"]
    if sio.rejoining.is_running:
        failure = sio.rejoining.failure
        return ["this node is joining the log anew", *([] if failure is None else [str(failure)])]
    runtime = sio.manager.runtime
    return ["the store is not open"] if runtime is None else runtime.health.problems()
