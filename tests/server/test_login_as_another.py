"""``disconnect(); auth = …; connect()`` logs in as another user: the former session stays closed to it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.clients import NodeClients
from support.keyed import serving_keyed_events
from support.processes import ServerProcess

TRANSPORTS: tuple[tuple[str, ...], ...] = (("websocket",), ("polling",), ("polling", "websocket"))

CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another token": ({"token": "alice"}, {"token": "bob"}),
    "none to one": ({}, {"token": "bob"}),
    "more": ({"token": "alice"}, {"token": "alice", "as": "bob"}),
    "deep": ({"user": {"name": "alice", "roles": []}}, {"user": {"name": "bob", "roles": []}}),
    "bound": ({"bind": "alice"}, {"bind": "bob"}),
    "bound to unbound": ({"bind": "alice"}, {"token": "bob"}),
    "unbound to bound": ({"token": "alice"}, {"bind": "bob"}),
}


@pytest.mark.parametrize("restart", [False, True], ids=["", "restarted"])
@pytest.mark.parametrize(("first", "second"), CHANGES.values(), ids=CHANGES.keys())
async def test_another_user_gets_a_new_session(
    tmp_path: Path, node: NodeClients, first: dict[str, Any], second: dict[str, Any], restart: bool
) -> None:
    """Another user on the same page gets no event and no room of the former user."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        page = await node.client(server.url, reconnection=False, auth={**first, "rooms": ["alice's"]})
        alice = await page.connected()
        assert await page.disconnect() == "io client disconnect"
        await control.call("publish", {"name": "mail", "to": "alice's"})
        if restart:
            await asyncio.to_thread(server.restart)
            await control.reconnected()
        await page.connect(**(second or {"token": ""}))
        bob = await page.reconnected()
        assert not bob.recovered and bob.sid != alice.sid and bob.pid != alice.pid
        for address in ("alice's", alice.sid, bob.sid):
            await control.call("publish", {"name": "mail", "to": address})
        await page.received("mail")
        assert len(page.events) == 1
        assert await page.call("rooms") == [bob.sid]


@pytest.mark.parametrize("transports", TRANSPORTS, ids="+".join)
async def test_the_same_user_returns_after_disconnect(
    tmp_path: Path, node: NodeClients, transports: tuple[str, ...]
) -> None:
    """The Disconnect button recovers with the same auth, also when its keys have another order."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        page = await node.client(
            server.url, reconnection=False, transports=transports, auth={"a": [1, {"b": None}], "c": "ü"}
        )
        await page.connected()
        for restart in (False, True):
            await page.disconnect()
            await control.call("publish", {"name": "missed"})
            if restart:
                await asyncio.to_thread(server.restart)
                await control.reconnected()
            await page.connect(c="ü", a=[1, {"b": None}])
            await page.recovered_again()
        await page.received("missed", 2)


async def test_a_lost_transport_allows_another_token(tmp_path: Path, node: NodeClients) -> None:
    """After a lost transport a rotated token recovers, also when an earlier connection ended by itself."""
    with ServerProcess(tmp_path) as server:
        page = await node.client(server.url, reconnection=False, auth={"token": 1})
        await page.connected()
        await page.disconnect()
        await page.connect()
        await page.recovered_again()
        await page.cut()
        await page.connect(token=2)
        await page.recovered_again()


async def test_keys_stay_valid_for_another_user(tmp_path: Path, node: NodeClients) -> None:
    """An idempotency key stays used after a login with other credentials."""
    with serving_keyed_events(tmp_path) as server:
        page = await node.client(server.url, reconnection=False, auth={"token": "alice"})
        await page.connected()
        answer = await page.call("chat message", "text", "key")
        await page.disconnect()
        await page.connect(token="alice's new one")
        assert not (await page.reconnected()).recovered
        assert await page.call("chat message", "text", "key") == answer
