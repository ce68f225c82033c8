"""Hostile clients: the server does not crash, its memory does not grow, and other clients are undisturbed.

One server process serves all attacks. During each attack two normal clients exchange events, and after
each attack the tests check the server's memory and log. ``FUZZ_ROUNDS=100`` attacks longer, and
``FUZZ_SEED=7`` repeats the attacks of a seed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from support.attacker import CONFIG, HANDLERS, MANY, ROUNDS, Attacker, Run, Target, together, undisturbed
from support.hostile import GARBAGE, MAX_PAYLOAD, hostile_auths, packet
from support.processes import DEADLINE, HOST


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux shows the memory of another process")
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("server")
    handlers = source / "handlers_of_fuzz.py"
    handlers.write_text(HANDLERS)
    with Target(folder, CONFIG, handlers) as server:
        yield server


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    seed = os.environ.get("FUZZ_SEED") or str(random.randrange(2**32))
    print(f"FUZZ_SEED={seed}")
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture
def attacks(target: Target, http: aiohttp.ClientSession) -> Run:
    async def run(work: Callable[[Attacker], Awaitable[None]]) -> None:
        attacker = Attacker(target, http)
        async with undisturbed(target, attacker) as attack:
            await attack(work(attacker))

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

    def upgrade(port: int) -> bytes:
        return (
            f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()

    def frame() -> bytes:
        """Return a frame with any flags and opcode, masked or not, and with a true or false length."""
        head, mask = chance.randrange(256), chance.choice([0, 0x80])
        length = chance.choice(
            [bytes([mask | 5]), struct.pack("!BH", mask | 126, 70), struct.pack("!BQ", mask | 127, 2**62)]
        )
        return bytes([head]) + length + chance.randbytes(chance.randrange(100))

    async def attack(attacker: Attacker) -> None:
        for _ in range(ROUNDS):
            work = [attacker.tcp(upgrade(attacker.port), frame(), frame()) for _ in range(80)]
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

    async def attack(attacker: Attacker) -> None:
        victim = await attacker.socket()
        pid = (await victim.connect())["pid"]
        await victim.send('42["anything"]')
        offset = (await victim.event())[-1]
        for auth in hostile_auths(pid, offset):
            socket = await attacker.socket()
            await socket.send(f"40{auth}")
            answer = await socket.packet()
            # A new session, or no session, or the victim's session for its correct pid.
            if isinstance(answer, str) and f'"{pid}"' in answer:
                assert json.loads(auth)["pid"] == pid
            else:
                assert answer is None or (isinstance(answer, str) and answer.startswith("40{")), (
                    auth,
                    answer,
                )
            await socket.leave()
        await victim.leave()

    await attacks(attack)


async def test_many_namespaces(attacks: Run) -> None:
    """One client connects to thousands of namespaces."""

    async def attack(attacker: Attacker) -> None:
        client = await attacker.socket()
        for number in range(MANY):
            await client.send(f"40/n{number},")
            await client.send(f"40/unknown{number},")
        answers = [await client.packet() for _ in range(2 * MANY)]
        assert sum(str(answer).startswith("40/n") for answer in answers) == MANY
        assert sum(str(answer).startswith("44/unknown") for answer in answers) == MANY
        await client.leave()

    await attacks(attack)


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

    async def attack(attacker: Attacker) -> None:
        header = '453-["anything",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1},7]'
        sequences: list[list[str | bytes]] = [
            [header, b"1", b"2"],
            [header, b"1", "42[]"],
            [header, b"1", b"2", b"3", b"4"],
            [header, header],
            [header, *[bytes(MAX_PAYLOAD - 1)] * 3],
            ['45100000-["anything"]', *[b"x"] * 5_000],
            [b"without a header"],
            [b""] * 100,
            ['451-["anything",{"_placeholder":true,"num":5}]', b"x"],
            ['461-7[{"_placeholder":true,"num":0}]', b"x"],
            ['450-["anything"]'],
        ]
        await together([attacker.send(*sequence) for sequence in sequences])

    await attacks(attack)


async def test_many_incomplete_connections(attacks: Run, http: aiohttp.ClientSession) -> None:
    """Thousands of connections send no complete handshake or no CONNECT."""

    async def handshake(attacker: Attacker) -> None:
        query = {"EIO": "4", "transport": "polling"}
        async with http.get(attacker.url, params=query) as response:
            assert response.status == 200

    async def attack(attacker: Attacker) -> None:
        await together([handshake(attacker) for _ in range(MANY)])
        slow = [await attacker.tcp(b"GET /socket.io/?EIO=4&tra", close=False) for _ in range(200)]
        idle = [await attacker.socket() for _ in range(100)]
        # Connections without a namespace are closed after ``connect_timeout``.
        for socket in idle:
            assert await socket.rest() == []
        for writer in slow:
            writer.close()

    await attacks(attack)


async def test_a_client_that_sends_without_reading(attacks: Run) -> None:
    """A client sends events and does not read the answers."""

    async def attack(attacker: Attacker) -> None:
        reader, writer = await asyncio.open_connection(HOST, attacker.port, limit=1_000)
        writer.write(
            f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        text = b'42["anything","' + b"x" * 60_000 + b'"]'
        echo = b"\x81\xff" + struct.pack("!Q", len(text)) + bytes(4) + text
        writer.write(b"\x81\x82\0\0\0\x0040")
        with suppress(ConnectionError, TimeoutError):  # the server closes the connection or stops reading
            async with asyncio.timeout(DEADLINE):
                for _ in range(1_000):
                    writer.write(echo)
                    await writer.drain()
        writer.transport.abort()
        assert reader is not None

    await attacks(attack)
