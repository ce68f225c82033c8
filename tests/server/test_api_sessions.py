"""``/api/sessions`` and ``/api/rooms``: who is there, and what an operator does to a session."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from support.api import call, problem, result, serving_api
from support.clients import Client, NodeClients
from support.processes import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_api(tmp_path_factory.mktemp("server")) as server:
        yield server


def path_of(sid: str, namespace: str = "/") -> str:
    return f"/sessions/{quote(namespace, safe='')}/{sid}"


def get(server: ServerProcess, path: str, **query: Any) -> Any:
    return result(call(server.port, "GET", f"{path}?{urlencode(query)}"))


def act(server: ServerProcess, sid: str, what: str, body: object = None, namespace: str = "/") -> None:
    answer = call(server.port, "POST", f"{path_of(sid, namespace)}/{what}", body)
    assert (answer.status, answer.body) == (204, b"")


def sids(server: ServerProcess, **query: Any) -> list[str]:
    return [session["sid"] for session in get(server, "/sessions", **query)["sessions"]]


async def connected(node: NodeClients, server: ServerProcess, namespace: str = "/", **options: Any) -> Client:
    client = await node.client(server.url, namespace, reconnection=False, **options)
    await client.connected()
    return client


def all_pages(server: ServerProcess, path: str, **query: Any) -> Iterator[Any]:
    page = get(server, path, **query)
    yield page
    while page["next"] is not None:
        page = get(server, path, **query, cursor=page["next"])
        yield page


async def test_session_over_its_life(server: ServerProcess, node: NodeClients) -> None:
    """A session is shown while it is connected, away, missing events, and recovered."""
    client = await connected(node, server)
    act(server, client.sid, "join", {"room": "red"})
    act(server, client.sid, "join", {"room": 7})
    shown = get(server, path_of(client.sid))
    assert get(server, path_of(client.sid))["connected_at"] == shown["connected_at"]
    since = datetime.fromisoformat(shown.pop("connected_at"))
    assert 0 <= (datetime.now(UTC) - since).total_seconds() < 60
    assert shown == {
        "namespace": "/",
        "sid": client.sid,
        "state": "connected",
        "identity": None,
        "rooms": 2,
        "away_seconds": None,
        "remaining_seconds": None,
        "joined": ["red", 7],
        "is_recovered": False,
        "confirmed_offset": shown["confirmed_offset"],
        "missed": 0,
        "is_missed_complete": True,
        "timeline": shown["timeline"],
        "timeline_next": None,
        "is_timeline_complete": True,
        "events": [],
        "events_older": None,
    }
    await client.cut()
    events = [{"event": "a", "rooms": ["red"]}] * 3 + [{"event": "a", "rooms": ["blue"]}]
    result(call(server.port, "POST", "/emit", events))
    shown = get(server, path_of(client.sid))
    assert (shown["state"], shown["missed"], shown["connected_at"]) == ("away", 3, None)
    assert shown["away_seconds"] + shown["remaining_seconds"] == pytest.approx(600.0)
    assert client.sid in sids(server, state="away") and client.sid not in sids(server, state="connected")
    act(server, client.sid, "leave", {"room": "red"})
    await client.connect()
    await client.recovered_again()
    assert len(await client.received("a", 3)) == 3
    shown = get(server, path_of(client.sid))
    assert (shown["state"], shown["is_recovered"], shown["joined"]) == ("connected", True, [7])


async def test_filters_and_pages(server: ServerProcess, node: NodeClients) -> None:
    """Room, identity, namespace and state select sessions; pages are in one order, without gaps."""
    clients = [await connected(node, server, "/other", auth={"bind": "ann"})]
    clients += [await connected(node, server, "/other") for _ in range(4)]
    everyone = sorted(client.sid for client in clients)
    for client in clients[:2]:
        act(server, client.sid, "join", {"room": "page"}, "/other")
    assert sids(server, namespace="/other") == everyone
    assert sids(server, namespace="/other", room="page") == sorted(client.sid for client in clients[:2])
    assert sids(server, namespace="/other", room=clients[3].sid) == [clients[3].sid]
    assert sids(server, identity="ann") == [clients[0].sid]
    assert sids(server, room="page") == sids(server, namespace="/none") == []
    assert sids(server, namespace="/other", state="away") == []
    pages = list(all_pages(server, "/sessions", namespace="/other", limit=2))
    assert [session["sid"] for page in pages for session in page["sessions"]] == everyone
    assert len(pages) == 3
    rooms = get(server, "/rooms", namespace="/other")
    assert {"namespace": "/other", "room": "page", "sessions": 2} in rooms["rooms"]


async def test_pages_of_rooms(server: ServerProcess, node: NodeClients) -> None:
    """Rooms are in one order, numbers first, over pages of any size."""
    client = await connected(node, server, "/other")
    expected = [-2, 10, "10", "y", "z"]
    for room in reversed(expected):
        act(server, client.sid, "join", {"room": room}, "/other")
    pages = list(all_pages(server, "/rooms", namespace="/other", limit=2))
    found = [room["room"] for page in pages for room in page["rooms"]]
    assert [room for room in found if room in expected] == expected and len(pages) >= 3
    assert get(server, "/stats")["rooms"] >= 5


async def test_disconnect_and_revoke(server: ServerProcess, node: NodeClients) -> None:
    """A disconnected client stays away; a revoked one may come back as a new one; both lose the session."""
    disconnected, revoked, away = [await connected(node, server) for _ in range(3)]
    await away.cut()
    former = [client.sid for client in (disconnected, revoked, away)]
    act(server, disconnected.sid, "disconnect")
    assert await disconnected.gone() == "io server disconnect"
    act(server, revoked.sid, "revoke")
    assert await revoked.gone() == "transport close"
    act(server, away.sid, "revoke")
    for sid, reason in zip(former, ("disconnected", "revoked", "revoked"), strict=True):
        assert (
            "no such session" in problem(call(server.port, "POST", f"{path_of(sid)}/revoke"), 404)["detail"]
        )
        shown = get(server, path_of(sid))
        assert (shown["state"], shown["timeline"][-1]["reason"]) == ("ended", reason)
    await away.connect()
    await away.connected()
    assert not away.connects[-1].recovered and away.sid not in former
    replaced = get(server, path_of(former[2]))["timeline"][-1]
    assert (replaced["kind"], replaced["reason"]) == ("replaced", "unknown_session")
    assert replaced["sid"] == away.sid and away.sid in replaced["text"]
    assert get(server, path_of(away.sid))["timeline"][0]["sid"] == former[2]


@pytest.mark.parametrize("what", ["", "/disconnect", "/revoke", "/join", "/leave"])
def test_unknown_session(server: ServerProcess, what: str) -> None:
    method, body = ("POST", {"room": "red"}) if what else ("GET", None)
    for namespace in ("/", "/none", "none"):
        problem(call(server.port, method, f"{path_of('none', namespace)}{what}", body), 404)


async def test_wrong_room(server: ServerProcess, node: NodeClients) -> None:
    """A room that cannot be joined is named: a wrong type, another sid, one room too many."""
    client, other = await connected(node, server), await connected(node, server)
    for body, field in (
        ({"room": 1.5}, "room"),
        ({"room": None}, "room"),
        ({}, "room"),
        ({"rooms": ["a"]}, "room"),
        ({"room": other.sid}, "room"),
    ):
        answer = call(server.port, "POST", f"{path_of(client.sid)}/join", body)
        assert problem(answer, 422)["errors"][0]["field"] == field


@pytest.mark.parametrize("cursor", ["x", "W10", "WyIvIiwx", "é", "WyIvIix0cnVlLDdd", "WyIvIl0"])
def test_wrong_cursor(server: ServerProcess, cursor: str) -> None:
    """A text that is no cursor gets 409, or 422 if it has not even the form of one."""
    for path in ("/sessions", "/rooms"):
        answer = call(server.port, "GET", f"{path}?{urlencode({'cursor': cursor})}")
        assert problem(answer, 409 if cursor.isascii() else 422)["errors"][0]["field"] == "cursor"
