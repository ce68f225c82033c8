"""Clients that have a session worth recovering: what W3, W4, W6 and W7 begin with."""

from __future__ import annotations

from collections.abc import Sequence

from bench.client import Client
from bench.crowd import Crowd

FILL_SECONDS = 600.0


def fill(crowd: Crowd, control: Client, count: int, mine: str, for_mine: int, others: int = 1) -> None:
    """Let the server emit ``count`` events, ``for_mine`` of them, evenly among the others, to a room.

    The others go to ``others`` rooms in turn; the reference has one.
    """
    control.buffer.clear()
    order = {"count": count, "mine": mine, "for_mine": for_mine, "others": others}
    crowd.ask([control], "fill", order, seconds=FILL_SECONDS)


def settle_in(crowd: Crowd, control: Client, clients: Sequence[Client], room: str) -> None:
    """Connect clients, put them into a room and let them learn an offset."""
    crowd.connect(clients, at_once=200)
    enter(crowd, control, clients, room)


def enter(crowd: Crowd, control: Client, clients: Sequence[Client], room: str) -> None:
    """Put connected clients into a room and let them learn an offset.

    The reference recovers nobody who has not received an event yet.
    """
    for client in clients:
        client.buffer.clear()
    crowd.ask(clients, "join", room)
    fill(crowd, control, 1, room, 1)
    crowd.receive(clients, 1)
    for client in clients:
        client.learn_offset()
