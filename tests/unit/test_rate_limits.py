"""How long a client may go on above a limit, on a virtual clock."""

from __future__ import annotations

import asyncio

import pytest

from socketio_eventstore.transport.rate_limits import RateLimitedInbox, RateLimits
from socketio_eventstore.transport.shared_rounds import SharedRounds
from support.simulated_network import VirtualLoop

PATIENCE_SECONDS = 20.0


class Client:
    """The owner of a rate-limited inbox. Its handlers end at once."""

    handlers_at_once = 1000

    def __init__(self, limits: RateLimits) -> None:
        self.handled = 0
        self.exceeded: list[str] = []
        self.inbox = RateLimitedInbox(self, limits, SharedRounds())

    def handle_packet(self, packet: str | bytes) -> asyncio.Task[None]:
        self.handled += 1
        return asyncio.create_task(asyncio.sleep(0))

    def fail(self, error: Exception) -> None:
        raise error

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    def rate_exceeded(self, limit: str) -> None:
        self.exceeded.append(limit)


class Sending:
    """A client on a virtual clock."""

    def __init__(self, events_per_second: float, bytes_per_second: float = 0.0) -> None:
        limits = RateLimits(events_per_second, bytes_per_second, PATIENCE_SECONDS)
        self._loop = VirtualLoop()
        self.client = self._loop.call(lambda: Client(limits))

    def __enter__(self) -> Sending:
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.close()

    def send(self, count: int, seconds: float, packet: str = "42[]") -> None:
        """Send some events at once, and nothing for the rest of a time."""
        end = self._loop.now + seconds
        for _ in range(count):
            self._loop.call(lambda: self.client.inbox.put(packet))
        self._loop.now = max(self._loop.now, end)


@pytest.mark.parametrize("rate", [10.0, 0.5, 0.1])
def test_a_client_that_rests_stays(rate: float) -> None:
    """A client that is held back for a burst now and then, far below the limit, is not disconnected."""
    burst = int(rate * 4) or 1
    with Sending(rate) as sending:
        for _ in range(20):
            sending.send(burst, 100.0 / rate)
        assert sending.client.handled == 20 * burst and sending.client.exceeded == []


@pytest.mark.parametrize("rate", [10.0, 0.5, 0.1])
def test_a_client_at_the_limit_stays(rate: float) -> None:
    """A client that sends as much as it may, a little early or late, is not disconnected."""
    with Sending(rate) as sending:
        for number in range(200):
            sending.send(1, (1.01 - 0.02 * (number % 2)) / rate)
        assert sending.client.handled == 200 and sending.client.exceeded == []


def test_large_packets_with_rests_between() -> None:
    """A client whose packets are larger than a burst, and rare, is not disconnected."""
    with Sending(0.0, bytes_per_second=1000.0) as sending:
        for _ in range(20):
            sending.send(1, 10.0, "4" + "a" * 5000)
        assert sending.client.handled == 20 and sending.client.exceeded == []


def test_a_client_above_the_limit_goes() -> None:
    """A client that goes on above the limit, without a rest, is disconnected."""
    with Sending(0.0, bytes_per_second=1000.0) as sending:
        for _ in range(20):
            sending.send(1, 3.0, "4" + "a" * 5000)
        assert sending.client.exceeded == ["bytes_per_second"]
