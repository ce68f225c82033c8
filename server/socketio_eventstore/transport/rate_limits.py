"""Limits for a client's packets and bytes in a second.

The server first reads more slowly: TCP, or a later response to a POST, slows the client, and nothing is lost.
A client that goes on above the limit is disconnected before the heartbeat would fail for no visible reason.
By then the client has the acknowledgements of all handled packets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from socketio_eventstore.transport.inbox import Inbox
from socketio_eventstore.transport.inbox_owner import InboxOwner, Packet
from socketio_eventstore.transport.shared_rounds import SharedRounds

BURST_SECONDS: Final = 2.0
"""A quiet client may send the amount for this time at once."""
LEAST_EVENTS: Final = 2.0
"""A bucket of a single event would be empty after each event, and the client never within the limit."""
LAST_SECONDS: Final = 1.0
"""The longest time above a limit before a client is disconnected."""


class RateLimits:
    """The limits for a client; 0 is none."""

    __slots__ = ("bytes_per_second", "events_per_second", "is_on", "patience_seconds", "pauses")

    def __init__(self, events_per_second: float, bytes_per_second: float, patience_seconds: float) -> None:
        """``patience_seconds``: how long a client may go on above a limit."""
        self.events_per_second = events_per_second
        self.bytes_per_second = bytes_per_second
        self.patience_seconds = patience_seconds
        self.is_on = bool(events_per_second or bytes_per_second)
        """Whether there is a limit."""
        self.pauses = 0
        """How often a client was held back."""


class TokenBucket:
    """The amount that a client may still send; below zero, the client has to wait. Pure, without a clock."""

    __slots__ = ("_at", "_level", "_most", "_rate", "was_full")

    def __init__(self, rate: float, least: float, now: float) -> None:
        """``rate`` is per second; the bucket holds ``BURST_SECONDS`` of the rate, and at least ``least``."""
        self._rate = rate
        self._most = self._level = max(rate * BURST_SECONDS, least)
        self._at = now
        self.was_full = True
        """Whether the bucket was full before the last ``take``: the client had a rest."""

    def take(self, amount: float, now: float) -> float:
        """Take a received amount; return the seconds until more may come."""
        refilled = self._level + (now - self._at) * self._rate
        self.was_full = refilled >= self._most
        self._level = min(self._most, refilled) - amount
        self._at = now
        return 0.0 if self._level > 0 else (1e-3 - self._level) / self._rate

    @property
    def is_half_full(self) -> bool:
        """Whether the client was below the limit for a while, as of the last ``take``."""
        return self._level >= self._most / 2


class RateLimitedOwner(InboxOwner, Protocol):
    """The connection of a rate-limited inbox."""

    def rate_exceeded(self, limit: str) -> None:
        """Close the connection, since the client goes on above the named limit."""
        ...


class RateLimitedInbox(Inbox):
    """An inbox that handles no packet while the client is above a limit."""

    __slots__ = ("_buckets", "_limited", "_limits", "_pause", "_since")

    def __init__(self, owner: RateLimitedOwner, limits: RateLimits, rounds: SharedRounds) -> None:
        super().__init__(owner, rounds)
        self._limited: RateLimitedOwner | None = owner
        self._limits = limits
        now = asyncio.get_running_loop().time()
        rates = (
            ("events_per_second", limits.events_per_second, LEAST_EVENTS),
            ("bytes_per_second", limits.bytes_per_second, 1.0),
        )
        self._buckets = [(name, TokenBucket(rate, least, now)) for name, rate, least in rates if rate]
        self._pause: asyncio.TimerHandle | None = None
        self._since: float | None = None
        """The beginning of the present series of pauses, on the loop's clock; None for a client within the
        limits.
        """

    @property
    def _is_full(self) -> bool:
        return self._pause is not None or super()._is_full

    def close(self) -> None:
        """Drop the queued packets, and pause no more."""
        super().close()
        self._limited = None
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _handle_packet(self, packet: Packet) -> None:
        super()._handle_packet(packet)
        if self._limited is None:  # the packet has closed the connection
            return
        now = asyncio.get_running_loop().time()
        is_attachment = isinstance(packet, bytes) or packet[:1] == "b"
        longest, exceeded = 0.0, ""
        for name, bucket in self._buckets:
            amount = len(packet) if name == "bytes_per_second" else 0 if is_attachment else 1
            seconds = bucket.take(amount, now)
            if seconds > longest:
                longest, exceeded = seconds, name
        if all(bucket.was_full for _, bucket in self._buckets):
            self._since = None
        if longest:
            self._hold_back(exceeded, now, longest)
        elif self._since is not None and all(bucket.is_half_full for _, bucket in self._buckets):
            self._since = None

    def _hold_back(self, limit: str, now: float, seconds: float) -> None:
        self._since = now if self._since is None else self._since
        self._limits.pauses += 1
        end: Callable[[], None] = self._end_pause
        if now + seconds - self._since > self._limits.patience_seconds and self._limited is not None:
            # Not at once: the handlers of the packets before get the time to acknowledge.
            end, seconds = partial(self._limited.rate_exceeded, limit), min(seconds, LAST_SECONDS)
        self._pause = asyncio.get_running_loop().call_later(seconds, end)

    def _end_pause(self) -> None:
        self._pause = None
        self._try_queued()
