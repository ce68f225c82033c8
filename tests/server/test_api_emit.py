"""``POST /api/emit``: programs publish over HTTP, and official clients receive it."""

from __future__ import annotations

import asyncio
import base64
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import KEY, call, problem, result, serving_api
from support.clients import Client, NodeClients
from support.http_requests import Answer
from support.processes import ServerProcess
from support.storing import sqlite


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_api(tmp_path_factory.mktemp("server")) as server:
        yield server


def publish(server: ServerProcess, body: object, key: str | None = None, **more: Any) -> Answer:
    if key is not None:
        more["Idempotency_Key"] = key
    return call(server.port, "POST", "/emit", body, **more)


def stored(server: ServerProcess, name: str) -> list[str]:
    """The offsets' numbers of the stored events of this name."""
    return sqlite(server.database, f"SELECT offset FROM events WHERE event = '{name}'").splitlines()


async def connected(node: NodeClients, server: ServerProcess, **options: Any) -> Client:
    client = await node.client(server.url, **options)
    await client.connected()
    return client


async def test_official_clients_receive_it(server: ServerProcess, node: NodeClients) -> None:
    """Rooms, skipped sids, namespaces and binary data arrive as the emits of a handler do."""
    ann, bob = await connected(node, server), await connected(node, server)
    other = await connected(node, server, namespace="/other")
    content = bytes(range(256))
    binary = {"$binary": base64.b64encode(content).decode()}

    def emit(**body: object) -> str:
        offset: str = result(publish(server, {"event": "news", **body}))["offset"]
        return offset

    offsets = [
        emit(args=["all", binary, {"deep": [binary]}]),
        emit(args=["ann"], rooms=[ann.sid]),
        emit(args=["not ann"], skip=[ann.sid]),
        emit(args=["nobody"], rooms=[]),
        emit(args=["other"], namespace="/other"),
        emit(args=["last"]),
    ]
    (whole, *_) = await ann.received("news", 3)
    assert whole.data == ["all", content, {"deep": [content]}] and whole.offset == offsets[0]
    assert [event.data[0] for event in await ann.received("news", 3)] == ["all", "ann", "last"]
    assert [event.data[0] for event in await bob.received("news", 3)] == ["all", "not ann", "last"]
    assert [event.data[0] for event in await other.received("news")] == ["other"]
    assert [event.offset for event in await bob.received("news", 3)] == [offsets[0], offsets[2], offsets[5]]


async def test_list_and_volatile(server: ServerProcess, node: NodeClients) -> None:
    """A list is one group with an offset each; a volatile event is sent and not stored."""
    client = await connected(node, server)
    offsets = result(publish(server, [{"event": "many", "args": [number]} for number in range(1000)]))
    assert len(set(offsets["offsets"])) == 1000
    events = await client.received("many", 1000)
    assert [(event.data[0], event.offset) for event in events] == list(enumerate(offsets["offsets"]))
    assert result(publish(server, {"event": "brief", "volatile": True})) == {"offset": None}
    await client.received("brief")
    assert stored(server, "brief") == []


async def test_client_that_is_away(server: ServerProcess, node: NodeClients) -> None:
    """A client that is away gets what was published when it returns."""
    client = await connected(node, server, reconnection=False)
    await client.cut()
    offset = result(publish(server, {"event": "missed"}))["offset"]
    await client.connect()
    await client.recovered_again()
    (event,) = await client.received("missed")
    assert event.offset == offset


