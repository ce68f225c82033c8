"""The clients as senders: how much of what waits in the commit queue each of them has caused.

A packet of some bytes may let its handler emit thousands of events. While much of a client's waits, its
next packets are not handled, and a client that fills the queue is refused before its neighbours are.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Final

SENDER_OPERATIONS: Final = 128
"""Operations of one client that wait for their batch, from which on its packets are not handled. More would
make no commit better, and each operation before the others' takes up to 40 µs to store."""
SENDER_BYTES: Final = 4_000_000
"""The same for their weight."""


class Sender:
    """A client whose handlers put operations into the commit queue, which counts them here."""

    __slots__ = ("_most_operations", "awaited", "waiting_bytes", "waiting_operations")

    def __init__(self, most_operations: int = SENDER_OPERATIONS) -> None:
        """The sender is held from ``most_operations`` on that wait."""
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
        """Return the future that ends once a held sender is not held any more.

        All callers share it: none may cancel it.
        """
        if self.awaited is None:
            self.awaited = asyncio.get_running_loop().create_future()
        return self.awaited

    def look_at_room(self) -> None:
        """End the wait for a sender that is not held any more."""
        if self.awaited is not None and not self.is_held:
            ready, self.awaited = self.awaited, None
            ready.set_result(None)


current_sender: Final[ContextVar[Sender | None]] = ContextVar("sender", default=None)
"""The client whose packet is handled, or who departs; one sender stands for all sessions that expire.

Tasks that the handlers start have it, too. None for the application's own tasks, those of
``start_background_task`` included, and for the HTTP interface.
"""
