"""Two connections, one private id: the last claim wins at once; nobody fights, hangs or loses anything."""

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
    """Which handlers were called for a session."""
    return [record["what"] for record in await control.call("seen", {"sid": sid})]


async def test_what_the_old_connection_had_in_flight_is_replayed_and_the_old_one_falls_silent(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
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
    # What lay in the old connection's buffer, then DISCONNECT for this namespace, and nothing more.
    assert [await old.packet() for _ in range(4)] == [f'42["in flight","{one}"]' for one in flight] + ["41"]
    await old.close()
    assert await rest(old) in ([], ["6"])
    assert await history(control, sid) == ["connect", "disconnect", "connect"]
    # Its late death harms nobody.
    live = await control.call("publish", {"name": "live", "to": sid})
    assert await new.event() == ["live", live]
    assert await history(control, sid) == ["connect", "disconnect", "connect"]


async def test_a_network_that_goes_silent_again_and_again_loses_nothing(
    server: ServerProcess, node: NodeClients
) -> None:
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
        # Only now does the server hear of the four ends, long after the session went on elsewhere.
        await proxy.close_stranded()
        expected.append(await control.call("publish", {"name": "numbered", "to": "silent"}))
        await client.received("numbered", len(expected))
        assert [event.offset for event in client.events] == expected
        assert await history(control, sid) == ["connect", *["disconnect", "connect"] * 5]
        assert len(client.connects) == 6


async def test_a_duplicated_tab_takes_over_and_the_two_do_not_fight(
    server: ServerProcess, node: NodeClients
) -> None:
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
    # Both would come back by themselves; a fight would show in any of these rounds.
    for number in range(30):
        await control.call("publish", {"name": "live", "to": first.sid})
        await duplicate.received("live", number + 1)
    assert len(duplicate.connects) == 1 and not duplicate.disconnects
    assert not tab.is_connected and [event.name for event in tab.events] == ["seen"]

    # When its user looks at the first tab again, that one goes on where it was.
    await tab.connect()
    await tab.recovered_again()
    assert await duplicate.gone() == "io server disconnect"
    await tab.received("live", 30)
    await control.call("publish", {"name": "end", "to": first.sid})
    await tab.received("end")
    assert [event.name for event in tab.events] == ["seen", *["live"] * 30, "end"]
    assert [event.name for event in duplicate.events] == ["live"] * 30


async def test_a_takeover_in_one_namespace_leaves_the_other_on_that_transport_alone(
    server: ServerProcess, node: NodeClients
) -> None:
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


async def test_a_refused_claimant_does_not_cost_a_connected_owner_the_session(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
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
    # The transport is closed, and without DISCONNECT, so the official client would come back.
    assert [one for one in await rest(owner) if one not in ("1", "6", f'42["unread","{unread}"]')] == []
    missed = await control.call("publish", {"name": "missed", "to": "owner's room"})
    again = RawPolling(http, server.url)
    assert await again.connect(auth={"pid": session["pid"], "offset": seen}) == session
    assert [await again.event() for _ in range(2)] == [["unread", unread], ["missed", missed]]
    assert not intruder.connects and not intruder.events
    assert f"reconnection of {session['sid']}: refused" in server.log


async def test_an_owner_comes_back_by_itself_after_a_claim_that_was_refused(
    server: ServerProcess, node: NodeClients
) -> None:
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


async def test_a_claim_while_another_one_waits_for_its_connect_handler_wins(
    server: ServerProcess, node: NodeClients
) -> None:
    # The handler of the first claim does not end until the second has won, which is longer than the
    # server has patience for it.
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


async def test_no_handler_hears_of_a_disconnection_after_the_connection_that_replaced_it(
    server: ServerProcess, node: NodeClients
) -> None:
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
    # Applications that count who is there would take the client for gone otherwise.
    calls = await history(control, first.sid)
    assert calls[-1] == "connect" and calls.count("connect") == calls.count("disconnect") + 1, calls


async def test_leaving_rooms_in_the_disconnect_handler_of_a_connection_that_was_replaced_changes_nothing(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    wishes: dict[str, Any] = {"rooms": ["room"], "farewell": {"leave": ["room"]}}
    async with Stranding(server.port) as proxy:
        client = await node.client(proxy.url, reconnection=False, auth=wishes)
        sid = (await client.connected()).sid
        await proxy.strand()
        await client.gone()
        await control.call("publish", {"name": "missed", "to": "room"})
        # From now on its connect handler joins nothing: the room is there because nothing took it away.
        await client.connect(farewell=wishes["farewell"])
        await client.recovered_again()
        assert await history(control, sid) == ["connect", "disconnect", "connect"]
        assert await client.call("rooms") == sorted(["room", sid])
        await control.call("publish", {"name": "live", "to": "room"})
        await control.call("publish", {"name": "end", "to": sid})
        await client.received("end")
        assert [event.name for event in client.events] == ["missed", "live", "end"]


async def test_a_disconnect_handler_that_is_slower_than_its_clients_return_takes_no_room_away(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
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
