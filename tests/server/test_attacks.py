"""Twenty attacks in a row: nothing stays behind, memory does not grow, and honest clients lose nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.attacker import HANDLERS, Target
from support.clients import Client, NodeClients
from support.handlers_under_attack import ROOM
from support.processes import DEADLINE
from support.twenty_attacks import ATTACKS, CONFIG, attack

ROUNDS = 3
"""The first one fills what a server keeps, such as the memory of its index."""
MAX_GROWTH = 1.05
"""The limit of the memory after the last round, as a ratio to that after the round before."""
PAUSE_SECONDS = 0.1


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux shows the sockets and the memory of a process")
    # Python's own allocator keeps a megabyte for a single object, and grows for some rounds without any leak.
    # The C library, in turn, keeps free memory apart for each thread.
    monkeypatch.setenv("PYTHONMALLOC", "malloc")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    with Target(tmp_path, CONFIG, HANDLERS) as server:
        yield server


async def settled(control: Client) -> dict[str, int]:
    """Return the census once it does not change, and all responses to honest polls are read."""
    before: dict[str, int] = {}
    async with asyncio.timeout(DEADLINE):
        while (now := await control.call("census")) != before or now["unread responses"]:
            before = now
            await asyncio.sleep(PAUSE_SECONDS)
    return before


async def is_back(control: Client, before: dict[str, int]) -> None:
    """Wait until the server holds exactly as much as before."""
    now: dict[str, int] = {}
    try:
        async with asyncio.timeout(DEADLINE):
            while (now := await control.call("census")) != before:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(PAUSE_SECONDS)
    except TimeoutError:
        changed = {name: (before[name], count) for name, count in now.items() if count != before[name]}
        raise AssertionError(f"before and after the attacks: {changed}") from None


async def resident_kib(control: Client, enough: float = 0.0) -> int:
    """Return the memory that stays, measured for a second, and then until it is small enough.

    The server prunes its log now and then, which takes some for a moment; other memory is freed later.
    """
    measured: list[int] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(DEADLINE):
            while len(measured) < 10 or min(measured) > enough > 0.0:
                measured.append(int(await control.call("resident_kib")))
                await asyncio.sleep(PAUSE_SECONDS)
    return min(measured)


@pytest.mark.timeout(600)
async def test_twenty_attacks(server: Target, node: NodeClients) -> None:
    """Rounds of attacks leave nothing behind, and honest clients receive all events once, in order."""
    assert len(ATTACKS) == len({one.__name__ for one in ATTACKS}) == 20
    control = await node.control(server.url)
    honest = [
        await node.client(server.url, transports=transports)
        for transports in (("websocket",), ("websocket",), ("polling",), ("polling", "websocket"))
    ]
    for client in honest:
        await client.connected()
        assert await client.call("join", ROOM) == "joined"
    await honest[-1].upgraded()

    resident: list[int] = []
    for _ in range(ROUNDS):
        before = await settled(control)
        await control.emit("begin")
        attacker = await attack(server.port)
        await is_undisturbed(control, honest)
        await is_back(control, before)  # although the attacker keeps its connections
        attacker.hang_up()
        enough = resident[-1] * MAX_GROWTH if len(resident) == ROUNDS - 1 else 0.0
        resident.append(await resident_kib(control, enough))
    print(f"resident after each round: {resident} KiB")
    assert resident[-1] <= resident[-2] * MAX_GROWTH


async def is_undisturbed(control: Client, honest: list[Client]) -> None:
    """End the stream; every honest client must have received all of it, once and in order."""
    last = await control.call("end")
    for client in honest:
        told = await client.received("told", last)
        assert [event.data[0] for event in told] == list(range(1, last + 1))
        assert client.disconnects == [], client.story()
