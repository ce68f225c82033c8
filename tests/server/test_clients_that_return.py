"""Official clients that disconnect and reconnect: which session they get, with which rooms and data."""

from __future__ import annotations

from pathlib import Path

from support.clients import NodeClients
from support.processes import ServerProcess
from support.proxies import Stranding


async def test_membership_counts_at_the_moment_of_the_event(tmp_path: Path, node: NodeClients) -> None:
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False)
        sid = (await client.connected()).sid

        async def publish(name: str) -> None:
            await control.call("publish", {"name": name, "to": "room"})

        await publish("before it joined")
        await client.call("join", "room")
        await publish("live")
        await client.received("live")
        await client.cut()
        await publish("away")
        await control.call("evict", {"sid": sid, "room": "room"})
        await publish("evicted")
        await control.call("enter", {"sid": sid, "room": "room"})
        await publish("entered again")
        await control.call("evict", {"sid": sid, "room": "room"})
        await publish("evicted again")
        await client.connect()
        await client.recovered_again()
        await publish("still evicted")
        assert await client.call("rooms") == [sid]
        await control.call("publish", {"name": "end"})
        await client.received("end")
        assert [event.name for event in client.events] == ["live", "away", "entered again", "end"]


async def test_data_and_rooms_of_an_away_session(tmp_path: Path, node: NodeClients) -> None:
    """Data and rooms of an away session can be read and changed."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False, auth={"rooms": ["room"]})
        sid = (await client.connected()).sid
        await client.call("save", {"count": 1})
        await client.cut()
        assert await control.call("rooms", {"sid": sid}) == sorted(["room", sid])
        assert await control.call("load", {"sid": sid}) == {"count": 1}
        await control.call("save", {"sid": sid, "session": {"count": 2}})
        await client.connect()
        await client.recovered_again()
        assert await client.call("load") == {"count": 2}
        assert await client.call("rooms") == sorted(["room", sid])


async def test_disconnect_button_loses_no_event(tmp_path: Path, node: NodeClients) -> None:
    """The Disconnect button of the tutorial loses no event."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url)
        await client.connected()
        assert await client.disconnect() == "io client disconnect"
        await control.call("publish", {"name": "missed"})
        await client.connect()
        await client.recovered_again()
        await client.received("missed")


async def test_disconnect_button_can_end_the_session(tmp_path: Path, node: NodeClients) -> None:
    """Without ``recover_client_disconnect`` the Disconnect button ends the session."""
    config = {"connection_state_recovery": {"recover_client_disconnect": False}}
    with ServerProcess(tmp_path, config) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False)
        first = await client.connected()
        await client.disconnect()
        await control.call("publish", {"name": "missed"})
        await client.connect()
        second = await client.reconnected()
        assert not second.recovered and second.sid != first.sid and second.pid != first.pid
        # A session whose transport breaks is recovered.
        await client.cut()
        await control.call("publish", {"name": "kept"})
        await client.connect()
        await client.recovered_again()
        await client.received("kept")
        assert [event.name for event in client.events] == ["kept"]


async def test_disconnected_session_is_not_recovered(tmp_path: Path, node: NodeClients) -> None:
    """A session that the server has disconnected is not recovered."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url)
        first = await client.connected()
        await control.call("hang_up", {"sid": first.sid})
        assert await client.gone() == "io server disconnect"
        await client.connect()
        second = await client.reconnected()
        assert not second.recovered and second.sid != first.sid


async def test_revoked_session_is_not_recovered(tmp_path: Path, node: NodeClients) -> None:
    """A revoked session is not recovered, whether it was away or live."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False)
        first = await client.connected()
        await client.cut()
        await control.call("publish", {"name": "secret", "to": first.sid})
        await control.call("revoke", {"sid": first.sid})
        await client.connect()
        second = await client.reconnected()
        assert not second.recovered and second.sid != first.sid

        # Without a DISCONNECT packet the client reconnects by itself and passes the handlers as a new client.
        await control.call("revoke", {"sid": second.sid})
        assert await client.gone() in ("transport close", "transport error")
        await client.connect()
        third = await client.reconnected()
        assert not third.recovered and third.sid != second.sid
        await control.call("publish", {"name": "end"})
        await client.received("end")
        assert [event.name for event in client.events] == ["end"]


