"""Membership counts at the moment of the event, over restarts, crashes and disconnections."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from support.clients import Client, NodeClients
from support.polling import RawPolling
from support.processes import ServerProcess

ROOMS: tuple[str | int, ...] = ("red", "green", "blue", 7)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as server:
        yield server


async def crash(server: ServerProcess, *clients: Client) -> None:
    """SIGKILL and a new start; returns when the clients have noticed."""
    server.kill()
    for client in clients:
        await client.gone()
    await asyncio.to_thread(server.start)


async def stop_and_start(server: ServerProcess, *clients: Client) -> None:
    """SIGTERM and a new start."""
    await asyncio.to_thread(server.terminate)
    for client in clients:
        await client.gone()
    await asyncio.to_thread(server.start)


@pytest.mark.parametrize("restart", [crash, stop_and_start], ids=["kill -9", "graceful"])
async def test_intervals_of_membership_survive_a_restart(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession, restart: Any
) -> None:
    control = await node.control(server.url)
    client = await node.client(server.url, reconnection=False)
    raw = RawPolling(http, server.url)
    first, session = await client.connected(), await raw.connect()
    sids = (first.sid, session["sid"])
    offsets: list[str] = []

    async def publish(name: str) -> None:
        offsets.append(await control.call("publish", {"name": name, "to": "room"}))

    async def restart_and_return() -> None:
        await restart(server, control)
        await control.reconnected()

    await publish("before the join")
    for sid in sids:
        await control.call("enter", {"sid": sid, "room": "room"})
    await client.cut()
    await raw.close()
    await publish("joined")
    await restart_and_return()
    await publish("joined, after a restart")
    for sid in sids:
        await control.call("evict", {"sid": sid, "room": "room"})
    await publish("left")
    await restart_and_return()
    await publish("left, after a restart")
    for sid in sids:
        await control.call("enter", {"sid": sid, "room": "room"})
        # Leaving and rejoining between two events is no gap, and repeats no event.
        await control.call("evict", {"sid": sid, "room": "room"})
        await control.call("enter", {"sid": sid, "room": "room"})
    await publish("joined again")
    for sid in sids:
        await control.call("evict", {"sid": sid, "room": "room"})
    await restart_and_return()
    await publish("left again")

    expected = ["joined", "joined, after a restart", "joined again", "end"]
    await client.connect()
    await client.recovered_again()
    again = RawPolling(http, server.url)
    assert await again.connect(auth={"pid": session["pid"]}) == session
    offset = await control.call("publish", {"name": "end", "to": list(sids)})
    await client.received("end")
    assert [event.name for event in client.events] == expected
    packets = [["joined", offsets[1]], ["joined, after a restart", offsets[2]], ["joined again", offsets[5]]]
    assert [await again.event() for _ in expected] == [*packets, ["end", offset]]


async def test_addresses_of_events_survive_a_crash(server: ServerProcess, node: NodeClients) -> None:
    """The addressed and skipped sids of an event survive a crash."""
    control = await node.control(server.url)
    ann, bob = [await node.client(server.url, reconnection=False, auth={"rooms": ["both"]}) for _ in range(2)]
    for client in (ann, bob):
        await client.connected()
        await client.cut()

    async def publish_all(when: str) -> None:
        messages: dict[str, dict[str, object]] = {
            "to Ann": {"to": ann.sid},
            "to Bob": {"to": bob.sid},
            "to Ann and the room": {"to": [ann.sid, "both"]},
            "not to Ann": {"skip_sid": ann.sid, "to": "both"},
            "to the room without both": {"skip_sid": [ann.sid, bob.sid], "to": "both"},
            "to Ann, who is skipped": {"to": ann.sid, "skip_sid": ann.sid},
            "to all but Bob": {"skip_sid": bob.sid},
        }
        for name, message in messages.items():
            await control.call("publish", {"name": f"{name}, {when}", **message})

    await publish_all("before")
    await crash(server, control)
    await control.reconnected()
    await publish_all("after")
    for client in (ann, bob):
        await client.connect(rooms=[])
        await client.recovered_again()
    await control.call("publish", {"name": "end", "to": "both"})
    expected = {
        ann: ["to Ann", "to Ann and the room", "to all but Bob"],
        bob: ["to Bob", "to Ann and the room", "not to Ann"],
    }
    for client, names in expected.items():
        await client.received("end")
        twice = [f"{name}, {when}" for when in ("before", "after") for name in names]
        assert [event.name for event in client.events] == [*twice, "end"]


async def test_events_in_flight_at_a_leave_are_replayed(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """Events in flight at a leave are replayed; later events of the room are not."""
    control = await node.control(server.url)
    raw = RawPolling(http, server.url)
    session = await raw.connect(auth={"rooms": ["leaving"]})
    # The client does not read: these events are in the buffer of its connection and lost with it.
    flight = [await control.call("publish", {"name": "in flight", "to": "leaving"}) for _ in range(3)]
    await control.call("evict", {"sid": session["sid"], "room": "leaving"})
    await control.call("publish", {"name": "left", "to": "leaving"})
    again = RawPolling(http, server.url)
    await again.connect(auth={"pid": session["pid"]})
    end = await control.call("publish", {"name": "end", "to": session["sid"]})
    assert [await again.event() for _ in range(4)] == [["in flight", one] for one in flight] + [["end", end]]


@dataclass(eq=False)
class Twin:
    """The events that a client receives which never disconnects."""

    client: Client
    rooms: set[str | int] = field(default_factory=set)
    expected: list[int] = field(default_factory=list)

    def hear(self, number: int, to: list[str | int] | None, skip: list[str]) -> None:
        addressed = to is None or self.client.sid in to or not self.rooms.isdisjoint(to)
        if addressed and self.client.sid not in skip:
            self.expected.append(number)


class History:
    """A random history of clients, rooms and events; the same seed gives the same one."""

    def __init__(self, seed: int, server: ServerProcess, control: Client, twins: list[Twin]) -> None:
        self._chance = random.Random(seed)
        self._server, self._control, self._twins = server, control, twins
        self._number = 0

    async def step(self) -> None:
        steps = {self._publish: 60, self._enter: 15, self._evict: 12, self._close: 3, self._come_or_go: 20}
        (step,) = self._chance.choices(list(steps), list(steps.values()))
        await step()

    async def _publish(self) -> None:
        sids = [twin.client.sid for twin in self._twins]
        to = self._chance.choice([None, self._chance.sample([*ROOMS, *sids], self._chance.randint(1, 3))])
        skip = self._chance.choice([[], [], self._chance.sample(sids, 1)])
        message = {"name": "numbered", "data": self._number, "to": to, "skip_sid": skip}
        await self._control.call("publish", message)
        for twin in self._twins:
            twin.hear(self._number, to, skip)
        self._number += 1

    async def _enter(self) -> None:
        twin, room = self._chance.choice(self._twins), self._chance.choice(ROOMS)
        await self._control.call("enter", {"sid": twin.client.sid, "room": room})
        twin.rooms.add(room)

    async def _evict(self) -> None:
        twin, room = self._chance.choice(self._twins), self._chance.choice(ROOMS)
        await self._control.call("evict", {"sid": twin.client.sid, "room": room})
        twin.rooms.discard(room)

    async def _close(self) -> None:
        room = self._chance.choice(ROOMS)
        await self._control.call("close_room", {"room": room})
        for twin in self._twins:
            twin.rooms.discard(room)

    async def _come_or_go(self) -> None:
        client = self._chance.choice(self._twins).client
        if client.is_connected:
            await self._chance.choice([client.cut, client.close])()
        else:
            await client.connect()
            await client.recovered_again()

    async def crash(self) -> None:
        connected = [twin.client for twin in self._twins if twin.client.is_connected]
        await crash(self._server, self._control, *connected)
        await self._control.reconnected()


async def test_clients_match_their_twins(server: ServerProcess, node: NodeClients) -> None:
    """In a random history every client receives the events of its twin."""
    seed = int(os.environ.get("MEMBERSHIP_SEED") or random.randrange(2**32))
    print(f"MEMBERSHIP_SEED={seed}")
    control = await node.control(server.url)
    transports = [("websocket",), ("polling",), ("websocket",), ("websocket",)]
    twins = [
        Twin(await node.client(server.url, reconnection=False, transports=names)) for names in transports
    ]
    for twin in twins:
        await twin.client.connected()
    history = History(seed, server, control, twins)
    for _ in range(3):
        for _ in range(70):
            await history.step()
        await history.crash()
    for twin in twins:
        await twin.client.connect()
        await twin.client.recovered_again()
    await control.call("publish", {"name": "end"})
    for twin in twins:
        await twin.client.received("end")
        assert [event.data[0] for event in twin.client.by_name["numbered"]] == twin.expected
        assert [event.name for event in twin.client.events][-1] == "end"
