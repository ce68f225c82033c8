"""The heartbeat of a connection. Source: Engine.IO protocol 4, "Heartbeat"."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol


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


LATE_SECONDS: Final = 0.1
"""The usual delay of a timer; a longer delay means that the process stood still."""
READING_SECONDS: Final = 1.0
"""The time to read the backlog after a standstill of the process, before a missing pong counts."""


class Heartbeat:
    """The timer of a connection's pings, and of the deadline for each pong.

    A stopped heartbeat has no reference to the owner: a reference cycle would keep closed connections in
    memory until the cyclic garbage collector runs.
    """

    __slots__ = ("_awaits_pong", "_owner", "_pinged_at", "_pings", "_proofs", "_settings", "_timer")

    def __init__(self, owner: HeartbeatOwner, settings: HeartbeatSettings) -> None:
        """``settings`` may change while the heartbeat runs; the next timer has the new value."""
        self._owner: HeartbeatOwner | None = owner
        self._settings = settings
        self._awaits_pong = False
        self._pings = 0
        self._pinged_at = 0.0
        """The time of the last ping on the event loop's clock, in seconds."""
        self._proofs: tuple[tuple[int, asyncio.Future[bool]], ...] = ()
        """Futures for an answer, each with the number of the ping that counts."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Schedule the next ping, unless the heartbeat was stopped."""
        if self._owner is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._settings.ping_interval, self._ping)

    def stop(self) -> None:
        """End the heartbeat for good; no answer comes any more."""
        self._owner = None
        self._cancel_timer()
        for _, proof in self._proofs:
            if not proof.done():
                proof.set_result(False)
        self._proofs = ()

    def prove(self) -> asyncio.Future[bool]:
        """Return a future for whether the client answers a ping from now on."""
        proof: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._owner is None:
            proof.set_result(False)
            return proof
        self._proofs = (*self._proofs, (self._pings + 1, proof))
        if not self._awaits_pong:  # otherwise the ping follows the pong of the outstanding ping
            self._ping_now()
        return proof

    def handle_pong(self) -> None:
        """Tell the owner about a pong and schedule the next ping. Ignores a pong without a ping.

        Such a pong would confirm packets written after the last ping.
        """
        if not self._awaits_pong or self._owner is None:
            return
        self._awaits_pong = False
        self._cancel_timer()
        self._owner.pong_received()
        if self._proofs:
            self._prove_life()
        if self._proofs or self._is_behind():
            self._ping_now()
        else:
            self.start()

    def _is_behind(self) -> bool:
        """Whether the pong was read after the deadline, since the process stood still.

        The client has waited for a ping meanwhile, and waits no longer than interval and timeout together.
        """
        return asyncio.get_running_loop().time() - self._pinged_at > self._settings.ping_timeout

    def _prove_life(self) -> None:
        for number, proof in self._proofs:
            if number <= self._pings and not proof.done():
                proof.set_result(True)
        self._proofs = tuple(one for one in self._proofs if not one[1].done())

    def _ping_now(self) -> None:
        self._cancel_timer()
        self._ping()

    def _ping(self) -> None:
        if self._owner is None:
            return
        # Before the ping is sent: sending may exceed the client's buffer, which aborts and stops the timer.
        self._awaits_pong = True
        self._pings += 1
        self._pinged_at = asyncio.get_running_loop().time()
        self._schedule(self._settings.ping_timeout, self._judge)
        self._owner.send_ping()

    def _judge(self) -> None:
        """Close the connection, unless the pong may have arrived during a standstill of the process.

        A frozen process (SIGSTOP, a suspended machine, a stall of the event loop) wakes up with all deadlines
        passed and all pongs unread; uvloop runs the timers before it reads.
        """
        if self._is_late:
            self._schedule(READING_SECONDS, self._judge)
        elif self._owner is not None:
            self._owner.ping_timed_out()

    @property
    def _is_late(self) -> bool:
        timer = self._timer
        return timer is not None and asyncio.get_running_loop().time() - timer.when() > LATE_SECONDS

    def _schedule(self, seconds: float, call: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, call)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
