from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar

from socketio_eventstore.transport.shared_rounds import (
    FLOOD_PACKETS_PER_ROUND,
    PACKETS_PER_ROUND,
    PACKETS_PER_STEP,
    SharedRounds,
)

WAITING_PER_ROUND = PACKETS_PER_ROUND - FLOOD_PACKETS_PER_ROUND


class Rounds:
    """Counts the rounds of the event loop until ``stop``."""

    def __init__(self) -> None:
        self.number = 0
        self._is_counting = True
        self._count()

    def _count(self) -> None:
        self.number += 1
        if self._is_counting:
            asyncio.get_running_loop().call_soon(self._count)

    def stop(self) -> None:
        self._is_counting = False


async def served(packets_of_each: int, clients: int, *, floods: bool) -> list[int]:
    """Return for each client the round in which it went on."""
    shared, rounds, seen = SharedRounds(), Rounds(), list[int]()
    all_served = asyncio.Event()

    def go_on(most: int) -> int:
        seen.append(rounds.number)
        if len(seen) == clients:
            all_served.set()
        return min(packets_of_each, most)

    for _ in range(clients):
        shared.wait(go_on, floods=floods)
    await all_served.wait()
    rounds.stop()
    return seen


async def test_clients_that_flood_share_a_round() -> None:
    """However many flood, a round handles FLOOD_PACKETS_PER_ROUND packets of all of them together."""
    seen = await served(1000, 100, floods=True)
    most = FLOOD_PACKETS_PER_ROUND // PACKETS_PER_STEP
    assert max(seen.count(number) for number in seen) == most
    assert seen[-1] - seen[0] == 100 // most - 1


async def test_clients_with_a_packet_each() -> None:
    """Clients with a packet each are served as many at a time as there are packets in a round."""
    seen = await served(1, 3 * WAITING_PER_ROUND, floods=False)
    assert [seen.count(number) for number in sorted(set(seen))] == [WAITING_PER_ROUND] * 3


async def test_clients_with_bursts_share_a_round() -> None:
    """Each of those that wait gets the same share: nobody waits for the whole burst of another."""
    assert len(set(await served(1000, WAITING_PER_ROUND, floods=False))) == 1


async def test_packets_without_a_wait_count() -> None:
    """Packets that are handled at once count, until the next packets have to wait; others follow later."""
    shared, done = SharedRounds(), asyncio.Event()
    for _ in range(PACKETS_PER_ROUND):
        assert not shared.is_spent
        shared.take()
    assert shared.is_spent
    asyncio.get_running_loop().call_soon(done.set)
    await done.wait()
    assert not shared.is_spent


async def test_the_order_of_waiting_is_the_order() -> None:
    """A client that has more waits behind those that wait already; each goes on in its own context."""
    shared, order, done = SharedRounds(), list[str](), asyncio.Event()
    current: ContextVar[str] = ContextVar("current")

    def client(name: str, times: int) -> Callable[[int], int]:
        def go_on(_: int) -> int:
            nonlocal times
            order.append(current.get())
            times -= 1
            if times:
                shared.wait(go_on)
            elif len(order) == 6:
                done.set()
            return 1

        current.set(name)
        return go_on

    for name in ("a", "b", "c"):
        shared.wait(client(name, 2))
    await done.wait()
    assert order == ["a", "b", "c"] * 2


async def test_an_exception_stops_no_other_client() -> None:
    """The clients behind one that raises go on."""
    shared, done = SharedRounds(), asyncio.Event()
    loop, raised = asyncio.get_running_loop(), list[BaseException]()
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))

    def fails(_: int) -> int:
        raise ZeroDivisionError

    def goes_on(_: int) -> int:
        done.set()
        return 1

    shared.wait(fails)
    shared.wait(goes_on)
    await done.wait()
    assert [type(error) for error in raised] == [ZeroDivisionError]


def test_another_event_loop() -> None:
    """Clients of an event loop that has ended do not keep those of the next one waiting."""
    shared = SharedRounds()

    async def end_at_once() -> None:
        shared.wait(lambda _: 1)

    async def go_on() -> None:
        done = asyncio.Event()

        def go_on(_: int) -> int:
            done.set()
            return 1

        shared.wait(go_on)
        await done.wait()

    with asyncio.Runner() as runner:
        runner.run(end_at_once())
    asyncio.run(go_on())
