"""Changes of an away session are in effect when its client recovers it."""

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
    """An official client whose session is away."""
    client = await node.client(url, reconnection=False, auth={"rooms": rooms})
    await client.connected()
    await client.cut()
    return client


async def back(client: Client) -> None:
    """The client recovers its session; its connect handler joins no room."""
    await client.connect(rooms=[])
    await client.recovered_again()


async def names_until(client: Client, control: Client, last: str = "end") -> list[str]:
    """The names of the received events, in order, up to an event that is published now."""
    await control.call("publish", {"name": last, "to": client.sid})
    await client.received(last)
    return [event.name for event in client.events]


async def test_room_changes_take_effect_in_log_order(server: ServerProcess, node: NodeClients) -> None:
    """Rooms are entered, left and closed in the order of the log."""
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


async def test_raw_client_receives_packets_of_its_rooms(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """A raw client that was away receives exactly the packets of its rooms."""
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


async def test_events_to_an_away_sid_are_replayed(server: ServerProcess, node: NodeClients) -> None:
    """Events to the sid of an away session are replayed."""
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
async def test_ended_away_session_is_not_recovered(
    server: ServerProcess, node: NodeClients, command: str, crash: bool
) -> None:
    """An away session that the server ends is not recovered."""
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
    await control.call(command, {"sid": sid})  # a second call is no error

    await client.connect(rooms=[])
    fresh = await client.reconnected()
    assert not fresh.recovered and fresh.sid != sid
    assert await names_until(client, control) == ["end"]
    assert "reconnection of an unknown session: unknown_session" in server.log


async def test_revoked_session_sends_nothing(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """A raw client receives nothing of its revoked session."""
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


async def test_ended_live_session_leaves_its_rooms(server: ServerProcess, node: NodeClients) -> None:
    """A live session that the server ends leaves its rooms."""
    control = await node.control(server.url)
    client = await node.client(server.url, auth={"rooms": ["room"], "farewell": {"leave": ["room"]}})
    sid = (await client.connected()).sid
    await control.call("hang_up", {"sid": sid})
    assert await client.gone() == "io server disconnect"
    records = await control.call("seen", {"sid": sid})
    assert [record["what"] for record in records] == ["connect", "disconnect"]
    assert await control.call("rooms", {"sid": sid}) == []


async def test_changes_are_on_disk_when_the_calls_return(server: ServerProcess, node: NodeClients) -> None:
    """All changes of an away session are on disk when their calls return."""
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
async def test_leave_in_the_disconnect_handler_is_ignored(
    server: ServerProcess, node: NodeClients, way: str
) -> None:
    """Leaving rooms inside the disconnect handler does not change the session."""
    control = await node.control(server.url)
    farewell = {"leave": ["red", "blue"]}
    client = await node.client(server.url, reconnection=False, auth={"farewell": farewell})
    sid = (await client.connected()).sid
    for room in ("red", "blue"):
        await client.call("join", room)
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


async def test_concurrent_handlers_lose_no_change(server: ServerProcess, node: NodeClients) -> None:
    """Handlers that change a session concurrently lose no change."""
    # python-socketio alone saves at once, so no other handler can see the former data.
    client = await node.client(server.url, reconnection=False)
    await client.connected()

    async def count() -> None:
        await client.call("count")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(count())
    assert await client.call("load") == {"count": 20}
