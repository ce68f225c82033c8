"""Clients that send whatever comes to mind: the server neither falls nor grows, and nobody else notices.

One server process serves all attacks, and throughout them two clients that behave exchange events; each
attack is followed by a look at the server's memory and log. ``FUZZ_ROUNDS=100 FUZZ_SEED=7`` attacks longer,
or in the same way again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from processes import DEADLINE, HOST, ServerProcess
from test_transport import GARBAGE, Socket

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "1"))
MANY = 2_000
"""Namespaces, rooms, connections from one client."""
MAX_PAYLOAD = 100_000
MAX_GROWTH_KIB = 150_000
"""What the server may take beyond what it took at the start; an unbounded buffer would take gigabytes."""

HANDLERS = f"""
def register(sio):
    async def connect(sid, environ, auth):
        pass

    async def tell(sid, number):
        return await sio.emit("told", number, room="well-behaved")

    async def join(sid, room=None, *more):
        if isinstance(room, str):
            await sio.enter_room(sid, room)
        return "joined"

    async def save(sid, *data):
        try:
            await sio.save_session(sid, {{"data": data}})
        except ValueError:
            return "too large, or no number"

    async def anything(sid, *arguments):
        try:
            await sio.emit("echo", arguments, to=sid)
        except (TypeError, ValueError):
            return "cannot be sent"
        return len(arguments)

    for handler in (connect, tell, join, save, anything):
        sio.on(handler.__name__, handler)
    for number in range({MANY}):
        sio.on("connect", connect, namespace=f"/n{{number}}")
"""
CONFIG: dict[str, dict[str, object]] = {
    "server": {"max_payload": MAX_PAYLOAD, "connect_timeout": 1.0, "ping_interval": 5.0},
    "connection_state_recovery": {"max_disconnection_duration": 1.0},
    "store": {"prune_interval": 0.5},
}


class Target(ServerProcess):
    """The server that is attacked."""

    @property
    def memory_kib(self) -> int:
        """The resident set, from Linux."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    if not Path("/proc/self/status").exists():
        pytest.skip("the memory of another process can be seen on Linux only")
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


class Attacker:
    """What one can do to a server from outside."""

    def __init__(self, server: Target, http: aiohttp.ClientSession) -> None:
        self.url = f"{server.url}/socket.io/"
        self.port = server.port
        self.http = http

    async def socket(self) -> Socket:
        query = {"EIO": "4", "transport": "websocket"}
        socket = Socket(await self.http.ws_connect(self.url, params=query, max_msg_size=0))
        await socket.raw_packet()
        return socket

    async def send(self, *packets: str | bytes, connected: bool = True) -> None:
        """Send these on a connection of their own, and see to what end that comes."""
        socket = await self.socket()
        with suppress(ConnectionError):  # the server had enough
            if connected:
                await socket.connect()
            for packet in packets:
                await socket.send(packet)
            await socket.send("1")  # the end, if it has not come already
        await socket.rest()
        await socket.leave()

    async def post(self, body: bytes, content_type: str = "text/plain;charset=UTF-8") -> int:
        """Send a body to a long-polling session of its own; returns the status."""
        query = {"EIO": "4", "transport": "polling"}
        async with self.http.get(self.url, params=query) as response:
            query["sid"] = json.loads((await response.text())[1:])["sid"]
        headers = {"Content-Type": content_type}
        async with self.http.post(self.url, params=query, data=body, headers=headers) as response:
            return response.status

    async def tcp(self, *parts: bytes, close: bool = True) -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection(HOST, self.port)
        with suppress(OSError):  # the server had enough
            for part in parts:
                writer.write(part)
                await writer.drain()
            if close:
                writer.write_eof()
                async with asyncio.timeout(DEADLINE):
                    await reader.read()
        if close:
            writer.close()
        return writer


async def together(work: Sequence[Awaitable[Any]], at_once: int = 50) -> None:
    """Do it all, so much at a time."""
    for start in range(0, len(work), at_once):
        await asyncio.gather(*work[start : start + at_once])


# What is sent ---------------------------------------------------------------------------------------

