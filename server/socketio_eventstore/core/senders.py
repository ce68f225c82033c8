"""The clients as senders: the waiting operations in the commit queue, by client.

A handler may emit thousands of events for a packet of some bytes. While many operations of a client wait, the
client's next packets are not handled, and a client that fills the queue is refused before other clients are.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Final

SENDER_OPERATIONS: Final = 128
"""The most waiting operations of a client; beyond, the client's packets are not handled. More would not
improve a commit, and each operation takes up to 40 µs of the store, before the operations of others."""
SENDER_BYTES: Final = 4_000_000
"""The same limit for the weight of the operations."""


class Sender:
    """A client with operations in the commit queue, which counts the operations here."""

    __slots__ = ("_most_operations", "awaited", "waiting_bytes", "waiting_operations")

    def __init__(self, most_operations: int = SENDER_OPERATIONS) -> None:
        """The sender is held from ``most_operations`` waiting operations on."""
        self._most_operations = most_operations
        self.waiting_operations = 0
        self.waiting_bytes = 0
        self.awaited: asyncio.Future[None] | None = None
        """The future of ``ready``; None while nothing waits for it."""

    @property
    def is_held(self) -> bool:
        """Whether the client's next packets have to wait."""
        return self.waiting_operations >= self._most_operations or self.waiting_bytes >= SENDER_BYTES

    def ready(self) -> asyncio.Future[None]:
        """Return the future for the end of a sender's hold.

        All callers share the future: no caller may cancel the future.
        """
        if self.awaited is None:
            self.awaited = asyncio.get_running_loop().create_future()
        return self.awaited

    def look_at_room(self) -> None:
        """End the wait for a released sender."""
        if self.awaited is not None and not self.is_held:
            ready, self.awaited = self.awaited, None
            ready.set_result(None)


current_sender: Final[ContextVar[Sender | None]] = ContextVar("sender", default=None)
"""The client of the handled packet or of the running disconnect handlers; all expiring sessions share a
sender.

Tasks started by handlers have the same sender. None for the application's own tasks,
``start_background_task`` included, and for the HTTP interface.
"""
