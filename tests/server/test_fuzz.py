"""Hostile clients: the server does not crash, its memory does not grow, and other clients are undisturbed.

One server process serves all attacks. During each attack two normal clients exchange events, and after
each attack the tests check the server's memory and log. ``FUZZ_ROUNDS=100`` attacks longer, and
``FUZZ_SEED=7`` repeats the attacks of a seed.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from support.attacker import (
    CONFIG,
    HANDLERS,
    MANY,
    ROUNDS,
    Attacker,
    Run,
    Target,
    send_unread,
    together,
    undisturbed,
)
from support.hostile import GARBAGE, MAX_PAYLOAD, packet
from support.raw_websocket import handshake_request, text
from support.session_attacks import binary_placeholders, hostile_ids_and_offsets, unknown_namespaces


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux shows the memory of another process")
    with Target(tmp_path_factory.mktemp("server"), CONFIG, HANDLERS) as server:
        yield server


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    seed = os.environ.get("FUZZ_SEED") or str(random.randrange(2**32))
    print(f"FUZZ_SEED={seed}")
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture
def attacks(target: Target, http: aiohttp.ClientSession) -> Run:
    async def run(work: Callable[[Attacker], Awaitable[None]]) -> None:
        attacker = Attacker(target.port, http)
        async with undisturbed(target, attacker) as attack:
            await attack(work(attacker))
            attacker.hang_up()

    return run


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def test_valid_and_invalid_packets(attacks: Run, chance: random.Random) -> None:
    """Clients send valid and invalid packets."""

    async def attack(attacker: Attacker) -> None:
        for _ in range(ROUNDS):
            work = [
                attacker.send(
                    *(packet(chance) for _ in range(chance.randint(1, 6))), connected=chance.random() < 0.8
                )
                for _ in range(200)
            ]
            await together([*work, *(attacker.send(garbage) for garbage in GARBAGE)])

    await attacks(attack)


async def test_post_bodies(attacks: Run, chance: random.Random) -> None:
    """Clients POST valid and invalid bodies."""

    def body() -> bytes:
        parts = [packet(chance) for _ in range(chance.choice([1, 1, 2, 30]))]
        encoded = [part if isinstance(part, bytes) else part.encode() for part in parts]
        return chance.choice([b"", b"40\x1e"]) + b"\x1e".join(encoded)[:MAX_PAYLOAD]

    async def attack(attacker: Attacker) -> None:
        for _ in range(ROUNDS):
            bodies = [body() for _ in range(150)]
            bodies += [b"\x1e" * 50_000, b"40\x1e" * 30_000, b"b" + b"A" * 90_000, b"b===", b"\xff" * 100]
            await together([attacker.post(one) for one in bodies])
        assert await attacker.post(b"4" * (MAX_PAYLOAD + 1)) == 400
        assert await attacker.post(b"d=40", "application/x-www-form-urlencoded") == 400

    await attacks(attack)


async def test_random_bytes_over_tcp(attacks: Run, chance: random.Random) -> None:
    """Clients send random bytes instead of HTTP requests and WebSocket frames."""

    def frame() -> bytes:
        """Return a frame with any flags and opcode, masked or not, and with a true or false length."""
        head, mask = chance.randrange(256), chance.choice([0, 0x80])
        length = chance.choice(
            [bytes([mask | 5]), struct.pack("!BH", mask | 126, 70), struct.pack("!BQ", mask | 127, 2**62)]
        )
        return bytes([head]) + length + chance.randbytes(chance.randrange(100))

    async def attack(attacker: Attacker) -> None:
        for _ in range(ROUNDS):
            work = [attacker.tcp(handshake_request(), frame(), frame()) for _ in range(80)]
            work += [attacker.tcp(chance.randbytes(300)) for _ in range(20)]
            await together(work)

    await attacks(attack)


async def test_long_headers(attacks: Run) -> None:
    """Clients send headers above aiohttp's limit."""

    async def attack(attacker: Attacker) -> None:
        await together([attacker.tcp(b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000) for _ in range(5)])

    await attacks(attack)


async def test_hostile_private_ids_and_offsets(attacks: Run) -> None:
    """A client sends invalid pids and offsets."""
    await attacks(hostile_ids_and_offsets)


async def test_many_namespaces(attacks: Run) -> None:
    """One client connects to thousands of namespaces."""
    await attacks(unknown_namespaces)


async def test_many_rooms(attacks: Run) -> None:
    """One client joins thousands of rooms and recovers."""

    async def attack(attacker: Attacker) -> None:
        client = await attacker.socket()
        pid = (await client.connect())["pid"]
        for number in range(MANY):
            await client.send(f'42["join","room {number}"]')
        assert await client.call("join", "the last one") == ["joined"]
        await client.leave()
        again = await attacker.socket()
        assert (await again.connect(auth={"pid": pid}))["pid"] == pid
        await again.leave()

    await attacks(attack)


async def test_invalid_attachments(attacks: Run) -> None:
    """Clients send too many, too few and too large attachments."""
    await attacks(binary_placeholders)


async def test_many_incomplete_connections(attacks: Run) -> None:
    """Thousands of connections send no complete handshake or no CONNECT."""

    async def attack(attacker: Attacker) -> None:
        await together([attacker.handshake() for _ in range(MANY)])
        for _ in range(200):
            await attacker.keep(b"GET /socket.io/?EIO=4&tra")
        idle = [await attacker.socket() for _ in range(100)]
        # Connections without a namespace are closed after ``connect_timeout``.
        for socket in idle:
            assert await socket.rest() == []

    await attacks(attack)


async def test_a_client_that_sends_without_reading(attacks: Run) -> None:
    """A client sends events and does not read the answers."""

    async def attack(attacker: Attacker) -> None:
        kept = await attacker.keep_websocket()
        await send_unread(kept, text("40"))
        echo = text(f'42["anything","{"x" * 60_000}"]')
        for _ in range(1_000):
            if not await send_unread(kept, echo):
                break

    await attacks(attack)
