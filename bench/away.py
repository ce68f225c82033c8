"""Clients with a recoverable session: the beginning of W3, W4, W6 and W7."""

from __future__ import annotations

from collections.abc import Sequence

from bench.client import Client
from bench.crowd import Crowd

FILL_SECONDS = 600.0


def fill(crowd: Crowd, control: Client, count: int, mine: str, for_mine: int, others: int = 1) -> None:
    """Let the server emit ``count`` events, with ``for_mine`` events, evenly in between, to a room.

    The other events go to ``others`` rooms in turn; the reference has a single other room.
    """
    control.buffer.clear()
    order = {"count": count, "mine": mine, "for_mine": for_mine, "others": others}
    crowd.ask([control], "fill", order, seconds=FILL_SECONDS)


def settle_in(crowd: Crowd, control: Client, clients: Sequence[Client], room: str) -> None:
    """Connect clients, put the clients into a room, and let each learn an offset."""
    crowd.connect(clients, at_once=200)
    enter(crowd, control, clients, room)


def enter(crowd: Crowd, control: Client, clients: Sequence[Client], room: str) -> None:
    """Put connected clients into a room, and let each learn an offset.

    The reference never recovers a client without a received event.
    """
    for client in clients:
        client.buffer.clear()
    crowd.ask(clients, "join", room)
    fill(crowd, control, 1, room, 1)
    crowd.receive(clients, 1)
    for client in clients:
        client.learn_offset()
