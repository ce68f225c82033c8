"""``GET /api/events`` and ``GET /api/events/stream``: what is in the log, and what comes into it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from support.api import KEY, call, problem, result, serving_api
from support.processes import DEADLINE, ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_api(tmp_path_factory.mktemp("server")) as server:
        yield server


def publish(server: ServerProcess, *events: dict[str, Any]) -> list[str]:
    offsets: list[str] = result(call(server.port, "POST", "/emit", list(events)))["offsets"]
    return offsets


def events(server: ServerProcess, **query: Any) -> dict[str, Any]:
    page: dict[str, Any] = result(call(server.port, "GET", f"/events?{urlencode(query)}"))
    return page


def test_pages_of_events(server: ServerProcess) -> None:
    """Pages go back to the beginning and forth to the end by opaque cursors, the newest event last."""
    room = {"namespace": "/pages", "rooms": ["red"]}
    offsets = publish(server, *({"event": "said", "args": [number], **room} for number in range(7)))
    page = events(server, namespace="/pages", room="red", limit=3)
    shown = page["events"][-1]
    assert shown == {
        "offset": offsets[6],
        "namespace": "/pages",
        "event": "said",
        "args": [6],
        "rooms": ["red"],
        "skip": [],
        "emitted_at": shown["emitted_at"],
    }
    assert shown["emitted_at"].endswith("Z")
    found = page["events"]
    while page["older"] is not None:
        page = events(server, namespace="/pages", room="red", limit=3, before=page["older"])
        found = [*page["events"], *found]
    assert [event["offset"] for event in found] == offsets
    forwards, after = [], offsets[0]
    for _ in range(4):
        page = events(server, namespace="/pages", limit=2, after=after)
        forwards += page["events"]
        after = page["newer"]
    assert [event["offset"] for event in forwards] == offsets[1:]
    (new,) = publish(server, {"event": "said", **room})
    assert [event["offset"] for event in events(server, after=after)["events"]] == [new]


def test_filters(server: ServerProcess) -> None:
    """Namespace, name and room select events; 42 is a room's number and a room's name."""
    publish(
        server,
        {"event": "a", "namespace": "/f", "rooms": [42], "skip": ["sid"]},
        {"event": "b", "namespace": "/f", "rooms": ["42"], "args": [{"$binary": "AP8="}]},
        {"event": "a", "namespace": "/f"},
    )
    assert [event["rooms"] for event in events(server, namespace="/f", room="42")["events"]] == [[42], ["42"]]
    assert [event["rooms"] for event in events(server, namespace="/f", event="a")["events"]] == [[42], None]
    (binary,) = events(server, namespace="/f", event="b", room="42")["events"]
    assert binary["args"] == [{"$binary": "AP8="}]
    assert events(server, room="42")["events"] == []


def test_lone_surrogates(server: ServerProcess) -> None:
    """Half a character, which JSON can escape, is published, shown and named in errors as it is."""
    raw = b'{"event": "half", "namespace": "/h", "args": [{"\\ud800": "\\udfff"}]}'
    result(call(server.port, "POST", "/emit", raw=raw))
    (event,) = events(server, namespace="/h")["events"]
    assert event["args"] == [{"\ud800": "\udfff"}]
    raw = b'{"event": "half", "args": [{"\\ud800": {"$binary": 1}}]}'
    assert problem(call(server.port, "POST", "/emit", raw=raw), 422)["errors"][0]["field"] == "args.0.\ud800"


@pytest.mark.parametrize(
    ("query", "field", "status"),
    [
        ("limit=0", "limit", 422),
        ("limit=1001", "limit", 422),
        ("limit=x", "limit", 422),
        ("limit=1_0", "limit", 422),
        ("before=", "before", 422),
        ("before=x", "before", 409),
        ("after=unknown.1", "after", 409),
        ("namespace=chat", "namespace", 422),
        ("rooms=red", "rooms", 422),
        ("limit=1&limit=2", "limit", 422),
    ],
)
def test_wrong_query(server: ServerProcess, query: str, field: str, status: int) -> None:
    """A wrong parameter gets 422, a cursor that is not of this log 409; both are named."""
    document = problem(call(server.port, "GET", f"/events?{query}"), status)
    assert [error["field"] for error in document["errors"]] == [field]


class Reader:
    """A reader of server-sent events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.last_id = ""

    async def next(self) -> dict[str, Any]:
        """The next event; blocks without data only set the id, as in a browser."""
        data = ""
        async with asyncio.timeout(DEADLINE):
            while line := (await self.response.content.readline()).decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if name == "id":
                    self.last_id = value
                elif name == "data":
                    data = value
                elif not line.strip() and data:
                    event: dict[str, Any] = json.loads(data)
                    return event
        raise ConnectionResetError


@asynccontextmanager
async def stream(
    server: ServerProcess, http: aiohttp.ClientSession, last_id: str | None = None, **query: str
) -> AsyncIterator[Reader]:
    headers = {"Authorization": f"Bearer {KEY}"} | ({} if last_id is None else {"Last-Event-ID": last_id})
    url = f"{server.url}/api/events/stream"
    async with http.get(url, params=query, headers=headers) as response:
        assert response.status == 200 and response.content_type == "text/event-stream"
        yield Reader(response)


async def test_stream(server: ServerProcess, http: aiohttp.ClientSession) -> None:
    """A stream has the new events that fit its filter, each with its offset as the id."""
    before = await asyncio.to_thread(publish, server, {"event": "old", "namespace": "/s"})
    async with stream(server, http, namespace="/s", room="red") as reader:
        await asyncio.to_thread(publish, server, {"event": "other", "namespace": "/s"})
        sent = {"event": "new", "namespace": "/s", "rooms": ["red"], "args": [1]}
        offsets = await asyncio.to_thread(publish, server, sent, sent)
        assert [(await reader.next())["offset"] for _ in range(2)] == offsets
        assert reader.last_id == offsets[1]
    async with stream(server, http, namespace="/s", after=before[0]) as reader:
        assert [(await reader.next())["event"] for _ in range(3)] == ["other", "new", "new"]


async def test_resumed_stream(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """A reader that returns with its last id, also after a kill, gets each event once."""
    with serving_api(tmp_path) as server:
        seen: list[int] = []
        last_id: str | None = None
        for run in range(3):
            async with stream(server, http, last_id) as reader:
                if run:
                    seen.append((await reader.next())["args"][0])
                await asyncio.to_thread(publish, server, {"event": "a", "args": [2 * run]})
                seen.append((await reader.next())["args"][0])
                last_id = reader.last_id
                await asyncio.to_thread(publish, server, {"event": "a", "args": [2 * run + 1]})
                await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        assert seen == [0, 1, 2, 3, 4]


async def test_stream_ends_with_the_server(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """A stream does not hold up the stop of the server."""
    with serving_api(tmp_path) as server:
        async with stream(server, http) as reader:
            stopping = asyncio.to_thread(server.terminate)
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                await asyncio.gather(reader.next(), stopping)
            await asyncio.to_thread(lambda: server._process and server._process.wait(DEADLINE))
        assert server.log.count("Traceback") == 0
