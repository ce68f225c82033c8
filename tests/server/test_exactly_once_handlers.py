"""Handler transactions: deferred operations and the acknowledgement are stored together, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from support.clients import NodeClients
from support.keyed import TUTORIAL, logged, marker, rows, serving_keyed_events
from support.polling import RawPolling
from support.processes import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_keyed_events(tmp_path_factory.mktemp("server")) as server:
        yield server


async def test_exception_discards_deferred_operations(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """An exception discards emits, joins and saves; the repeat runs the handler again."""
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    sid = (await client.connect(auth={"rooms": ["kept"]}))["sid"]
    options = '"say":["discarded","as well"],"join":"room","leave":"kept","save":{"a":1}'
    await client.post(f'42200["deed",{{{options},"gate":"failing","fail":true}},"failing"]')
    await control.call("until_reached", {"gate": "failing"})
    await control.call("open_gate", {"gate": "failing"})
    await client.call("whoami", namespace="/")
    expected = await marker(control, sid)
    assert await client.packet() == expected
    assert await control.call("rooms", {"sid": sid}) == sorted(["kept", sid])
    assert await control.call("load", {"sid": sid}) == {}
    assert logged(server, "discarded") == 0
    assert rows(server, "SELECT key FROM answers WHERE key = 'failing'") == []

    assert set(await client.call("deed", {"say": ["in the end"]}, "failing", namespace="/")) == {"run"}
    assert (await client.event())[:2] == ["said", "in the end"]
    assert rows(server, "SELECT count(*) FROM answers WHERE key = 'failing'") == [(1,)]


async def test_exception_discards_close_room(server: ServerProcess, node: NodeClients) -> None:
    """An exception discards the ``close_room`` of the handler."""
    control = await node.control(server.url)
    client = await node.client(server.url, auth={"rooms": ["open"]})
    sid = (await client.connected()).sid
    await client.emit("deed", {"close": "open", "fail": True, "gate": "closing"}, "closing")
    await control.call("until_reached", {"gate": "closing"})
    assert await control.call("rooms", {"sid": sid}) == sorted(["open", sid])
    await control.call("open_gate", {"gate": "closing"})
    await client.call("whoami")
    assert await client.call("rooms") == sorted(["open", sid])
    await client.call("deed", {"close": "open"}, "closing")
    assert await client.call("rooms") == [sid]


async def test_handler_reads_its_own_saved_data(server: ServerProcess, node: NodeClients) -> None:
    """A handler reads the data that it has saved itself."""
    client = await node.client(server.url)
    await client.connected()
    await client.call("deed", {"count": 3}, "counting")
    await client.call("deed", {"count": 3}, "counting")
    assert await client.call("load") == {"count": 3}


async def test_concurrent_handlers_lose_no_saved_data(server: ServerProcess, node: NodeClients) -> None:
    """Handlers that run concurrently lose no saved data."""
    client = await node.client(server.url)
    sid = (await client.connected()).sid
    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(client.call("deed", {"count": 1}, f"{sid}-{number}"))
    assert await client.call("load") == {"count": 10}


async def test_acknowledged_operations_are_on_disk(server: ServerProcess, node: NodeClients) -> None:
    """At the acknowledgement the handler's operations and its key are on disk."""
    control = await node.control(server.url)
    client = await node.client(server.url, reconnection=False)
    sid = (await client.connected()).sid
    options = {"say": ["one", "two"], "join": "joined", "save": {"saved": True}}
    answer = await client.call("deed", options, "all of it")
    server.kill()
    await client.gone()
    await control.gone()
    await asyncio.to_thread(server.start)
    await control.reconnected()
    await control.call("publish", {"name": "missed", "to": "joined"})
    await client.connect()
    await client.recovered_again()
    await client.received("missed")
    assert [event.data for event in client.events] == [["one"], ["two"], []]
    assert await client.call("rooms") == sorted(["joined", sid])
    assert await client.call("load") == {"saved": True}
    assert await client.call("deed", options, "all of it") == answer
    assert len(client.by_name["said"]) == 2


async def test_crash_inside_the_handler_stores_nothing(server: ServerProcess, node: NodeClients) -> None:
    """A crash inside the handler stores nothing; the repeat stores everything."""
    control = await node.control(server.url)
    client = await node.client(server.url, **TUTORIAL)
    sid = (await client.connected()).sid
    options = {"gate": "crash", "say": ["survives the crash"], "join": "room", "save": {"saved": True}}
    sending = asyncio.create_task(client.call("deed", options, "crash"))
    await control.call("until_reached", {"gate": "crash"})
    server.kill()
    for one in (client, control):
        await one.gone()
    assert logged(server, "survives the crash") == 0
    assert rows(server, "SELECT room FROM rooms WHERE sid = ?", sid) == []
    await asyncio.to_thread(server.start)
    await control.reconnected()
    await client.recovered_again()
    await control.call("until_reached", {"gate": "crash"})
    await control.call("open_gate", {"gate": "crash"})
    assert set(await sending) == {"run"}
    await client.received("said")
    assert [event.data for event in client.events] == [["survives the crash"]]
    assert await client.call("rooms") == sorted(["room", sid])
    assert await client.call("load") == {"saved": True}


async def test_invalid_acknowledgement_discards_everything(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """An acknowledgement that cannot be stored discards the deferred operations."""
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    sid = (await client.connect())["sid"]
    await client.post('42400["deed",{"unanswerable":true,"say":["unanswered"]},"unanswerable"]')
    await client.call("whoami", namespace="/")
    expected = await marker(control, sid)
    assert await client.packet() == expected
    assert logged(server, "unanswered") == 0
    assert set(await client.call("deed", {}, "unanswerable", namespace="/")) == {"run"}
