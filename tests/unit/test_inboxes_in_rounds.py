"""Many inboxes share the rounds of the event loop, whatever brings their packets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from socketio_eventstore.transport.inbox import Inbox
from socketio_eventstore.transport.inbox_owner import Packet
from socketio_eventstore.transport.shared_rounds import (
    PACKETS_AT_ONCE,
    PACKETS_PER_ROUND,
    PACKETS_PER_STEP,
    SharedRounds,
)

CLIENTS = 30
BURST = PACKETS_AT_ONCE - 1
MOST_IN_A_ROUND = 2 * PACKETS_PER_ROUND
"""What a round has granted to POSTs is handled in a later one, beside its own."""


class Server:
    """The owner of all inboxes; counts the packets of each round, and ends when all are handled."""

    handlers_at_once = 10_000

    def __init__(self, packets: int) -> None:
        self.commit = asyncio.Event()
        """Ends the handlers of the packets ``stored``."""
        self.rounds = SharedRounds()
        self.inboxes = [Inbox(self, self.rounds) for _ in range(CLIENTS)]
        self.order: list[Packet] = []
        self.all_handled = asyncio.Event()
        self.packets_in: Counter[int] = Counter()
        self._round = 0
        self._packets = packets
        self._next_round()

    def _next_round(self) -> None:
        self._round += 1
        if len(self.order) < self._packets:
            asyncio.get_running_loop().call_soon(self._next_round)
        else:
            self.all_handled.set()

    def handle_packet(self, packet: Packet) -> asyncio.Task[None] | None:
        self.packets_in[self._round] += 1
        self.order.append(packet)
        if packet == "stored":
            return asyncio.create_task(_wait(self.commit))
        return asyncio.create_task(asyncio.sleep(0)) if packet == "handler" else None

    def fail(self, error: Exception) -> None:
        raise error

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    async def post(self, inbox: Inbox, packets: list[Packet]) -> None:
        """Handle the packets of a POST."""
        with inbox.posting():
            for packet in packets:
                await inbox.wait_until_idle()
                inbox.put(packet)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def put(server: Server, packets: Callable[[int], list[Packet]]) -> None:
    for number, inbox in enumerate(server.inboxes):
        for packet in packets(number):
            inbox.put(packet)


async def test_bursts_share_rounds() -> None:
    """Bursts below the limit of each client do not make a round as long as the clients are many."""
    server = Server(CLIENTS * BURST)
    put(server, lambda number: ["handler"] * BURST)
    await server.all_handled.wait()
    assert max(server.packets_in.values()) <= PACKETS_PER_ROUND


async def test_the_first_burst_is_one_step() -> None:
    """A client that is alone has its burst handled at once, even behind a few packets of others."""
    server = Server(BURST)
    put(server, lambda number: ["a"] * BURST if number == 0 else [])
    assert len(server.order) == BURST
    await server.all_handled.wait()


async def test_one_packet_behind_bursts() -> None:
    """A client with one packet waits for a share of the bursts before it, not for all of them."""
    server = Server((CLIENTS - 1) * BURST + 1)
    put(server, lambda number: ["last"] if number == CLIENTS - 1 else [str(number)] * BURST)
    await server.all_handled.wait()
    assert server.order.index("last") < 2 * PACKETS_PER_ROUND


async def test_each_client_keeps_its_order() -> None:
    """Shares and rests change no client's order."""
    server = Server(CLIENTS * 3 * BURST)
    put(server, lambda number: [f"{number} {count}" for count in range(3 * BURST)])
    await server.all_handled.wait()
    for number in range(CLIENTS):
        own = [packet for packet in server.order if str(packet).split()[0] == str(number)]
        assert own == [f"{number} {count}" for count in range(3 * BURST)]


async def test_posts_share_rounds() -> None:
    """The packets of POSTs share the rounds, and handlers that end meanwhile begin no new burst."""
    server = Server(CLIENTS * 3 * BURST)
    posts = [server.post(inbox, ["handler"] * (3 * BURST)) for inbox in server.inboxes]
    await asyncio.gather(*posts)
    await server.all_handled.wait()
    assert max(server.packets_in.values()) <= MOST_IN_A_ROUND


async def test_posts_wait_for_a_turn_once() -> None:
    """A POST beside floods that fill each round goes on, some packets in each of its turns."""
    server = Server((CLIENTS - 1) * 10 * BURST)
    poster = server.inboxes.pop()
    put(server, lambda number: ["flood"] * (10 * BURST))
    await server.post(poster, ["posted"] * BURST)
    assert server.order.count("flood") < CLIENTS * BURST * 2
    await server.all_handled.wait()


async def test_a_long_post_goes_on_in_steps() -> None:
    """Handlers that end during a POST do not let it begin another burst."""
    server = Server(3 * BURST)
    await server.post(server.inboxes[0], ["handler"] * (3 * BURST))
    await server.all_handled.wait()
    first, *later = server.packets_in.values()
    assert first == PACKETS_AT_ONCE and max(later) <= PACKETS_PER_STEP


async def test_a_post_keeps_its_turn() -> None:
    """The turn of a POST waits for the task of the POST, while others use up each round."""
    server, turns = Server(BURST), 0

    def use_up(most: int) -> int:
        nonlocal turns
        turns += 1
        if len(server.order) < BURST and turns < 10 * BURST:
            server.rounds.wait(use_up)
        return most

    for _ in range(PACKETS_PER_ROUND):
        server.rounds.take()
    server.rounds.wait(use_up)
    await server.post(server.inboxes[0], ["posted"] * BURST)
    assert turns < BURST
    await server.all_handled.wait()


async def test_a_post_that_waits_keeps_no_turn() -> None:
    """Many POSTs wait for the same commit: after it they share the rounds, whatever they were granted."""
    server = Server(5 * 20 * CLIENTS)
    server.handlers_at_once = 1
    inboxes = [Inbox(server, server.rounds) for _ in range(20 * CLIENTS)]
    posts = [asyncio.create_task(server.post(inbox, ["stored"] * 5)) for inbox in inboxes]
    while not server.all_handled.is_set():
        for _ in range(20):  # rounds of the event loop
            await asyncio.sleep(0)
        server.commit.set()
        server.commit = asyncio.Event()
    await asyncio.gather(*posts)
    server.commit.set()
    assert max(server.packets_in.values()) <= MOST_IN_A_ROUND


async def test_a_burst_after_a_busy_round() -> None:
    """The count of a round ends with it: a client that is alone later has its burst handled at once."""
    server = Server(CLIENTS + BURST)
    for _ in range(PACKETS_PER_ROUND):
        server.rounds.take()
    put(server, lambda number: ["a"])
    while len(server.order) < CLIENTS:  # noqa: ASYNC110 - no event tells of a round
        await asyncio.sleep(0)
    for _ in range(3):  # rounds of the event loop
        await asyncio.sleep(0)
    put(server, lambda number: ["a"] * BURST if number == 0 else [])
    assert len(server.order) == CLIENTS + BURST
    await server.all_handled.wait()
