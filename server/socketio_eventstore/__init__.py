"""A Socket.IO server with sessions that clients recover from a durable event log.

The public API is imported on first use: the start of the program and the import of a submodule stay fast.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if __name__ != "socketio_eventstore":
    raise ImportError(
        f"{__name__} is the package socketio_eventstore under another name, with a second copy of every "
        "class; import socketio_eventstore instead."
    )

if TYPE_CHECKING:
    from socketio_eventlog.errors import (
        LogFull,
        OutcomeUnknown,
        StoreBusy,
        StoreClosed,
        StoreError,
        StoreNotUsable,
        StoreRejected,
        StoreUnavailable,
    )
    from socketio_eventstore.adapter.async_server import AsyncServer
    from socketio_eventstore.adapter.manager import RecoveryManager
    from socketio_eventstore.core.commit_queue import QueueFull

    __version__: str

__all__ = [
    "AsyncServer",
    "LogFull",
    "OutcomeUnknown",
    "QueueFull",
    "RecoveryManager",
    "StoreBusy",
    "StoreClosed",
    "StoreError",
    "StoreNotUsable",
    "StoreRejected",
    "StoreUnavailable",
    "__version__",
]

_MODULES = {
    "AsyncServer": "socketio_eventstore.adapter.async_server",
    "QueueFull": "socketio_eventstore.core.commit_queue",
    "RecoveryManager": "socketio_eventstore.adapter.manager",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        value: Any = metadata.version("socketio-eventstore")
    else:
        value = getattr(import_module(_MODULES.get(name, "socketio_eventlog.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
