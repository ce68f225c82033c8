"""Wall clocks that jump, clients that are quiet for long, and heartbeats, which confirm events."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from support.clients import Client, NodeClients, sequence_of
from support.polling import RawPolling
from support.processes import DEADLINE
from support.steered_clocks import REAL, SteeredServer

HOUR = 3600.0
RETENTION_SECONDS = 6.0

BRIEFLY = {
    "server": {"ping_interval": 0.05, "ping_timeout": 20.0},
    "connection_state_recovery": {"max_disconnection_duration": RETENTION_SECONDS},
}
"""Clients confirm their events at once, and confirmed events are deleted soon."""


class ServerWithWrongClock(SteeredServer):
    """A server whose clocks can be set, and its uptime."""

    @property
    def uptime(self) -> float:
        """The uptime of the last heartbeat, in seconds."""
        return self.asked("SELECT max(service_time) FROM boots")

    def asked(self, query: str) -> float:
        """One number from the database."""
        with closing(sqlite3.connect(self.database)) as connection:
            return float(connection.execute(query).fetchone()[0])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerWithWrongClock]:
    with ServerWithWrongClock(tmp_path_factory.mktemp("server"), speed=REAL) as server:
        yield server


async def until(control: Client, happened: Callable[[], bool]) -> None:
    """Waits for a condition; every check follows a call that the server answers."""
    async with asyncio.timeout(DEADLINE):
        while not happened():
            await control.call("rooms", {"sid": control.sid})


async def swept(server: ServerWithWrongClock, control: Client) -> None:
    """Waits until the server has completed a sweep that began after this call."""

    last, seen = server.uptime, 0

    def has_three_heartbeats() -> bool:  # the first sweep may have begun before the clock was set
        nonlocal last, seen
        seen, last = seen + (server.uptime > last), server.uptime
        return seen >= 3

    await until(control, has_three_heartbeats)


async def events_are_old(server: ServerWithWrongClock, control: Client) -> None:
    """Waits until all events of this moment are older than the retention of ``BRIEFLY``."""
    begun = server.uptime
    with server.time_passes():
        await until(control, lambda: server.uptime > begun + RETENTION_SECONDS + 1.0)


@pytest.mark.parametrize("restart", [None, "kill", "terminate"], ids=["running", "kill -9", "graceful"])
@pytest.mark.parametrize("hours", [-5, 5], ids=["backwards", "forwards"])
async def test_clock_jump_loses_no_session_and_no_event(
    server: ServerWithWrongClock, node: NodeClients, hours: int, restart: str | None
) -> None:
    """A jump of the wall clock loses no session and no event."""
    server.set_clock(0.0)
    control = await node.control(server.url)
    client = await node.client(server.url, reconnection=False, auth={"rooms": ["room"]})
    sid = (await client.connected()).sid
    expected = [await control.call("publish", {"name": "live", "to": "room"})]
    await client.received("live")
    await client.cut()
    expected += [await control.call("publish", {"name": "missed", "to": "room"}) for _ in range(3)]
    server.set_clock(hours * HOUR)
    if restart is not None:
        await asyncio.to_thread(getattr(server, restart))
        await control.gone()
        await asyncio.to_thread(server.start)
        await control.reconnected()
    await swept(server, control)
    expected += [await control.call("publish", {"name": "missed", "to": "room"}) for _ in range(3)]
    # And back, as after a correction by the operator.
    server.set_clock(0.0)
    await swept(server, control)
    expected += [await control.call("publish", {"name": "missed", "to": sid}) for _ in range(3)]
    await client.connect(rooms=[])
    await client.recovered_again()
    await client.received("missed", 9)
    expected.append(await control.call("publish", {"name": "live", "to": "room"}))
    await client.received("live", 2)
    assert [event.offset for event in client.events] == expected
    assert [sequence_of(offset) for offset in expected] == sorted(sequence_of(offset) for offset in expected)


async def test_clock_jump_does_not_disturb_live_clients(
    server: ServerWithWrongClock, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """A jump of the wall clock does not disturb live clients."""
    server.set_clock(0.0)
    control = await node.control(server.url)
    client = await node.client(server.url)
    raw = RawPolling(http, server.url)
    sids = [(await client.connected()).sid, (await raw.connect())["sid"]]
    for hours in (5.0, -5.0, 0.0, 10_000.0, 0.0):
        server.set_clock(hours * HOUR)
        offset = await control.call("publish", {"name": "live", "to": sids})
        await swept(server, control)
        assert await raw.event() == ["live", offset]
    await client.received("live", 5)
    assert len(client.connects) == 1 and len(client.events) == 5


async def test_wrong_wall_clock_does_not_change_expiry(tmp_path: Path, node: NodeClients) -> None:
    """Sessions expire in their time, however wrong the wall clock is."""
    config = {"connection_state_recovery": {"max_disconnection_duration": 0.5}}
    with ServerWithWrongClock(tmp_path, config, speed=REAL) as server:
        control = await node.control(server.url)
        for number, hours in enumerate((5.0, -5.0), 1):
            client = await node.client(server.url, reconnection=False)
            sid = (await client.connected()).sid
            await client.cut()
            server.set_clock(hours * HOUR)
            events = await control.received("session_expired", number)
            assert events[-1].data == [sid]
            await client.connect()
            assert not (await client.reconnected()).recovered


async def test_clients_recover_with_pruned_offsets(tmp_path: Path, node: NodeClients) -> None:
    """Quiet, never messaged and reloaded clients recover with offsets that are pruned."""
    with ServerWithWrongClock(tmp_path, BRIEFLY) as server:
        control = await node.control(server.url)
        quiet = await node.client(server.url, reconnection=False)
        never = await node.client(server.url, "/other", reconnection=False)
        page = await node.client(server.url, reconnection=False)
        clients = (quiet, never, page)
        for client in clients:
            await client.connected()
        await control.call("publish", {"name": "seen"})
        (seen,) = await quiet.received("seen")
        await page.received("seen")
        # Many events are emitted and none is addressed to these clients: their offsets stay the same.
        await control.call("publish_at_once", {"name": "traffic", "count": 500, "to": "elsewhere"})

        async def pruned(number: int) -> None:
            with server.time_passes():
                await until(control, lambda: server.asked("SELECT pruned_through FROM log_state") >= number)

        await pruned(501)
        assert server.asked("SELECT count(*) FROM events") == 0
        assert await quiet.last_offset() == seen.offset and await never.last_offset() is None
        kept = {"pid": page.pid, "offset": await page.last_offset()}

        for crash in (False, True):
            for client in clients:
                await client.cut()
            if crash:
                await asyncio.to_thread(server.restart)
                await control.reconnected()
            await control.call("publish", {"name": "missed", "to": [quiet.sid, page.sid]})
            await control.call("publish", {"name": "missed", "to": never.sid, "namespace": "/other"})
            for client in (quiet, never):
                await client.connect()
                await client.recovered_again()
                await client.received("missed", 1 + crash)
            # A new client object has no pid; the application passes the one of sessionStorage.
            reloaded = await node.client(server.url, reconnection=False, auth=kept)
            assert (await reloaded.connected()).sid == page.sid
            await reloaded.received("missed", 1)
            clients = (quiet, never, reloaded)
            kept["offset"] = await reloaded.last_offset()
            assert [event.name for event in reloaded.events] == ["missed"]
        assert [event.name for event in quiet.events] == ["seen", "missed", "missed"]
        assert [event.name for event in never.events] == ["missed", "missed"]


async def test_events_stay_until_a_heartbeat_confirms_them(
    tmp_path: Path, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """Events stay until a heartbeat confirms them, however old they are."""
    with ServerWithWrongClock(tmp_path, BRIEFLY) as server:
        control = await node.control(server.url)
        deaf = RawPolling(http, server.url)
        session = await deaf.connect()
        # The client receives all events and answers no heartbeat, as if its network had failed before.
        offsets = await control.call("publish_many", {"name": "numbered", "count": 5, "to": session["sid"]})
        await events_are_old(server, control)
        assert server.asked("SELECT count(*) FROM events") == 5
        again = RawPolling(http, server.url)
        assert await again.connect(auth={"pid": session["pid"]}) == session
        assert [(await again.event())[-1] for _ in offsets] == offsets

        # The next answered heartbeat confirms the events, and they are pruned.
        async def answer() -> None:
            while True:
                await again.packet()

        answering = asyncio.create_task(answer())
        with server.time_passes():
            await until(control, lambda: server.asked("SELECT count(*) FROM events") == 0)
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        assert server.asked("SELECT pruned_through FROM log_state") == sequence_of(offsets[-1])


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
async def test_event_of_the_future_does_not_stop_pruning(
    tmp_path: Path, node: NodeClients, restart: bool
) -> None:
    """A row with a time of emit in the future does not stop pruning, also across a restart."""
    with ServerWithWrongClock(tmp_path, BRIEFLY) as server:
        control = await node.control(server.url)
        server.set_clock(10_000 * HOUR)
        await control.call("publish", {"name": "of the future"})
        server.set_clock(0.0)
        if restart:
            await asyncio.to_thread(server.restart)
            await control.reconnected()
        last = sequence_of(await control.call("publish", {"name": "of today"}))
        with server.time_passes():
            await until(control, lambda: server.asked("SELECT pruned_through FROM log_state") >= last)
        assert server.asked("SELECT count(*) FROM events") == 0
