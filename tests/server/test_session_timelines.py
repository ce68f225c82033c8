"""The timeline of a session at ``/api/sessions/{namespace}/{sid}``: why did this client miss something?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from support.api import call, problem, result, serving_api
from support.clients import NodeClients
from support.processes import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    # No heartbeat confirms an event while a test shows that it was sent.
    with serving_api(tmp_path_factory.mktemp("server"), {"server": {"ping_interval": 25.0}}) as server:
        yield server


def path_of(sid: str) -> str:
    return f"/sessions/{quote('/', safe='')}/{sid}"


def get(server: ServerProcess, sid: str, **query: Any) -> Any:
    return result(call(server.port, "GET", f"{path_of(sid)}?{urlencode(query)}"))


def kinds(shown: Any) -> list[str]:
    return [entry["kind"] for entry in shown["timeline"]]


def emit(server: ServerProcess, *names: str, room: str | None = None) -> list[str]:
    events = [{"event": name, **({} if room is None else {"rooms": [room]})} for name in names]
    offsets: list[str] = result(call(server.port, "POST", "/emit", events))["offsets"]
    return offsets


async def test_a_life_over_a_kill(server: ServerProcess, node: NodeClients) -> None:
    """The timeline goes through ``kill -9`` and a restart, with the events and their states."""
    client = await node.client(server.url, reconnection=False)
    await client.connected()
    assert call(server.port, "POST", f"{path_of(client.sid)}/join", {"room": "red"}).status == 204
    live = emit(server, "live", room="red")
    await client.received("live", 1)
    server.kill()
    await client.gone()
    server.start()
    missed = emit(server, "missed", "other", room="red")
    emit(server, "elsewhere", room="blue")
    shown = get(server, client.sid)
    assert kinds(shown) == ["opened", "connected", "joined", "away"]
    assert (shown["timeline"][2]["room"], shown["timeline"][3]["reason"]) == ("red", "the server is gone")
    found = [(event["offset"], event["state"]) for event in shown["events"]]
    assert found == [(live[0], "sent"), (missed[0], "missed"), (missed[1], "missed")]
    assert all(event["derived"] is True for event in shown["events"])
    await client.connect()
    await client.recovered_again()
    await client.received("other", 1)
    shown = get(server, client.sid)
    assert kinds(shown) == ["opened", "connected", "joined", "away", "recovered"]
    recovered = shown["timeline"][-1]
    assert recovered["missed"] == 2 and recovered["text"].endswith("had missed: 2.")
    times = [datetime.fromisoformat(entry["at"]) for entry in shown["timeline"]]
    assert times == sorted(times) and shown["is_timeline_complete"]
    assert {event["state"] for event in shown["events"]} <= {"sent", "received"}
    nodes = [entry["node"] for entry in shown["timeline"] if entry["kind"] in ("connected", "recovered")]
    assert len(set(nodes)) == 2 and shown["timeline"][-1]["offset"].startswith(f"{nodes[1]}.")


async def test_pages(server: ServerProcess, node: NodeClients) -> None:
    """Entries go on with a cursor, events go back with an offset; other texts are refused by name."""
    client = await node.client(server.url, reconnection=False)
    await client.connected()
    offsets = emit(server, *(f"e{number}" for number in range(5)), room=client.sid)
    await client.received("e4", 1)
    whole = get(server, client.sid)
    first = get(server, client.sid, limit=1)
    then = get(server, client.sid, limit=1, cursor=first["timeline_next"], before=first["events_older"])
    assert [*first["timeline"], *then["timeline"]] == whole["timeline"] and then["timeline_next"] is None
    assert [page["events"][0]["offset"] for page in (then, first)] == offsets[-2:]
    for field, text in (("cursor", "x"), ("before", "x"), ("before", "elsewhere.1")):
        answer = call(server.port, "GET", f"{path_of(client.sid)}?{field}={text}")
        assert problem(answer, 409)["errors"][0]["field"] == field
    assert call(server.port, "GET", f"{path_of(client.sid)}?limit=0").status == 422


async def test_a_session_that_is_over(server: ServerProcess, node: NodeClients) -> None:
    """Its end, its rooms and what its client missed are shown until its history is pruned."""
    client = await node.client(server.url, reconnection=False)
    await client.connected()
    sid = client.sid
    assert call(server.port, "POST", f"{path_of(sid)}/join", {"room": sid[:4]}).status == 204
    await client.cut()
    missed = emit(server, "missed", room=sid[:4])
    assert call(server.port, "POST", f"{path_of(sid)}/revoke").status == 204
    emit(server, "later", room=sid[:4])
    shown = get(server, sid)
    assert (shown["state"], shown["joined"], shown["missed"]) == ("ended", [sid[:4]], 1)
    assert [(event["offset"], event["state"]) for event in shown["events"]] == [(missed[0], "missed")]
    assert kinds(shown)[-2:] == ["away", "ended"]
    assert shown["timeline"][-1]["text"] == "The session ended: the application revoked it."


async def test_a_server_without_history(tmp_path: Path, node: NodeClients) -> None:
    """With session_history = false there is no timeline; the events are derived as before."""
    with serving_api(tmp_path, {"store": {"session_history": False}}) as server:
        client = await node.client(server.url, reconnection=False)
        await client.connected()
        emit(server, "one")
        await client.received("one", 1)
        shown = get(server, client.sid)
        assert shown["timeline"] == [] and not shown["is_timeline_complete"]
        assert [event["event"] for event in shown["events"]] == ["one"]
