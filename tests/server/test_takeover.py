"""Two connections with one pid: the last claim wins at once, and no client loses an event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from support.clients import Client, NodeClients
from support.polling import RawPolling, rest
from support.processes import ServerProcess
from support.proxies import Stranding


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    # The server would notice a lost connection only after 45 seconds.
    config = {"server": {"ping_interval": 25.0, "ping_timeout": 20.0}}
    with ServerProcess(tmp_path_factory.mktemp("server"), config) as server:
        yield server


async def history(control: Client, sid: str) -> list[str]:
    """The names of the handlers that were called for a session."""
    return [record["what"] for record in await control.call("seen", {"sid": sid})]


async def test_takeover_replays_events_in_flight(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """Events in flight on the old connection are replayed, and it falls silent."""
    control = await node.control(server.url)
    old = RawPolling(http, server.url)
    session = await old.connect()
    sid = session["sid"]
    seen = await control.call("publish", {"name": "seen", "to": sid})
    assert await old.event() == ["seen", seen]
    flight = [await control.call("publish", {"name": "in flight", "to": sid}) for _ in range(3)]

    new = RawPolling(http, server.url)
    assert await new.connect(auth={"pid": session["pid"], "offset": seen}) == session
    assert [await new.event() for _ in flight] == [["in flight", offset] for offset in flight]
    live = await control.call("publish", {"name": "live", "to": sid})
    assert await new.event() == ["live", live]
    # The buffer of the old connection, then DISCONNECT for this namespace, and nothing more.
    assert [await old.packet() for _ in range(4)] == [f'42["in flight","{one}"]' for one in flight] + ["41"]
    await old.close()
    assert await rest(old) in ([], ["6"])
    assert await history(control, sid) == ["connect", "disconnect", "connect"]
    # The late end of the old connection does not affect the session.
    live = await control.call("publish", {"name": "live", "to": sid})
    assert await new.event() == ["live", live]
    assert await history(control, sid) == ["connect", "disconnect", "connect"]


async def test_repeated_network_loss_loses_no_event(server: ServerProcess, node: NodeClients) -> None:
    """Repeated silent losses of the network lose no event."""
    control = await node.control(server.url)
    async with Stranding(server.port) as proxy:
        client = await node.client(proxy.url, reconnection=False, auth={"rooms": ["silent"]})
        sid = (await client.connected()).sid
        expected = []
        for number in range(5):
            await proxy.strand()
            await client.gone()
            expected.append(await control.call("publish", {"name": "numbered", "to": "silent"}))
            await client.connect()
            await client.recovered_again()
            expected.append(await control.call("publish", {"name": "numbered", "to": sid}))
            await client.received("numbered", 2 * number + 2)
        # Only now the server notices the ends of the old connections, after the session was taken over.
        await proxy.close_stranded()
        expected.append(await control.call("publish", {"name": "numbered", "to": "silent"}))
        await client.received("numbered", len(expected))
        assert [event.offset for event in client.events] == expected
        assert await history(control, sid) == ["connect", *["disconnect", "connect"] * 5]
        assert len(client.connects) == 6


async def test_duplicated_tabs_do_not_fight(server: ServerProcess, node: NodeClients) -> None:
    """A duplicated tab takes over, and the two tabs do not fight for the session."""
    control = await node.control(server.url)
    tab = await node.client(server.url)
    first = await tab.connected()
    await control.call("publish", {"name": "seen", "to": first.sid})
    await tab.received("seen")
    # The browser copies sessionStorage with the tab, so both have the same private id and offset.
    kept = {"pid": first.pid, "offset": await tab.last_offset()}
    await tab.cut()
    await tab.connect(**kept)
    await tab.recovered_again()
    duplicate = await node.client(server.url, auth=kept)
    assert (await duplicate.connected()).sid == first.sid
    assert await tab.gone() == "io server disconnect"
    # Both tabs would reconnect by themselves; a fight would show in any of these rounds.
    for number in range(30):
        await control.call("publish", {"name": "live", "to": first.sid})
        await duplicate.received("live", number + 1)
    assert len(duplicate.connects) == 1 and not duplicate.disconnects
    assert not tab.is_connected and [event.name for event in tab.events] == ["seen"]

    # When its user returns to the first tab, this tab takes the session over again.
    await tab.connect()
    await tab.recovered_again()
    assert await duplicate.gone() == "io server disconnect"
    await tab.received("live", 30)
    await control.call("publish", {"name": "end", "to": first.sid})
    await tab.received("end")
    assert [event.name for event in tab.events] == ["seen", *["live"] * 30, "end"]
    assert [event.name for event in duplicate.events] == ["live"] * 30


async def test_takeover_affects_one_namespace(server: ServerProcess, node: NodeClients) -> None:
    """A takeover in one namespace does not affect another on the same transport."""
    control = await node.control(server.url)
    tab = await node.client(server.url)
    first = await tab.connected()
    other = await node.client(server.url, "/other", beside=tab)
    other_sid = (await other.connected()).sid
    duplicate = await node.client(server.url, auth={"pid": first.pid})
    await duplicate.connected()
    assert await tab.gone() == "io server disconnect"
    await control.call("publish", {"name": "other", "namespace": "/other", "to": other_sid})
    await other.received("other")
    assert len(other.connects) == 1 and not other.disconnects


async def test_refused_claim_keeps_the_owners_session(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """A refused claim does not cost a connected owner the session."""
    control = await node.control(server.url)
    owner = RawPolling(http, server.url)
    session = await owner.connect(auth={"rooms": ["owner's room"]})
    seen = await control.call("publish", {"name": "seen", "to": "owner's room"})
    assert await owner.event() == ["seen", seen]
    unread = await control.call("publish", {"name": "unread", "to": "owner's room"})
    intruder = await node.client(
        server.url, reconnection=False, auth={"pid": session["pid"], "refuse": "stolen"}
    )
    assert (await intruder.refused())["data"] == {"reason": "stolen"}
    # The transport is closed without DISCONNECT, so the official client would reconnect.
    assert [one for one in await rest(owner) if one not in ("1", "6", f'42["unread","{unread}"]')] == []
    missed = await control.call("publish", {"name": "missed", "to": "owner's room"})
    again = RawPolling(http, server.url)
    assert await again.connect(auth={"pid": session["pid"], "offset": seen}) == session
    assert [await again.event() for _ in range(2)] == [["unread", unread], ["missed", missed]]
    assert not intruder.connects and not intruder.events
    assert f"reconnection of {session['sid']}: refused" in server.log


async def test_owner_reconnects_after_a_refused_claim(server: ServerProcess, node: NodeClients) -> None:
    """An owner reconnects by itself after a claim that was refused."""
    control = await node.control(server.url)
    owner = await node.client(server.url, auth={"rooms": ["kept"]})
    first = await owner.connected()
    for number in range(3):
        intruder = await node.client(
            server.url, reconnection=False, auth={"pid": first.pid, "refuse": "stolen"}
        )
        await intruder.refused()
        await control.call("publish", {"name": "numbered", "to": "kept"})
        await owner.recovered_again()
        await owner.received("numbered", number + 1)
        assert not intruder.connects and not intruder.events
    assert [event.name for event in owner.events] == ["numbered"] * 3
    assert await owner.call("rooms") == sorted(["kept", first.sid])


async def test_later_claim_wins_over_a_waiting_one(server: ServerProcess, node: NodeClients) -> None:
    """A claim wins over an earlier claim that waits for its connect handler."""
    # The handler of the first claim does not end until the second claim has won, which is longer than
    # the timeout of the server for handlers.
    control = await node.control(server.url)
    farewell = {"leave": ["room"]}
    client = await node.client(server.url, reconnection=False, auth={"rooms": ["room"], "farewell": farewell})
    first = await client.connected()
    await client.cut()
    slow = await node.client(server.url, reconnection=False, auth={"pid": first.pid, "gate": "slow claim"})
    await control.call("until_reached", {"gate": "slow claim"})
    await client.connect(farewell=farewell)
    await client.recovered_again()
    await control.call("open_gate", {"gate": "slow claim"})
    await slow.until(lambda: bool(slow.disconnects or slow.errors), "told that it is over")
    await history(control, first.sid)
    await control.call("publish", {"name": "to the room", "to": "room"})
    await control.call("publish", {"name": "to the sid", "to": first.sid})
    await client.received("to the sid")
    assert [event.name for event in client.events] == ["to the room", "to the sid"]
    assert not slow.connects and not slow.events
    assert await client.call("rooms") == sorted(["room", first.sid])


async def test_disconnect_is_called_before_the_next_connect(server: ServerProcess, node: NodeClients) -> None:
    """The disconnect handler is never called after the connect handler of the next claim."""
    control = await node.control(server.url)
    client = await node.client(server.url, reconnection=False)
    first = await client.connected()
    await client.cut()
    slow = await node.client(server.url, reconnection=False, auth={"pid": first.pid, "gate": "slow comer"})
    await control.call("until_reached", {"gate": "slow comer"})
    await client.connect()
    await control.call("open_gate", {"gate": "slow comer"})
    await client.recovered_again()
    await slow.until(lambda: bool(slow.disconnects or slow.errors), "told that it is over")
    await client.call("whoami")
    # Applications that count their clients would otherwise count this client as disconnected.
    calls = await history(control, first.sid)
    assert calls[-1] == "connect" and calls.count("connect") == calls.count("disconnect") + 1, calls


async def test_leave_after_a_takeover_is_ignored(server: ServerProcess, node: NodeClients) -> None:
    """Leaving rooms in the disconnect handler of a superseded connection changes nothing."""
    control = await node.control(server.url)
    options: dict[str, Any] = {"rooms": ["room"], "farewell": {"leave": ["room"]}}
    async with Stranding(server.port) as proxy:
        client = await node.client(proxy.url, reconnection=False, auth=options)
        sid = (await client.connected()).sid
        await proxy.strand()
        await client.gone()
        await control.call("publish", {"name": "missed", "to": "room"})
        # From now on its connect handler joins no room: the session must have kept it.
        await client.connect(farewell=options["farewell"])
        await client.recovered_again()
        assert await history(control, sid) == ["connect", "disconnect", "connect"]
        assert await client.call("rooms") == sorted(["room", sid])
        await control.call("publish", {"name": "live", "to": "room"})
        await control.call("publish", {"name": "end", "to": sid})
        await client.received("end")
        assert [event.name for event in client.events] == ["missed", "live", "end"]


async def test_slow_disconnect_handler_keeps_the_rooms(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """A disconnect handler that ends after the reconnection removes no room."""
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    farewell = {"gate": "slow farewell", "leave": ["room"]}
    session = await client.connect(auth={"rooms": ["room"], "farewell": farewell})
    sid, pid = session["sid"], session["pid"]
    await client.close()
    await control.call("until_reached", {"gate": "slow farewell"})
    again = RawPolling(http, server.url)
    await again.open()
    await again.post(f'40{{"pid":"{pid}"}}')
    missed = await control.call("publish", {"name": "missed", "to": "room"})
    await control.call("open_gate", {"gate": "slow farewell"})
    assert (await again.packet()).startswith(f'40{{"sid":"{sid}"')
    assert await again.event() == ["missed", missed]
    assert await history(control, sid) == ["connect", "disconnect", "connect"]
    assert await again.call("rooms", namespace="/") == sorted(["room", sid])
