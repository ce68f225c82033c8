"""The packets of one client in their order, kept while handlers of earlier ones must end first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

MAX_QUEUED_BYTES = 100_000
"""Packets that may wait before the client is held back by TCP."""

Packet = str | bytes


class InvalidPacket(ValueError):
    """The client sent something that is not a packet of the protocol; its connection is closed."""


class Owner(Protocol):
    """What the inbox needs of the connection that it belongs to."""

    handlers_at_once: int
    """So many handlers may run at a time. One is python-socketio's ``async_handlers=False``."""

    def handle_packet(self, packet: Packet) -> asyncio.Task[None] | None:
        """Act on a packet; return the task of the handler that was started. Raises InvalidPacket."""
        ...

    def close_invalid(self, error: InvalidPacket) -> None:
        """A packet that had to wait was invalid."""
        ...

    def hold_back(self, *, paused: bool) -> None:
        """Read no more from the client, or read again."""
        ...


class Inbox:
    """Lets packets be acted on in their order, each once few enough handlers are running."""

    __slots__ = ("_handlers", "_owner", "_queued", "_queued_bytes")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._handlers: set[asyncio.Task[None]] = set()
        self._queued: deque[Packet | Callable[[], None]] | None = None
        self._queued_bytes = 0

    @property
    def is_busy(self) -> bool:
        """Whether a packet would have to wait."""
        return bool(self._queued) or len(self._handlers) >= self._owner.handlers_at_once

    @property
    def handlers(self) -> Collection[asyncio.Task[None]]:
        """The tasks of the handlers that are running."""
        return self._handlers

    def put(self, packet: Packet) -> None:
        """Act on a packet, or keep it until it is its turn. Raises InvalidPacket."""
        if not self.is_busy:
            self._handle_packet(packet)
            return
        self._enqueue(packet)
        self._queued_bytes += len(packet)
        if self._queued_bytes > MAX_QUEUED_BYTES:
            self._owner.hold_back(paused=True)

    def call_when_idle(self, action: Callable[[], None]) -> None:
        """Do something when all packets so far have been acted on."""
        if self._queued:
            self._enqueue(action)
        else:
            action()

    async def wait(self) -> None:
        """Wait until a packet would not have to."""
        while self.is_busy:
            await asyncio.wait(self._handlers, return_when=asyncio.FIRST_COMPLETED)

    def clear(self) -> None:
        """Forget what is waiting; the connection is closed."""
        self._queued = None
        self._queued_bytes = 0

    def _enqueue(self, what: Packet | Callable[[], None]) -> None:
        if self._queued is None:
            self._queued = deque()
        self._queued.append(what)

    def _handle_packet(self, packet: Packet) -> None:
        handler = self._owner.handle_packet(packet)
        if handler is not None:
            self._handlers.add(handler)
            handler.add_done_callback(self._handled)

    def _handled(self, handler: asyncio.Task[None]) -> None:
        self._handlers.discard(handler)
        if self._queued:
            try:
                self._go_on()
            except InvalidPacket as error:
                self._owner.close_invalid(error)

    def _go_on(self) -> None:
        was_held_back = self._queued_bytes > MAX_QUEUED_BYTES
        while self._queued and len(self._handlers) < self._owner.handlers_at_once:
            what = self._queued.popleft()
            if isinstance(what, str | bytes):
                self._queued_bytes -= len(what)
                self._handle_packet(what)
            else:
                what()
        if was_held_back and self._queued_bytes <= MAX_QUEUED_BYTES:
            self._owner.hold_back(paused=False)