NAMESPACES = [
    "/",
    "/other",
    "",
    "//",
    "/" * 1_000,
    "/\0",
    "/ä😀",
    "/a?b=c",
    "/a,b",
    "/" + "x" * 90_000,
    "n",
    "/\n",
    "/[",
    "/*",
]
NUMBERS = [
    "0",
    "-1",
    "1" * 400,
    "1e999",
    "-0.0",
    "9" * 18,
    str(2**53),
    str(2**64),
    "0.1e-400",
    "NaN",
    "Infinity",
]
TEXTS = [
    "",
    "\0",
    "\ud800",
    "😀",
    "__proto__",
    "x" * 50_000,
    "' OR 1=1; --",
    "%s%n",
    "\x1e",
    "b",
    "../../etc/passwd",
]
PLACEHOLDERS: list[Any] = [
    {"_placeholder": True, "num": n} for n in (0, 1, -1, 10**9, 10**30, 0.5, "0", None, True, [0])
]


def json_value(chance: random.Random, depth: int = 0) -> str:
    """JSON, or nearly, as text: what a program would not write is of interest, too."""
    kind = chance.randrange(9 if depth < 4 else 5)
    match kind:
        case 0:
            return chance.choice(NUMBERS)
        case 1 | 2:
            return json.dumps(chance.choice(TEXTS))
        case 3:
            return chance.choice(["null", "true", "false", "undefined", "", '"', "[", "{", "\ufeff", "'a'"])
        case 4:
            return json.dumps(chance.choice(PLACEHOLDERS))
        case 5 | 6:
            return "[" + ",".join(json_value(chance, depth + 1) for _ in range(chance.randrange(4))) + "]"
        case 7:
            pairs = (f"{json.dumps(chance.choice(TEXTS))}:{json_value(chance, depth + 1)}" for _ in range(2))
            return "{" + ",".join(pairs) + "}"
        case _:
            bracket = chance.choice(["[", '{"a":', "[[", '[{"a":'])
            return bracket * chance.choice([10, 990, 20_000])


def packet(chance: random.Random) -> str | bytes:
    """Something like a Socket.IO packet."""
    if chance.random() < 0.2:
        return chance.randbytes(chance.choice([0, 1, 5, 200]))
    engine = chance.choice(["4"] * 12 + ["0", "1", "2", "3", "5", "6", "7", "b", ""])
    kind = chance.choice(["0", "1", "2", "2", "2", "3", "4", "5", "5", "6", "9", "", "-"])
    attachments = chance.choice(["", "", "0-", "1-", "2-", "11-", "999999999-", "1" * 300 + "-", "-1-", "x-"])
    namespace = chance.choice(["", "", "", *NAMESPACES])
    number = chance.choice(["", "", "7", *NUMBERS])
    name = chance.choice(
        ["anything", "anything", "join", "save", "connect", "disconnect", "session_expired", "*", ""]
    )
    content = chance.choice([json_value(chance), f'["{name}",{json_value(chance)}]', f'["{name}"]'])
    comma = "," if namespace and chance.random() < 0.9 else ""
    text = f"{engine}{kind}{attachments if kind in '56' else ''}{namespace}{comma}{number}{content}"
    return text[: MAX_PAYLOAD - 1].encode("utf-8", "replace").decode()


def hostile_auths(pid: str, offset: str) -> list[str]:
    boot, _, number = offset.rpartition(".")
    offsets: list[Any] = [
        f"{boot}.{int(number) + 10**6}", f"{boot}.-1", f"{boot}.{number} ", f" {offset}",
        f"{boot}.0{number}", f"{boot}.{'9' * 300}", f"{boot}.1e3", f"{boot}.٣", f"{boot}\0.1", f"..{number}",
        ".", "", "x" * 80_000,
        "'; DROP TABLE events; --.1", 0, -1, 2**80, 1.5, True, None, [], {}, [offset], {"offset": offset},
        "\ud800.1",
    ]  # fmt: skip
    pids: list[Any] = [
        "", "x", pid + "x", pid[:-1], pid.upper(), "\0", "\ud800", "x" * 80_000, 0, -1, 1.5, True, [pid],
        {"pid": pid}, [], {}, "' OR pid_hash IS NOT NULL; --",
    ]  # fmt: skip
    auths = [json.dumps({"pid": pid, "offset": bad}) for bad in offsets]
    auths += [json.dumps({"pid": bad, "offset": offset}) for bad in pids]
    auths += [
        "[]",
        '"text"',
        "5",
        "null",
        "true",
        "[[[",
        '{"pid":',
        f'{{"pid":"{pid}","pid":5}}',
        "1e999",
        "NaN",
    ]
    return auths


# Those who behave -----------------------------------------------------------------------------------