EVENTS = [{"event": "ok"}, {"event": "ok"}]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "event"),
        ({"event": 7}, "event"),
        ({"event": "connect"}, "event"),
        ({"event": "x" * 1001}, "event"),
        ({"event": "a", "args": {}}, "args"),
        ({"event": "a", "args": [1, {"b": {"$binary": "?"}}]}, "args.1.b"),
        ({"event": "a", "args": [{"$binary": 7}]}, "args.0"),
        ({"event": "a", "args": [{"$binary": "", "more": 1}]}, "args.0"),
        ({"event": "a", "args": [{"_placeholder": True}, {"$binary": ""}]}, "args"),
        ({"event": "a", "args": ["x" * 3_000_000]}, "args"),
        ({"event": "a", "rooms": [1.5]}, "rooms.0"),
        ({"event": "a", "rooms": [True]}, "rooms.0"),
        ({"event": "a", "rooms": [1e300]}, "rooms.0"),
        ({"event": "a", "rooms": [2**63]}, "rooms.0"),
        ({"event": "a", "rooms": "red"}, "rooms"),
        ({"event": "a", "skip": [7]}, "skip.0"),
        ({"event": "a", "namespace": "chat"}, "namespace"),
        ({"event": "a", "except": ["red"]}, "except"),
        ({"event": "a", "room": "red"}, "room"),
        ([*EVENTS, {"event": "connect"}], "2.event"),
        ([*EVENTS, {"event": "a", "args": [{"$binary": "?"}]}], "2.args.0"),
        ([*EVENTS, {"event": "a", "except": ["red"]}], "2.except"),
        ([*EVENTS, {"event": "a", "volatile": True}], "2.volatile"),
        ([], ""),
        ([{"event": "ok"}] * 1001, ""),
        ("text", ""),
    ],
)
def test_wrong_field(server: ServerProcess, body: object, field: str) -> None:
    """An answer with status 422 names the field, and nothing is stored."""
    document = problem(publish(server, body), 422)
    assert [error["field"] for error in document["errors"]] == [field]
    if field.endswith("except"):
        assert "skip takes the sids" in document["detail"]
    assert stored(server, "ok") == stored(server, "a") == []


def test_not_json(server: ServerProcess) -> None:
    """A body that is not JSON, has another type or is too large gets a status of its own."""
    for raw in (b"{", b'{"event": NaN}', b'"\xff"', b"[" * 100_000):
        assert "not JSON" in problem(publish(server, None, raw=raw), 400)["detail"]
    problem(publish(server, {"event": "a"}, Content_Type="text/plain"), 415)
    problem(publish(server, None, raw=b" " * 8_000_001), 413)


def test_idempotency_key(server: ServerProcess) -> None:
    """The same body under a key gets the same result and is stored once; another body is refused."""
    for body in ({"event": "keyed", "args": [1]}, [{"event": "keyed"}, {"event": "keyed"}]):
        key = str(type(body))
        first = result(publish(server, body, key))
        assert result(publish(server, body, key)) == first
        document = problem(publish(server, {"event": "keyed", "args": [2]}, key), 422)
        assert document["errors"][0]["field"] == "Idempotency-Key"
    assert len(stored(server, "keyed")) == 3
    problem(publish(server, {"event": "keyed", "volatile": True}, "new"), 422)
    problem(publish(server, {"event": "keyed"}, "x" * 201), 422)
    assert len(stored(server, "keyed")) == 3


async def test_kill_between_publish_and_retry(tmp_path: Path, node: NodeClients) -> None:
    """A publisher that repeats its requests over kills publishes each event once."""
    with serving_api(tmp_path) as server:
        client = await connected(node, server)
        offsets = []
        for number in range(4):
            body, key = {"event": "order", "args": [number]}, f"order {number}"
            sending = asyncio.create_task(asyncio.to_thread(attempted, server, body, key))
            if number % 2:
                await sending
            else:  # somewhere between the arrival of the request and the answer
                await asyncio.sleep(0)
            await asyncio.to_thread(server.kill)
            await sending
            await client.gone()
            await asyncio.to_thread(server.start)
            offsets.append(result(await asyncio.to_thread(publish, server, body, key))["offset"])
            again = result(await asyncio.to_thread(publish, server, body, key))
            assert again["offset"] == offsets[-1]
            await client.recovered_again()
        events = await client.received("order", 4)
        assert [(event.data[0], event.offset) for event in events] == list(enumerate(offsets))
        assert len(stored(server, "order")) == 4


def attempted(server: ServerProcess, body: object, key: str) -> None:
    """A request whose answer a kill may take away."""
    try:
        publish(server, body, key)
    except (OSError, http.client.HTTPException):
        return


def test_full_log(tmp_path: Path) -> None:
    """While the log is full, the answer says so, and when to try again; nothing of the group is stored."""
    with serving_api(tmp_path, {"store": {"max_size": 1_000_000}}) as server:
        body = [{"event": "big", "args": ["x" * 50_000]}] * 4
        answers = [publish(server, body, f"key {number}") for number in range(10)]
        full = next(answer for answer in answers if answer.status != 200)
        assert "The event log is full" in problem(full, 507)["detail"]
        assert full.header("retry-after") == "10"
        accepted = sum(answer.status == 200 for answer in answers)
        assert len(stored(server, "big")) == 4 * accepted
        assert KEY not in server.log
