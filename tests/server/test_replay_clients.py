"""Replays that are cut, too long, slow or concurrent with emits: each event comes once, in order.

Where the reference loses, repeats or leaks events (DESIGN section 4), and the tests of this server:

| defect of the reference | tests |
|---|---|
| restart or crash loses all sessions | test_restart: twenty crashes; a graceful restart |
| | test_membership: intervals of membership survive a restart |
| no event received yet: never recovered | test_clients: client without events |
| | test_clocks: clients recover with pruned offsets |
| long quiet connection, offset pruned | test_clocks: clients recover with pruned offsets |
| half-open connection: refused, or a zombie | test_clients_that_return: half-open connection |
| | test_takeover: repeated network loss; takeover replays events in flight |
| volatile event ending in a string destroys the offset | test_clients: volatile emits end in the offset |
| | here: volatile events keep the clients offset |
| emits between restore and registration are lost | here: replay begins after the connect handler |
| missed events leak before middlewares decide | test_identity: refusal leaks no byte |
| | here: replay begins after the connect handler |
| joining late replays the past, leaving loses what was in flight | test_membership, all of it |
| rooms changed, kicked or revoked while away are undone | test_away, all of it |
| two clients with one pid | test_takeover: duplicated tabs; later claim wins |
| a pid used in another namespace | test_reference_recovery: a pid opens only its own namespace |
| a failed attempt destroys the session | test_identity: refusal; test_takeover: refused claim |
| | test_offsets_clients: foreign offset (its owner still recovers) |
| unbounded replay and log memory, restore costs O(log) | here: too many missed events |
| | test_index; test_transport: a reader that is too slow; here: slow reader of a replay |
| no expiry event | test_session_expired, all of it |
| events of clients are lost | test_exactly_once and test_exactly_once_handlers, all of them |
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import aiohttp
import pytest

from support.clients import Client, NodeClients
from support.polling import RawPolling
from support.processes import ServerProcess
from support.proxies import Wire
from support.scrapes import scrape

CLIENTS = 8
MISSED = 6
"""Events in a replay that is cut."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that replays little."""
    limits = {"max_missed_packets": 20, "max_missed_bytes": 3_000}
    with ServerProcess(tmp_path_factory.mktemp("narrow"), {"connection_state_recovery": limits}) as server:
        yield server


class Cutting:
    """A client in a room of its own, behind a wire of its own, whose replays are cut."""

    def __init__(self, client: Client, wire: Wire, control: Client, room: str) -> None:
        self._client, self._wire, self._control, self._room = client, wire, control, room
        self._expected = 0

    async def miss(self) -> None:
        """Publishes missed events, with characters of several bytes and with attachments."""
        for number in range(self._expected, self._expected + MISSED):
            data = [number, "täxt €" if number % 3 else b"\x00\xff" * 9]
            await self._control.call("publish", {"name": "numbered", "args": data, "to": self._room})
        self._expected += MISSED

    async def come_back(self) -> int:
        """The client recovers, receives all events and disconnects; returns the bytes of that."""
        before = self._wire.carried
        await self._client.connect()
        await self._client.recovered_again()
        events = await self._client.received("numbered", self._expected)
        assert [event.data[0] for event in events] == list(range(self._expected)), self._client.story()
        await self._client.cut()
        return self._wire.carried - before

    async def break_after(self, size: int) -> None:
        """The client recovers until its connection ends after so many bytes, or until it has all events."""
        client = self._client
        troubles = len(client.disconnects) + len(client.errors)

        def has_broken() -> bool:
            return not client.is_connected and len(client.disconnects) + len(client.errors) > troubles

        def has_everything() -> bool:
            return client.is_connected and len(client.events) >= self._expected

        self._wire.cut_after(size)
        await client.connect()
        await client.until(lambda: has_broken() or has_everything(), "a replay that is cut")
        self._wire.cut_after(None)
        await client.cut()


