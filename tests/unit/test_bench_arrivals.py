"""A latency of the benchmark is measured from one event, or not at all."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from bench.client import Client
from bench.crowd import Crowd
from bench.w9_attacks import Honest

TOLD = b'42["told",{"n":1,"t":2000000},"offset"]'


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, Client]]:
    server, client = socket.socketpair()
    with server, client:
        receiving = Client()
        receiving.sock = client
        yield server, receiving


def test_an_earlier_arrival_does_not_count(sockets: tuple[socket.socket, Client]) -> None:
    """A read without a time of the kernel has its own time, and not that of an earlier read."""
    server, client = sockets
    client.arrived_at, before = 1.0, time.time()
    server.send(b"bytes")
    assert Crowd._receive_noting(client) == b"bytes" and client.arrived_at >= before


@pytest.mark.parametrize("arrived_at", [0.0, 1.5])
def test_an_arrival_before_the_event(sockets: tuple[socket.socket, Client], arrived_at: float) -> None:
    """An event that arrived before it was sent, or long before, ends the measurement."""
    _, client = sockets
    honest = Honest([client], received={client: []})
    client.arrived_at = arrived_at
    with pytest.raises(RuntimeError, match="event 1 had arrived"):
        honest(client, TOLD, len(TOLD))
    client.arrived_at = 2.25
    honest(client, TOLD, len(TOLD))
    assert honest.latencies == [(2.0, 0.25)] and honest.received == {client: [1]}
