"""The inbox of a client: packets handled in order, with a limit on running handlers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final

from socketio_eventstore.core.senders import SENDER_BYTES, SENDER_OPERATIONS, Sender, current_sender
from socketio_eventstore.transport.inbox_owner import NO_OWNER, InboxOwner, InvalidPacket, Packet
from socketio_eventstore.transport.shared_rounds import PACKETS_AT_ONCE, SharedRounds

MAX_QUEUED_BYTES = 100_000
"""Bytes of queued packets from one client; beyond the limit, reading pauses and TCP slows the client."""
QUEUED_PACKET_BYTES: Final = 64
"""The memory of a queued packet beside the content: 75 bytes for a packet of two bytes."""
MAX_RUNNING_BYTES = 4_000_000
"""Bytes of a client's packets with running handlers; beyond the limit, further packets are queued."""


class Inbox:
    """Handles the packets of a client in order, and queues packets while too many handlers run.

    After ``close`` the inbox has no reference to the owner: a reference cycle would keep closed connections
    in memory until the cyclic garbage collector runs.
    """

    __slots__ = (
        "_granted",
        "_handlers",
        "_is_resting",
        "_is_waiting_for_store",
        "_left_in_step",
        "_owner",
        "_partial_bytes",
        "_posts",
        "_queued",
        "_queued_bytes",
        "_rounds",
        "_running_bytes",
        "_sender",
        "_waiter",
    )

    def __init__(self, owner: InboxOwner, rounds: SharedRounds) -> None:
        """``rounds``: shared by all clients of the server."""
        self._owner: InboxOwner = owner
        self._rounds = rounds
        self._handlers: dict[asyncio.Task[None], int] = {}  # by task, the bytes of the packets
        self._running_bytes = 0
        self._partial_bytes = 0  # of a packet without all attachments so far
        self._queued: deque[Packet | Callable[[], None]] | None = None
        self._queued_bytes = 0
        self._left_in_step = PACKETS_AT_ONCE  # packets until the client's next rest
        self._granted = 0  # packets of the step that a round has already counted
        self._is_resting = False  # until the client's turn in a round
        self._posts = 0  # POSTs with packets under way
        self._sender = Sender()
        self._is_waiting_for_store = False
        self._waiter: asyncio.Future[None] | None = None  # ends when the inbox is not busy any more

    @property
    def is_busy(self) -> bool:
        """Whether the next packet has to be queued; False after ``close``."""
        return self._owner is not NO_OWNER and (bool(self._queued) or self._is_full)

    @property
    def _is_full(self) -> bool:
        sender = self._sender
        return (
            len(self._handlers) >= self._owner.handlers_at_once
            or self._is_resting
            or self._running_bytes >= MAX_RUNNING_BYTES
            # As ``Sender.is_held``, without a call for each packet.
            or sender.waiting_operations >= SENDER_OPERATIONS
            or sender.waiting_bytes >= SENDER_BYTES
            or (self._rounds.is_spent and not self._granted)
        )

    @property
    def handlers(self) -> Collection[asyncio.Task[None]]:
        """The tasks of the running handlers."""
        return self._handlers.keys()

    def put(self, packet: Packet) -> None:
        """Handle a packet now, or queue the packet behind earlier ones. Raises InvalidPacket."""
        if not self._queued and not self._is_full:
            self._handle_packet(packet)
            return
        if self._queued is None:
            self._queued = deque()
        self._queued.append(packet)
        self._go_on_later()
        self._queued_bytes += len(packet) + QUEUED_PACKET_BYTES
        if self._queued_bytes > MAX_QUEUED_BYTES:
            self._owner.pause_reading()

    def call_when_idle(self, action: Callable[[], None]) -> None:
        """Call ``action`` after all packets received so far have been handled."""
        if self._queued:
            self._queued.append(action)
        else:
            action()

    async def wait_until_idle(self) -> None:
        """Wait until the next packet does not have to be queued."""
        # A single future: a wait for ten thousand handlers would take 10 ms for each ended handler.
        while self.is_busy:
            self._granted = 0  # a POST that waits loses the rest of the turn
            self._go_on_later()
            if self._waiter is None:
                self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._waiter])  # two requests may wait, and either may be cancelled

    def _end_wait(self) -> None:
        if self._waiter is None:
            return
        if self.is_busy:  # perhaps for a new reason, which has no callback yet
            self._go_on_later()
        else:
            waiter, self._waiter = self._waiter, None
            waiter.set_result(None)

    @contextmanager
    def posting(self) -> Iterator[None]:
        """Mark the time in which the packets of a POST are handled. A POST waits and queues no packets."""
        self._posts += 1
        try:
            yield
        finally:
            self._posts -= 1
            if not self._posts:
                self._granted = 0
                if not self._handlers:
                    self._left_in_step = PACKETS_AT_ONCE

    def _go_on_later(self) -> None:
        """Arrange the next call, when the store has room again or in a later round.

        The end of a handler and the end of a pause have callbacks already.
        """
        if self._sender.is_held:
            if not self._is_waiting_for_store:
                self._is_waiting_for_store = True
                self._sender.ready().add_done_callback(self._store_ready)
        elif self._rounds.is_spent and not self._granted:
            self._rest()

    def _rest(self) -> None:
        if not self._is_resting:
            self._is_resting = True
            self._rounds.wait(self._end_rest, floods=not self._left_in_step)

    def _store_ready(self, _: object) -> None:
        self._is_waiting_for_store = False
        self._try_queued()

    def close(self) -> None:
        """Drop the queued packets, since the connection is closed. Running handlers run to the end."""
        self._owner = NO_OWNER
        self._queued = None
        self._queued_bytes = 0
        self._end_wait()

    def _handle_packet(self, packet: Packet) -> None:
        if self._granted:
            self._granted -= 1
        else:
            self._rounds.take()
        self._left_in_step -= 1
        if not self._left_in_step:
            self._rest()
        if current_sender.get() is not self._sender:  # the context belongs to this client alone
            current_sender.set(self._sender)
        handler = self._owner.handle_packet(packet)
        size_bytes = len(packet)
        if self._partial_bytes:
            if isinstance(packet, bytes) or packet[:1] == "b":  # an attachment
                size_bytes += self._partial_bytes
            self._partial_bytes = 0
        if handler is None:
            self._partial_bytes = size_bytes
            return
        self._handlers[handler] = size_bytes
        self._running_bytes += size_bytes
        handler.add_done_callback(self._handler_done)

    def _end_rest(self, most: int) -> int:
        """Handle queued packets or wake a POST; return the number of packets to count, at most ``most``."""
        self._is_resting = False
        self._left_in_step = self._left_in_step or most
        self._granted = most
        waiter = self._waiter
        self._try_queued()
        if self._posts and waiter is not None and waiter.done():
            return most  # the task wakes up in a later round
        unused, self._granted = self._granted, 0
        return most - unused

    def _handler_done(self, handler: asyncio.Task[None]) -> None:
        self._running_bytes -= self._handlers.pop(handler, 0)
        if self._queued:
            self._try_queued()
        else:
            if not self._posts:  # a burst below the limit is one step, so the events share a transaction
                self._left_in_step = PACKETS_AT_ONCE
            if self._waiter is not None:
                self._end_wait()

    def _try_queued(self) -> None:
        try:
            self._handle_queued()
        except InvalidPacket as error:
            self._owner.fail(error)
        except Exception:  # a fault of the server or of the application; the loop's exception handler logs it
            self._owner.fail(InvalidPacket("a packet could not be handled"))
            raise
        finally:
            self._end_wait()

    def _handle_queued(self) -> None:
        was_paused = self._queued_bytes > MAX_QUEUED_BYTES
        while self._queued and not self._is_full:
            item = self._queued.popleft()
            if isinstance(item, str | bytes):
                self._queued_bytes -= len(item) + QUEUED_PACKET_BYTES
                self._handle_packet(item)
            else:
                item()
        if self._queued:
            self._go_on_later()
        else:
            self._queued = None  # an empty queue takes 600 bytes
        if was_paused and self._queued_bytes <= MAX_QUEUED_BYTES:
            self._owner.resume_reading()
