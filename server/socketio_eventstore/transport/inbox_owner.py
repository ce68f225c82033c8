"""The interface of the connection for the inbox."""

from __future__ import annotations

import asyncio
import sys
from typing import Final, Protocol

Packet = str | bytes


class InvalidPacket(ValueError):
    """The client sent data that is not a packet of the protocol; the connection is closed."""


class InboxOwner(Protocol):
    """The connection of an inbox."""

    handlers_at_once: int
    """The most handlers that may run at a time; 1 is python-socketio's ``async_handlers=False``."""

    def handle_packet(self, packet: Packet) -> asyncio.Task[None] | None:
        """Handle a packet. Returns the task of the started handler, if any. Raises InvalidPacket."""
        ...

    def fail(self, error: InvalidPacket) -> None:
        """Close the connection because a queued packet was invalid."""
        ...

    def pause_reading(self) -> None:
        """Stop reading from the client."""
        ...

    def resume_reading(self) -> None:
        """Read from the client again."""
        ...


class _NoOwner:
    """The owner of an inbox after the close of the connection."""

    handlers_at_once = sys.maxsize

    def handle_packet(self, packet: Packet) -> None:
        """Drop a packet."""

    def fail(self, error: InvalidPacket) -> None:
        """Do nothing."""

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


NO_OWNER: Final = _NoOwner()
"""The owner of all inboxes of closed connections."""
