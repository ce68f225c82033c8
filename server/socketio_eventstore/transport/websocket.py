"""The WebSocket interface of the transport, equal for aiohttp and ASGI.

A fan-out writes to thousands of WebSockets. So ``WebSocket.write`` is a plain call without waiting, and
``WebSocket.unsent_bytes`` tells the caller how far the client is behind. A ``Receiver`` gets messages by
plain calls, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from socketio_eventstore.core.frames import Frames

CLOSE_TIMEOUT_SECONDS = 10.0
"""The time in seconds for a client to read the unsent bytes of a closing WebSocket."""

CLOSED_BY_APPLICATION = frozenset({1000, 1001, 1005})
"""The status codes of an intended close: 1000, leaving the page, and no code. An end without a close frame is
1006 (RFC 6455 section 7.4.1)."""

Environ = dict[str, Any]
"""A request in the form of python-engineio's drivers (WSGI keys, and the framework's own objects)."""


class Receiver(Protocol):
    """The receiver of a WebSocket's messages."""

    def data_received(self, message: str | bytes) -> None:
        """Handle a complete text (``str``) or binary (``bytes``) message."""
        ...

    def connection_lost(self, *, in_order: bool = False) -> None:
        """Handle the end of the WebSocket. No message follows. A second call has no effect.

        ``in_order``: the client sent a close frame after all bytes had been written.
        """
        ...


class _NoReceiver:
    def data_received(self, message: str | bytes) -> None:
        """Drop a message."""

    def connection_lost(self, *, in_order: bool = False) -> None:
        """Do nothing."""


NO_RECEIVER: Final = _NoReceiver()
"""The receiver of an ended WebSocket: a reference cycle of WebSocket and receiver would keep both in memory
until the cyclic garbage collector runs."""


class WebSocket(Protocol):
    """An open WebSocket."""

    receiver: Receiver
    """Replaceable while the WebSocket is open."""

    @property
    def unsent_bytes(self) -> int:
        """The bytes written and not yet given to the operating system."""
        ...

    def write(self, batch: Sequence[Frames]) -> int:
        """Send frames in order, without waiting. Returns ``unsent_bytes``."""
        ...

    def pause_reading(self) -> None:
        """Stop receiving. A message or two may still arrive."""
        ...

    def resume_reading(self) -> None:
        """Receive again."""
        ...

    def close(self) -> None:
        """Close the WebSocket after sending the unsent bytes, within ``CLOSE_TIMEOUT_SECONDS``."""
        ...

    def abort(self) -> None:
        """Close the WebSocket at once and drop the unsent bytes."""
        ...


MakeReceiver = Callable[[WebSocket], Receiver]
"""Returns the receiver for a newly opened WebSocket. May close the WebSocket instead."""
