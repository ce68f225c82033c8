"""The proof that a client is alive: the pong of a ping that was written after the question."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from socketio_eventstore.transport.heartbeat import Heartbeat

LONG_SECONDS = 1_000.0


@dataclass
class Settings:
    ping_interval: float = LONG_SECONDS
    ping_timeout: float = LONG_SECONDS


class Owner:
    """A connection that counts its pings and pongs."""

    def __init__(self) -> None:
        self.pings = 0
        self.pongs = 0
        self.is_closed = False
        self.pinged = asyncio.Event()

    def send_ping(self) -> None:
        self.pings += 1
        self.pinged.set()

    def pong_received(self) -> None:
        self.pongs += 1

    def ping_timed_out(self) -> None:
        self.is_closed = True


async def test_proof_is_the_pong_of_a_new_ping() -> None:
    """A proof writes a ping at once; its pong is the proof."""
    owner = Owner()
    heartbeat = Heartbeat(owner, Settings())
    heartbeat.start()
    proof = heartbeat.prove()
    assert owner.pings == 1 and not proof.done()
    heartbeat.handle_pong()
    assert await proof
    heartbeat.stop()


async def test_pong_of_an_older_ping_proves_nothing() -> None:
    """The pong of a ping that was written before the question proves nothing; the next one does."""
    owner, settings = Owner(), Settings(ping_interval=0.0)
    heartbeat = Heartbeat(owner, settings)
    heartbeat.start()
    await owner.pinged.wait()
    settings.ping_interval = LONG_SECONDS
    first, second = heartbeat.prove(), heartbeat.prove()
    assert owner.pings == 1
    heartbeat.handle_pong()
    assert owner.pings == 2 and not first.done() and not second.done()
    heartbeat.handle_pong()
    assert await first and await second
    assert (owner.pings, owner.pongs) == (2, 2)
    heartbeat.handle_pong()  # without a ping
    assert (owner.pings, owner.pongs) == (2, 2)
    heartbeat.stop()


async def test_end_of_the_connection_is_the_answer() -> None:
    """A connection that ends gives no proof."""
    heartbeat = Heartbeat(Owner(), Settings())
    heartbeat.start()
    proof = heartbeat.prove()
    heartbeat.stop()
    assert not await proof


async def test_missing_pong_closes_the_connection() -> None:
    """A client that does not answer within the timeout is gone, and gives no proof."""
    owner = Owner()
    heartbeat = Heartbeat(owner, Settings(ping_timeout=0.0))
    proof = heartbeat.prove()
    closed = asyncio.Event()
    owner.ping_timed_out = closed.set  # type: ignore[method-assign]
    await closed.wait()
    assert not proof.done()
    heartbeat.stop()
    assert not await proof
