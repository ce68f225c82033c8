"""The heartbeat of one connection. Source: Engine.IO protocol 4, "Heartbeat"."""

from __future__ import annotations

import asyncio
from typing import Protocol


class HeartbeatSettings(Protocol):
    """The timing of a heartbeat, in seconds."""

    ping_interval: float
    """The time from a pong to the next ping."""
    ping_timeout: float
    """The longest time from a ping to the client's pong."""


class HeartbeatOwner(Protocol):
    """The connection of a heartbeat."""

    def send_ping(self) -> None:
        """Send a ping."""
        ...

    def pong_received(self) -> None:
        """Handle the pong of the last ping."""
        ...

    def ping_timed_out(self) -> None:
        """Close the connection, since no pong has arrived in time."""
        ...


class Heartbeat:
    """The timer of a connection's pings, and of the deadline for each pong.

    A stopped heartbeat does not know its owner any more: a circle would keep closed connections in memory
    until the cyclic garbage collector runs.
    """

    __slots__ = ("_awaits_pong", "_owner", "_settings", "_timer")

    def __init__(self, owner: HeartbeatOwner, settings: HeartbeatSettings) -> None:
        """``settings`` may change while the heartbeat runs; the next timer has the new value."""
        self._owner: HeartbeatOwner | None = owner
        self._settings = settings
        self._awaits_pong = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Schedule the next ping, unless the heartbeat was stopped."""
        if self._owner is None:
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._settings.ping_interval, self._ping)

    def stop(self) -> None:
        """End the heartbeat for good."""
        self._owner = None
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def handle_pong(self) -> None:
        """Tell the owner about a pong and schedule the next ping. Ignores a pong without a ping.

        Such a pong would confirm packets written after the last ping.
        """
        if self._awaits_pong and self._owner is not None:
            self._awaits_pong = False
            self._cancel_timer()
            self._owner.pong_received()
            self.start()

    def _ping(self) -> None:
        if self._owner is None:
            return
        # Before the ping is sent: sending may exceed the client's buffer, which aborts and stops the timer.
        self._awaits_pong = True
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._settings.ping_timeout, self._owner.ping_timed_out)
        self._owner.send_ping()
