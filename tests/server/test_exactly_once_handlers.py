"""Handlers of events with an idempotency key: what they asked for is stored with their answer, or nothing."""

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


async def test_an_exception_discards_emits_joins_and_saves_and_the_repeat_does_them(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    sid = (await client.connect(auth={"rooms": ["kept"]}))["sid"]
    wishes = '"say":["discarded","as well"],"join":"room","leave":"kept","save":{"a":1}'
    await client.post(f'42200["deed",{{{wishes},"gate":"failing","fail":true}},"failing"]')
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


async def test_an_exception_leaves_a_room_open_that_the_handler_has_closed(
    server: ServerProcess, node: NodeClients
) -> None:
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


async def test_a_handler_reads_what_it_has_saved_itself(server: ServerProcess, node: NodeClients) -> None:
    client = await node.client(server.url)
    await client.connected()
    await client.call("deed", {"count": 3}, "counting")
    await client.call("deed", {"count": 3}, "counting")
    assert await client.call("load") == {"count": 3}


async def test_handlers_that_run_at_the_same_time_lose_nothing_that_they_saved(
    server: ServerProcess, node: NodeClients
) -> None:
    client = await node.client(server.url)
    sid = (await client.connected()).sid
    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(client.call("deed", {"count": 1}, f"{sid}-{number}"))
    assert await client.call("load") == {"count": 10}


async def test_what_a_handler_asked_for_is_on_disk_with_its_key_when_it_is_acknowledged(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    client = await node.client(server.url, reconnection=False)
    sid = (await client.connected()).sid
    wishes = {"say": ["one", "two"], "join": "joined", "save": {"saved": True}}
    answer = await client.call("deed", wishes, "all of it")
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
    assert await client.call("deed", wishes, "all of it") == answer
    assert len(client.by_name["said"]) == 2


async def test_a_crash_inside_the_handler_leaves_nothing_and_the_repeat_does_everything(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    client = await node.client(server.url, **TUTORIAL)
    sid = (await client.connected()).sid
    wishes = {"gate": "crash", "say": ["survives the crash"], "join": "room", "save": {"saved": True}}
    sending = asyncio.create_task(client.call("deed", wishes, "crash"))
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


async def test_an_answer_that_cannot_be_kept_discards_everything(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    sid = (await client.connect())["sid"]
    await client.post('42400["deed",{"unanswerable":true,"say":["unanswered"]},"unanswerable"]')
    await client.call("whoami", namespace="/")
    expected = await marker(control, sid)
    assert await client.packet() == expected
    assert logged(server, "unanswered") == 0
    assert set(await client.call("deed", {}, "unanswerable", namespace="/")) == {"run"}