@pytest.mark.parametrize(("transport", "stride"), [("websocket", 5), ("polling", 17)])
async def test_replay_that_is_cut_at_any_byte_continues(
    server: ServerProcess, node: NodeClients, transport: str, stride: int
) -> None:
    """A replay that is cut at any byte continues at the right offset."""
    seed = int(os.environ.get("CUT_SEED") or random.randrange(2**32))
    print(f"CUT_SEED={seed}")
    control = await node.control(server.url)

    async def cut_one_client(share: int) -> int:
        chance, room, cuts = random.Random(seed + share), f"{transport} {share}", 0
        async with Wire(server.port) as wire:
            auth = {"rooms": [room]}
            client = await node.client(wire.url, reconnection=False, transports=(transport,), auth=auth)
            await client.connected()
            # Within CONNECT at the earliest: a websocket that is closed before the handshake came whole
            # makes the official client wait for its timeout of 20 s.
            begin = wire.carried - 60 if transport == "websocket" else 1
            await client.cut()
            cutting = Cutting(client, wire, control, room)
            await cutting.miss()
            size = await cutting.come_back()
            for first in range(begin + share * stride + chance.randrange(stride), size, CLIENTS * stride):
                await cutting.miss()
                # A replay that was cut may be cut again at any byte.
                for cut in (first, *(chance.randrange(begin, size) for _ in range(chance.randrange(3)))):
                    await cutting.break_after(cut)
                    cuts += 1
                await cutting.come_back()
        return cuts

    cuts = await asyncio.gather(*(cut_one_client(share) for share in range(CLIENTS)))
    print(f"{sum(cuts)} cuts")


