"""The interface of the client manager for the server; ``manager.RecoveryManager`` implements the Protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from socketio_eventstore.adapter.acknowledgements import AcknowledgementIds
from socketio_eventstore.adapter.messages import Message
from socketio_eventstore.core.operations import EmitVolatile, EmitVolatileEverywhere
from socketio_eventstore.core.options import Options
from socketio_eventstore.core.runtime import Runtime


class Manager(Protocol):
    """Emits and the store."""

    options: Options
    reopens: bool
    runtime: Runtime | None
    refused_rooms: int
    callbacks: dict[str, Any]
    acknowledgements: AcknowledgementIds

    def check_loop(self) -> None:
        """Move to the running event loop. Raises RuntimeError while the server's loop runs elsewhere."""
        ...

    async def start(self, lock_timeout_seconds: float | None = None) -> Runtime:
        """Open a closed store, also after ``close``. Raises StoreNotUsable, StoreClosed."""
        ...

    async def opened(self) -> Runtime:
        """Open the store for the first call. Raises StoreClosed after ``close``."""
        ...

    async def close(self) -> None:
        """Commit everything and close the store, until the next ``start``."""
        ...

    async def end_life(self) -> None:
        """Close the store without appending the waiting operations."""
        ...

    async def emit(self, event: str, data: Any, namespace: str, **kwargs: Any) -> str | None:
        """Store and send an event; return the offset."""
        ...

    usual_emit: Callable[..., Awaitable[str | None]]
    """The original function of ``emit``, to detect a replacement by an application."""

    def begin_emit(
        self, event: str, data: Any, namespace: str, *args: Any, **kwargs: Any
    ) -> Awaitable[str | None]:
        """Begin ``emit``; the result is the same."""
        ...

    def volatile_emit_of(self, runtime: Runtime, message: Message) -> EmitVolatile | EmitVolatileEverywhere:
        """Make the operation for a message that is not stored. Raises TypeError or ValueError."""
        ...
