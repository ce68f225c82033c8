"""The client manager as the server uses it; ``manager.RecoveryManager`` implements this Protocol."""

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
        """Open the store, unless it is open, also after ``close``. Raises StoreNotUsable, StoreClosed."""
        ...

    async def opened(self) -> Runtime:
        """Open the store for the first call. Raises StoreClosed after ``close``."""
        ...

    async def close(self) -> None:
        """Commit everything and close the store, until the next ``start``."""
        ...

    async def end_life(self) -> None:
        """Close the store without appending what waits."""
        ...

    async def emit(self, event: str, data: Any, namespace: str, **kwargs: Any) -> str | None:
        """Store an event and send it to its rooms; return the offset."""
        ...

    usual_emit: Callable[..., Awaitable[str | None]]
    """The function of ``emit``, unless an application has replaced it."""

    def begin_emit(
        self, event: str, data: Any, namespace: str, *args: Any, **kwargs: Any
    ) -> Awaitable[str | None]:
        """Begin ``emit``; the result is that of ``emit``."""
        ...

    def volatile_emit_of(self, runtime: Runtime, message: Message) -> EmitVolatile | EmitVolatileEverywhere:
        """Make the operation that emits a message without storing it. Raises TypeError or ValueError."""
        ...
