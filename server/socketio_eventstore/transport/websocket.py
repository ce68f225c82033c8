"""WebSockets as the transport sees them, whatever framework they come from.

A fan-out writes to thousands of them, so a write is a plain call that never waits; how much is unsent
can be asked. Messages are handed over by plain calls, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from socketio_eventstore.core.packets import Frames

CLOSE_TIMEOUT_SECONDS = 10.0
"""How long a client may take to read what is unsent when its WebSocket is closed."""

Environ = dict[str, Any]


class Receiver(Protocol):
    """Who gets the messages of a WebSocket."""

    def data_received(self, message: str | bytes) -> None:
        """A text or binary message has come."""
        ...

    def connection_lost(self) -> None:
        """The WebSocket has ended; nothing more comes. May be called twice."""
        ...


class WebSocket(Protocol):
    """An open WebSocket."""

    receiver: Receiver
    """May be replaced while it is open."""

    @property
    def unsent_bytes(self) -> int:
        """What was written and has not been given to the operating system."""
        ...

    def write(self, batch: Sequence[Frames]) -> int:
        """Send frames in order, without waiting. Returns ``unsent_bytes``."""
        ...

    def pause_reading(self) -> None:
        """Receive no more for now; a message or two may still come."""
        ...

    def resume_reading(self) -> None:
        """Receive again."""
        ...

    def close(self, *, abort: bool) -> None:
        """End it, at once or after what was written."""
        ...


Serve = Callable[[WebSocket], Receiver]
"""Called when a WebSocket is open; returns who gets its messages, or closes it."""
