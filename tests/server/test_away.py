"""Away is not absent: what is done to a session while its client is gone counts when it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from support.clients import Client, NodeClients
from support.polling import RawPolling
from support.processes import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as server:
        yield server


async def away(node: NodeClients, url: str, *rooms: str) -> Client:
    """An official client that has been connected and is gone."""
    client = await node.client(url, reconnection=False, auth={"rooms": rooms})
    await client.connected()
    await client.cut()
    return client


async def back(client: Client) -> None:
    """It comes back; its connect handler joins nothing more."""
    await client.connect(rooms=[])
    await client.recovered_again()


async def names_until(client: Client, control: Client, last: str = "end") -> list[str]:
    """What the client received, in order, up to an event that is published now."""
    await control.call("publish", {"name": last, "to": client.sid})
    await client.received(last)
    return [event.name for event in client.events]


async def test_rooms_are_entered_left_and_closed_at_their_place_in_the_order(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    client = await away(node, server.url, "left", "closed", "both")
    sid = client.sid

    async def publish(name: str) -> None:
        for room in ("left", "closed", "both", "entered"):
            await control.call("publish", {"name": f"{name}: {room}", "to": room})

    await publish("before")
    await control.call("enter", {"sid": sid, "room": "entered"})
    await control.call("evict", {"sid": sid, "room": "left"})
    await publish("between")
    await control.call("close_room", {"room": "closed"})
    await control.call("evict", {"sid": sid, "room": "both"})
    await control.call("close_room", {"room": "both"})
    await publish("after")
    assert await control.call("rooms", {"sid": sid}) == sorted(["entered", sid])
    await back(client)
    await publish("live")
    assert await names_until(client, control) == [
        "before: left",
        "before: closed",
        "before: both",
        "between: closed",
        "between: both",
        "between: entered",
        "after: entered",
        "live: entered",
        "end",
    ]
    assert await client.call("rooms") == sorted(["entered", sid])


async def test_a_raw_client_that_was_away_is_sent_exactly_the_packets_of_its_rooms(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    session = await client.connect(auth={"rooms": ["raw left", "raw closed"]})
    await client.close()
    packets = []
    for room in ("raw left", "raw closed"):
        offset = await control.call("publish", {"name": "missed", "to": room})
        packets.append(f'42["missed","{offset}"]')
    await control.call("evict", {"sid": session["sid"], "room": "raw left"})
    await control.call("close_room", {"room": "raw closed"})
    for room in ("raw left", "raw closed"):
        await control.call("publish", {"name": "not for it", "to": room})
    again = RawPolling(http, server.url)
    await again.connect(auth={"pid": session["pid"]})
    offset = await control.call("publish", {"name": "end", "to": session["sid"]})
    packets.append(f'42["end","{offset}"]')
    assert [await again.packet() for _ in packets] == packets


async def test_data_are_saved_and_read(server: ServerProcess, node: NodeClients) -> None:
    control = await node.control(server.url)
    client = await away(node, server.url)
    sid = client.sid
    assert await control.call("load", {"sid": sid}) == {}
    await control.call("save", {"sid": sid, "session": {"saved": True, "number": 1}})
    await control.call("amend", {"sid": sid, "change": {"number": 2}})
    assert await control.call("load", {"sid": sid}) == {"saved": True, "number": 2}
    await back(client)
    assert await client.call("load") == {"saved": True, "number": 2}


async def test_what_is_emitted_to_its_sid_waits_for_it(server: ServerProcess, node: NodeClients) -> None:
    control = await node.control(server.url)
    client = await away(node, server.url)
    offsets = [await control.call("publish", {"name": "to it", "to": client.sid}) for _ in range(3)]
    await control.call("publish", {"name": "to another", "to": control.sid})
    await back(client)
    events = await client.received("to it", 3)
    assert [event.offset for event in events] == offsets
    assert await names_until(client, control) == ["to it"] * 3 + ["end"]


@pytest.mark.parametrize("command", ["hang_up", "revoke"])
@pytest.mark.parametrize("crash", [False, True], ids=["running", "after a crash"])
async def test_a_session_that_is_ended_is_over(
    server: ServerProcess, node: NodeClients, command: str, crash: bool
) -> None:
    control = await node.control(server.url)
    client = await away(node, server.url, "room")
    sid = client.sid
    await control.call("publish", {"name": "secret", "to": sid})
    await control.call(command, {"sid": sid})
    await control.call("publish", {"name": "secret", "to": "room"})
    if crash:
        await asyncio.to_thread(server.restart)
        await control.reconnected()
    else:
        records = await control.call("seen", {"sid": sid})
        assert [record["what"] for record in records] == ["connect", "disconnect"]
    assert await control.call("rooms", {"sid": sid}) == []
    await control.call(command, {"sid": sid})  # once more is no error

    await client.connect(rooms=[])
    fresh = await client.reconnected()
    assert not fresh.recovered and fresh.sid != sid
    assert await names_until(client, control) == ["end"]
    assert "reconnection of an unknown session: unknown_session" in server.log


async def test_a_raw_client_whose_session_was_revoked_is_sent_nothing_of_it(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    session = await client.connect()
    await client.close()
    await control.call("publish", {"name": "secret", "to": session["sid"]})
    await control.call("revoke", {"sid": session["sid"]})
    again = RawPolling(http, server.url)
    fresh = await again.connect(auth={"pid": session["pid"]})
    assert fresh["sid"] != session["sid"] and fresh["pid"] != session["pid"]
    offset = await control.call("publish", {"name": "end", "to": fresh["sid"]})
    assert await again.packet() == f'42["end","{offset}"]'


async def test_a_session_that_is_ended_while_its_client_is_connected_takes_its_rooms_along(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    client = await node.client(server.url, auth={"rooms": ["room"], "farewell": {"leave": ["room"]}})
    sid = (await client.connected()).sid
    await control.call("hang_up", {"sid": sid})
    assert await client.gone() == "io server disconnect"
    records = await control.call("seen", {"sid": sid})
    assert [record["what"] for record in records] == ["connect", "disconnect"]
    assert await control.call("rooms", {"sid": sid}) == []


async def test_all_of_it_is_on_disk_when_the_calls_return(server: ServerProcess, node: NodeClients) -> None:
    control = await node.control(server.url)
    client = await away(node, server.url, "left", "closed", "kept")
    sid = client.sid
    for room in ("left", "closed", "kept", "entered"):
        await control.call("publish", {"name": f"before: {room}", "to": room})
    await control.call("enter", {"sid": sid, "room": "entered"})
    await control.call("evict", {"sid": sid, "room": "left"})
    await control.call("close_room", {"room": "closed"})
    await control.call("save", {"sid": sid, "session": {"saved": True}})
    await control.call("amend", {"sid": sid, "change": {"amended": True}})
    server.kill()
    await control.gone()
    await asyncio.to_thread(server.start)
    await control.reconnected()
    for room in ("left", "closed", "kept", "entered"):
        await control.call("publish", {"name": f"after: {room}", "to": room})
    await back(client)
    names = ["before: left", "before: closed", "before: kept", "after: kept", "after: entered", "end"]
    assert await names_until(client, control) == names
    assert await client.call("rooms") == sorted(["kept", "entered", sid])
    assert await client.call("load") == {"saved": True, "amended": True}


@pytest.mark.parametrize("way", ["cut", "close", "disconnect"])
async def test_leaving_its_rooms_in_the_disconnect_handler_changes_nothing(
    server: ServerProcess, node: NodeClients, way: str
) -> None:
    control = await node.control(server.url)
    farewell = {"leave": ["red", "blue"]}
    client = await node.client(
        server.url, reconnection=False, auth={"rooms": ["red", "blue"], "farewell": farewell}
    )
    sid = (await client.connected()).sid
    await getattr(client, way)()
    await control.call("publish", {"name": "missed", "to": "red"})
    assert await control.call("rooms", {"sid": sid}) == sorted(["red", "blue", sid])
    await client.connect(farewell=farewell)
    await client.recovered_again()
    await control.call("publish", {"name": "live", "to": "blue"})
    assert await names_until(client, control) == ["missed", "live", "end"]
    assert await client.call("rooms") == sorted(["red", "blue", sid])
    records = await control.call("seen", {"sid": sid})
    assert [record["what"] for record in records] == ["connect", "disconnect", "connect"]


async def test_handlers_that_change_a_session_at_the_same_time_lose_no_change(
    server: ServerProcess, node: NodeClients
) -> None:
    # On python-socketio alone saving is done at once, so a handler cannot see what was before it.
    client = await node.client(server.url, reconnection=False)
    await client.connected()

    async def count() -> None:
        await client.call("count")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(count())
    assert await client.call("load") == {"count": 20}