async def test_replay_begins_after_the_connect_handler(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """No packet is sent before the connect handler accepts; events meanwhile come once."""
    control = await node.control(server.url)
    client = await node.client(server.url, reconnection=False)
    raw = RawPolling(http, server.url)
    session = await raw.connect()
    sids, pid = [(await client.connected()).sid, session["sid"]], session["pid"]
    await client.cut()
    await raw.close()
    expected = [["missed", await control.call("publish", {"name": "missed", "to": sids})]]

    again = RawPolling(http, server.url)
    await again.open()
    await again.post(f'40{{"pid":"{pid}","gate":"raw decision"}}')
    await client.connect(gate="decision")
    for gate in ("raw decision", "decision"):
        await control.call("until_reached", {"gate": gate})
    answer = asyncio.create_task(again.packet())
    meanwhile = await control.call("publish_many", {"name": "meanwhile", "to": sids, "count": 3})
    expected += [["meanwhile", number, offset] for number, offset in enumerate(meanwhile)]
    await control.call("publish", {"name": "volatile", "to": sids, "volatile": True})
    assert not answer.done() and not client.is_connected and not client.events
    for gate in ("raw decision", "decision"):
        await control.call("open_gate", {"gate": gate})
    await client.recovered_again()
    assert (await answer).startswith(f'40{{"sid":"{sids[1]}"')
    expected.append(["live", await control.call("publish", {"name": "live", "to": sids})])
    await client.received("live")
    assert [await again.event() for _ in expected] == expected
    assert [[event.name, *event.args] for event in client.events] == expected


@pytest.mark.parametrize(
    ("within", "beyond"),
    [({"count": 20}, {"count": 21}), ({"count": 3, "size": 900}, {"count": 4, "size": 900})],
    ids=["packets", "bytes"],
)
async def test_too_many_missed_events_give_a_new_session(
    narrow: ServerProcess,
    node: NodeClients,
    http: aiohttp.ClientSession,
    within: dict[str, int],
    beyond: dict[str, int],
) -> None:
    """A client that missed more events than the limits gets a new session."""
    control = await node.control(narrow.url)
    client = await node.client(narrow.url, reconnection=False)
    raw = RawPolling(http, narrow.url)
    first, session = await client.connected(), await raw.connect()
    sids = [first.sid, session["sid"]]
    await client.cut()
    await raw.close()
    offsets = await control.call("publish_at_once", {"name": "missed", "to": sids, **within})
    await client.connect()
    await client.recovered_again()
    await client.received("missed", within["count"])
    again = RawPolling(http, narrow.url)
    assert await again.connect(auth={"pid": session["pid"]}) == session
    assert [(await again.event())[-1] for _ in offsets] == offsets
    await client.cut()
    await again.close()

    before = scrape(narrow.port).value("recoveries_total", result="too_many_missed")
    await control.call("publish_at_once", {"name": "too many", "to": sids, **beyond})
    await client.connect()
    second = await client.reconnected()
    assert not second.recovered and second.sid != first.sid and second.pid != first.pid
    lost = RawPolling(http, narrow.url)
    fresh = await lost.connect(auth={"pid": session["pid"], "offset": offsets[-1]})
    assert fresh["sid"] != session["sid"]
    assert scrape(narrow.port).value("recoveries_total", result="too_many_missed") == before + 2
    # The new session recovers like any other and has none of the missed events.
    await client.cut()
    await lost.close()
    sids = [second.sid, fresh["sid"]]
    end = await control.call("publish", {"name": "end", "to": sids})
    await client.connect()
    await client.recovered_again()
    await client.received("end")
    assert [event.name for event in client.events] == ["missed"] * within["count"] + ["end"]
    once_more = RawPolling(http, narrow.url)
    assert await once_more.connect(auth={"pid": fresh["pid"], "offset": offsets[-1]}) == fresh
    assert await once_more.event() == ["end", end]


async def test_slow_reader_of_a_replay_delays_no_client(server: ServerProcess, node: NodeClients) -> None:
    """A slow reader of a long replay delays no other client and misses no event."""
    control = await node.control(server.url)
    other = await node.client(server.url, auth={"rooms": ["both"]})
    other_sid = (await other.connected()).sid
    async with Wire(server.port, receive_buffer=4096) as wire:
        auth = {"rooms": ["slow", "both"]}
        slow = await node.client(wire.url, reconnection=False, auth=auth)
        await slow.connected()
        await slow.cut()
        count = 400
        await control.call(
            "publish_at_once", {"name": "missed", "to": "slow", "count": count, "size": 40_000}
        )
        await slow.connect()
        await slow.recovered_again()
        await slow.received("missed")
        wire.pause()
        live = [await control.call("publish", {"name": "live", "to": "both"}) for _ in range(200)]
        await control.call("publish", {"name": "volatile", "to": "both", "volatile": True})
        await other.received("volatile")
        assert [event.offset for event in other.by_name["live"]] == live
        assert len(slow.by_name["missed"]) < count, "the replay was over too soon to show anything"
        assert (await other.call("whoami"))["sid"] == other_sid
        wire.resume()
        events = await slow.received("live", 200)
        assert [event.data[0] for event in slow.by_name["missed"]] == list(range(count))
        assert [event.offset for event in events] == live
        assert [event.name for event in slow.events] == ["missed"] * count + ["live"] * 200
        assert len(slow.connects) == 2


async def test_volatile_events_keep_the_clients_offset(server: ServerProcess, node: NodeClients) -> None:
    """Volatile events do not move a client's offset and are not replayed."""
    # The client takes any last string of an event for its offset; the next replay begins there.
    control = await node.control(server.url)
    client = await node.client(server.url, reconnection=False)
    sid = (await client.connected()).sid
    expected = []
    for number in range(5):
        await control.call("publish", {"name": "volatile", "data": "a text", "to": sid, "volatile": True})
        await client.received("volatile", number + 1)
        await client.cut()
        await control.call("publish", {"name": "unheard", "data": "a text", "to": sid, "volatile": True})
        await control.call("publish", {"name": "missed", "data": "a text", "to": sid})
        await client.connect()
        await client.recovered_again()
        await client.received("missed", number + 1)
        expected += ["volatile", "missed"]
    assert [event.name for event in client.events] == expected