async def test_client_of_an_expired_session_gets_a_new_one(tmp_path: Path, node: NodeClients) -> None:
    """The client of an expired session gets a new session."""
    config = {
        "connection_state_recovery": {"max_disconnection_duration": 0.5},
        "store": {"prune_interval": 0.1},
    }
    with ServerProcess(tmp_path, config) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False)
        first = await client.connected()
        await client.cut()
        await control.call("publish", {"name": "missed"})
        (expired,) = await control.received("session_expired")
        assert expired.data == [first.sid]
        await client.connect()
        second = await client.reconnected()
        assert not second.recovered and second.sid != first.sid and second.pid != first.pid
        await control.call("publish", {"name": "fresh"})
        await client.received("fresh")
        assert [event.name for event in client.events] == ["fresh"]
        records = await control.call("seen", {"sid": first.sid})
        assert [record["what"] for record in records] == ["connect", "disconnect", "session_expired"]


async def test_half_open_connection_allows_recovery(tmp_path: Path, node: NodeClients) -> None:
    """A half-open connection does not prevent the recovery of its session."""
    # The server would notice the lost connection only after 45 seconds.
    config = {"server": {"ping_interval": 25.0, "ping_timeout": 20.0}}
    with ServerProcess(tmp_path, config) as server:
        async with Stranding(server.port) as proxy:
            control = await node.control(server.url)
            client = await node.client(proxy.url, reconnection=False)
            sid = (await client.connected()).sid
            await client.call("join", "room")
            await control.call("publish", {"name": "live"})
            await client.received("live")
            await proxy.strand()
            await client.gone()
            await control.call("publish", {"name": "into the void", "to": "room"})

            await client.connect()
            await client.recovered_again()
            await client.received("into the void")
            records = await control.call("seen", {"sid": sid})
            assert [record["what"] for record in records] == ["connect", "disconnect", "connect"]

            # The end of the old connection is not the end of the session.
            await proxy.close_stranded()
            await control.call("publish", {"name": "to the sid", "to": sid})
            await control.call("publish", {"name": "to the room", "to": "room"})
            await client.received("to the room")
            assert await client.call("rooms") == sorted(["room", sid])
            names = ["live", "into the void", "to the sid", "to the room"]
            assert [event.name for event in client.events] == names
            records = await control.call("seen", {"sid": sid})
            assert [record["what"] for record in records] == ["connect", "disconnect", "connect"]


async def test_reloaded_page_recovers_its_session(tmp_path: Path, node: NodeClients) -> None:
    """A reloaded page recovers its session with the pid and offset in its auth."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        page = await node.client(server.url, reconnection=False)
        first = await page.connected()
        await control.call("publish", {"name": "seen"})
        await page.received("seen")
        kept = {"pid": first.pid, "offset": await page.last_offset(), "greet": True}
        await page.cut()
        await control.call("publish", {"name": "missed"})

        # A new client object knows of no session; the application kept both in sessionStorage.
        reloaded = await node.client(server.url, auth=kept)
        again = await reloaded.connected()
        assert (again.sid, again.pid) == (first.sid, first.pid)
        (greeting,) = await reloaded.received("greeting")
        assert greeting.data == [True]
        assert [event.name for event in reloaded.events] == ["missed", "greeting"]


async def test_duplicated_tab_takes_over(tmp_path: Path, node: NodeClients) -> None:
    """A duplicated tab takes the session over, and the first tab stops."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        tab = await node.client(server.url)
        first = await tab.connected()
        duplicate = await node.client(server.url, auth={"pid": first.pid})
        assert (await duplicate.connected()).sid == first.sid
        assert await tab.gone() == "io server disconnect"
        await control.call("publish", {"name": "live"})
        await duplicate.received("live")
        assert not tab.events and len(tab.connects) == 1


async def test_refused_takeover_keeps_the_owners_session(tmp_path: Path, node: NodeClients) -> None:
    """A refused takeover leaves the session to its owner."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        owner = await node.client(server.url)
        first = await owner.connected()
        intruder = await node.client(
            server.url, reconnection=False, auth={"pid": first.pid, "refuse": "stolen", "greet": True}
        )
        assert (await intruder.refused())["data"] == {"reason": "stolen"}
        await owner.recovered_again()
        await control.call("publish", {"name": "live"})
        await owner.received("live")
        assert not intruder.events and not intruder.connects


async def test_emits_of_the_connect_handler_come_later(tmp_path: Path, node: NodeClients) -> None:
    """Events of the connect handler follow CONNECT and the missed events."""
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False, auth={"greet": True, "rooms": ["room"]})
        await client.connected()
        await client.received("greeting")
        await client.cut()
        await control.call("publish", {"name": "missed", "to": "room"})
        await client.connect()
        await client.recovered_again()
        await client.received("greeting", 2)
        received = [(event.name, event.data) for event in client.events]
        assert received == [("greeting", [False]), ("missed", []), ("greeting", [True])]