class Pair:
    """Two clients that exchange events; whatever else happens, each arrives, in order."""

    def __init__(self, speaker: Socket, listener: Socket) -> None:
        self.speaker, self.listener = speaker, listener
        self.exchanged = 0

    async def exchange(self) -> None:
        await self.speaker.send(f'429["tell",{self.exchanged}]')
        acknowledgement = await self.speaker.content("439")
        name, number, offset = await self.listener.event()
        assert (name, number, [offset]) == ("told", self.exchanged, acknowledgement)
        self.exchanged += 1

    async def talk_until(self, attack: asyncio.Future[None]) -> None:
        async with asyncio.timeout(DEADLINE * ROUNDS):
            while not attack.done():
                await self.exchange()


@asynccontextmanager
async def undisturbed(
    server: Target, attacker: Attacker
) -> AsyncIterator[Callable[[Awaitable[None]], Awaitable[None]]]:
    """Two clients that behave, while the attack runs, and a server in good health after it."""
    speaker, listener = await attacker.socket(), await attacker.socket()
    await speaker.connect()
    await listener.connect()
    assert await listener.call("join", "well-behaved") == ["joined"]
    pair, before, logged = Pair(speaker, listener), server.memory_kib, len(server.log)

    async def attack(work: Awaitable[None]) -> None:
        future = asyncio.ensure_future(work)
        await pair.talk_until(future)
        await future

    yield attack
    for _ in range(10):
        await pair.exchange()
    grown = server.memory_kib - before
    print(f"{pair.exchanged} events exchanged, {grown} KiB more than {before} KiB")
    assert grown < MAX_GROWTH_KIB
    said = server.log[logged:]
    assert "Traceback" not in said, said[said.index("Traceback") - 300 :][:5_000]
    await speaker.leave()
    await listener.leave()


Run = Callable[[Callable[[Attacker], Awaitable[None]]], Awaitable[None]]


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


async def test_packets_like_and_unlike_those_of_the_protocol(attacks: Run, chance: random.Random) -> None:
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


async def test_bodies_of_long_polling(attacks: Run, chance: random.Random) -> None:
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


async def test_bytes_that_are_no_websocket_frames_and_no_http(attacks: Run, chance: random.Random) -> None:
    def upgrade(port: int) -> bytes:
        return (
            f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()

    def frame() -> bytes:
        """With any flags and opcode, masked or not, of a length that may not be true."""
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


async def test_headers_that_are_too_long(attacks: Run) -> None:
    async def attack(attacker: Attacker) -> None:
        await together([attacker.tcp(b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000) for _ in range(5)])

    await attacks(attack)


async def test_hostile_private_ids_and_offsets(attacks: Run) -> None:
    async def attack(attacker: Attacker) -> None:
        victim = await attacker.socket()
        pid = (await victim.connect())["pid"]
        await victim.send('42["anything"]')
        offset = (await victim.event())[-1]
        for auth in hostile_auths(pid, offset):
            socket = await attacker.socket()
            await socket.send(f"40{auth}")
            answer = await socket.packet()
            # A new session, or none; or the victim's own, to whoever knows its secret.
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


async def test_thousands_of_namespaces_of_one_client(attacks: Run) -> None:
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


async def test_thousands_of_rooms_of_one_client(attacks: Run) -> None:
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


async def test_attachments_that_are_too_many_missing_or_too_large(attacks: Run) -> None:
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


async def test_thousands_of_connections_that_are_never_completed(
    attacks: Run, http: aiohttp.ClientSession
) -> None:
    async def handshake(attacker: Attacker) -> None:
        query = {"EIO": "4", "transport": "polling"}
        async with http.get(attacker.url, params=query) as response:
            assert response.status == 200

    async def attack(attacker: Attacker) -> None:
        await together([handshake(attacker) for _ in range(MANY)])
        slow = [await attacker.tcp(b"GET /socket.io/?EIO=4&tra", close=False) for _ in range(200)]
        idle = [await attacker.socket() for _ in range(100)]
        # Those that join no namespace are sent away after ``connect_timeout``.
        for socket in idle:
            assert await socket.rest() == []
        for writer in slow:
            writer.close()

    await attacks(attack)


async def test_a_client_that_sends_without_reading(attacks: Run) -> None:
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
        with suppress(ConnectionError, TimeoutError):  # it is sent away, or the server stops reading
            async with asyncio.timeout(DEADLINE):
                for _ in range(1_000):
                    writer.write(echo)
                    await writer.drain()
        writer.transport.abort()
        assert reader is not None

    await attacks(attack)
