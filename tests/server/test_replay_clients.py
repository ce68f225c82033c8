"""The replay of missed events, broken off anywhere, too long, slow or busy: each event once, in order.

Where the reference loses, repeats or leaks (DESIGN section 4), and what shows that this server does not:

| defect of the reference | tests |
|---|---|
| restart or crash loses all sessions | test_restart: twenty crashes; a graceful restart |
| | test_membership: intervals of membership survive a restart |
| no event received yet: never recovered | test_clients: a client that has never received an event |
| | test_clocks: quiet, never messaged and reloaded clients |
| long quiet connection, offset pruned | test_clocks: quiet, never messaged and reloaded clients |
| half-open connection: refused, or a zombie | test_clients_that_return: a half-open connection |
| | test_takeover: a network that goes silent again and again; what the old connection had in flight |
| volatile event ending in a string destroys the offset | test_clients: volatile emits are not stored |
| | here: volatile events leave a client where it was |
| emits between restore and registration are lost | here: nothing is written before the handler agrees |
| missed events leak before middlewares decide | test_identity: a refusal leaks not one byte |
| | here: nothing is written before the handler agrees |
| joining late replays the past, leaving loses what was in flight | test_membership, all of it |
| rooms changed, kicked or revoked while away are undone | test_away, all of it |
| two clients with one pid | test_takeover: a duplicated tab; a claim while another one waits |
| a pid used in another namespace | test_reference_recovery: a pid opens only its own namespace |
| a failed attempt destroys the session | test_identity: a refusal; test_takeover: a refused claimant |
| | test_offsets_clients: an offset that is not of this log (its owner still recovers) |
| unbounded replay and log memory, restore costs O(log) | here: more was missed than a replay may bring |
| | test_index; test_transport: a reader that is too slow; here: a client that reads slowly |
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
        """Text of several bytes a character and attachments are among what is missed."""
        for number in range(self._expected, self._expected + MISSED):
            data = [number, "täxt €" if number % 3 else b"\x00\xff" * 9]
            await self._control.call("publish", {"name": "numbered", "args": data, "to": self._room})
        self._expected += MISSED

    async def come_back(self) -> int:
        """It is let through and has everything; then it goes again. Returns how many bytes that took."""
        before = self._wire.carried
        await self._client.connect()
        await self._client.recovered_again()
        events = await self._client.received("numbered", self._expected)
        assert [event.data[0] for event in events] == list(range(self._expected)), self._client.story()
        await self._client.cut()
        return self._wire.carried - before

    async def break_after(self, size: int) -> None:
        """It tries, and its connection ends after so many bytes, or when it has everything before that."""
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
async def test_a_replay_that_is_cut_at_any_byte_is_continued_at_the_right_place(
    server: ServerProcess, node: NodeClients, transport: str, stride: int
) -> None:
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
                # What is cut may be cut again, wherever it goes on.
                for cut in (first, *(chance.randrange(begin, size) for _ in range(chance.randrange(3)))):
                    await cutting.break_after(cut)
                    cuts += 1
                await cutting.come_back()
        return cuts

    cuts = await asyncio.gather(*(cut_one_client(share) for share in range(CLIENTS)))
    print(f"{sum(cuts)} cuts")


async def test_nothing_is_written_before_the_connect_handler_agrees_and_what_comes_meanwhile_comes_once(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
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
async def test_a_client_that_missed_more_than_a_replay_may_bring_starts_anew(
    narrow: ServerProcess,
    node: NodeClients,
    http: aiohttp.ClientSession,
    within: dict[str, int],
    beyond: dict[str, int],
) -> None:
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

    complaints = narrow.log.count(": too_many_missed\n")
    await control.call("publish_at_once", {"name": "too many", "to": sids, **beyond})
    await client.connect()
    second = await client.reconnected()
    assert not second.recovered and second.sid != first.sid and second.pid != first.pid
    lost = RawPolling(http, narrow.url)
    fresh = await lost.connect(auth={"pid": session["pid"], "offset": offsets[-1]})
    assert fresh["sid"] != session["sid"]
    assert narrow.log.count(": too_many_missed\n") == complaints + 2
    # A fresh session is as good as any, and has nothing of what was too much.
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


async def test_a_client_that_reads_its_long_replay_slowly_holds_up_nobody_and_misses_nothing(
    server: ServerProcess, node: NodeClients
) -> None:
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
        wire.hold()
        live = [await control.call("publish", {"name": "live", "to": "both"}) for _ in range(200)]
        await control.call("publish", {"name": "volatile", "to": "both", "volatile": True})
        await other.received("volatile")
        assert [event.offset for event in other.by_name["live"]] == live
        assert len(slow.by_name["missed"]) < count, "the replay was over too soon to show anything"
        assert (await other.call("whoami"))["sid"] == other_sid
        wire.flow()
        events = await slow.received("live", 200)
        assert [event.data[0] for event in slow.by_name["missed"]] == list(range(count))
        assert [event.offset for event in events] == live
        assert [event.name for event in slow.events] == ["missed"] * count + ["live"] * 200
        assert len(slow.connects) == 2


async def test_volatile_events_leave_a_client_where_it_was_and_are_not_replayed(
    server: ServerProcess, node: NodeClients
) -> None:
    # The client takes any text at the end of an event for its offset; the next replay begins there.
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
