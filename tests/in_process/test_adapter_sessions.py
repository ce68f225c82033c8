from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from socketio_eventstore.core.recovery import RecoveryResult
from support.core import pausable_commits
from support.embedded import Seen, Server, away, packets_until_marker, results, serving, until

NESTED: list[Any] = []
NESTED.append(NESTED)


async def test_rooms_of_an_away_session_can_be_changed(server: Server) -> None:
    """Rooms of an away session can be changed; the change counts for later events."""
    client = await server.socket()
    pid = (await client.connect())["pid"]
    await server.sio.enter_room(client.sid, "left")
    await away(server, client)
    expected = []
    await server.sio.emit("before", room="joined")
    expected.append(["before leaving", await server.sio.emit("before leaving", room="left")])
    await server.sio.enter_room(client.sid, "joined")
    await server.sio.leave_room(client.sid, "left")
    assert server.sio.rooms(client.sid) == [client.sid, "joined"]
    await server.sio.emit("after leaving", room="left")
    expected.append(["after", await server.sio.emit("after", room=["joined", "left"])])
    again = await server.socket()
    await again.connect(auth={"pid": pid})
    assert [await again.event(), await again.event()] == expected
    assert await packets_until_marker(server, again) == [[]]


async def test_close_room_removes_live_and_away_sessions(server: Server) -> None:
    """``close_room`` removes live and away sessions from the room."""
    here, gone = await server.client(), await server.client()
    for client in (here, gone):
        await server.sio.enter_room(client.sid, "room")
    await away(server, gone)
    await server.sio.close_room("room")
    assert [server.sio.rooms(client.sid) for client in (here, gone)] == [[here.sid], [gone.sid]]
    await server.sio.emit("to nobody", room="room")
    assert await packets_until_marker(server, here) == [[]]


async def test_data_of_an_away_session_can_be_changed(server: Server) -> None:
    """The data of an away session can be read and saved."""
    client = await server.client()
    await server.sio.save_session(client.sid, {"name": "Ada"})
    await away(server, client)
    assert await server.sio.get_session(client.sid) == {"name": "Ada"}
    await server.sio.save_session(client.sid, {"name": "Grace", "list": [1, {"a": None}]})
    async with server.sio.session(client.sid) as session:
        session["more"] = True
    assert await server.sio.get_session(client.sid) == {
        "name": "Grace",
        "list": [1, {"a": None}],
        "more": True,
    }


async def test_data_are_a_copy_until_they_are_saved(server: Server) -> None:
    client, data = await server.client(), {"list": [1]}
    await server.sio.save_session(client.sid, data)
    data["list"].append(2)
    (await server.sio.get_session(client.sid))["list"].append(3)
    assert await server.sio.get_session(client.sid) == {"list": [1]}


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ({"a": [1, datetime.now(UTC)]}, TypeError, r"session\['a'\]\[1\] is of type datetime, which cannot"),
        ({"a": {"b": b"bytes"}}, TypeError, r"session\['a'\]\['b'\] is of type bytes"),
        ({"a": {1: "x"}}, TypeError, r"session\['a'\] has a key of type int: 1; JSON needs str"),
        ([1], TypeError, "session data must be a dict, not list"),
        ({"a": float("nan")}, ValueError, "not JSON compliant"),
        ({"a": NESTED}, ValueError, "session contains itself, or is nested too deeply"),
        ({"a": "x" * 1_000}, ValueError, r"session data is 1\d+ characters long, at most 1000 can be saved"),
    ],
)
async def test_unsavable_data_are_refused(path: Path, data: Any, error: type[Exception], text: str) -> None:
    """Data that cannot be saved raise a clear error and change nothing."""
    async with serving(path, max_http_buffer_size=1_000) as server:
        client = await server.client()
        await server.sio.save_session(client.sid, {"kept": True})
        with pytest.raises(error, match=text):
            await server.sio.save_session(client.sid, data)
        assert await server.sio.get_session(client.sid) == {"kept": True}


@pytest.mark.parametrize("is_away", [True, False])
@pytest.mark.parametrize("how", ["disconnect", "revoke"])
async def test_a_session_that_was_ended_is_never_recovered(server: Server, how: str, is_away: bool) -> None:
    client = await server.socket()
    pid = (await client.connect())["pid"]
    if is_away:
        await away(server, client)
    await getattr(server.sio, how)(client.sid)
    if not is_away and how == "disconnect":
        assert await client.packet() == "41"
    elif not is_away:
        assert await client.rest() == []  # the client comes back at once, as a new one
    await server.sio.emit("secret", to=client.sid)
    again = await server.socket()
    answer = await again.connect(auth={"pid": pid})
    assert answer["sid"] != client.sid and answer["pid"] != pid
    assert await packets_until_marker(server, again) == [[]]
    assert await results(server) == {RecoveryResult.UNKNOWN_SESSION: 1}
    with pytest.raises(KeyError):
        await server.sio.get_session(client.sid)


async def test_calls_with_an_unknown_sid(server: Server) -> None:
    """A call with an unknown sid raises an error or does nothing."""
    client = await server.client()
    for unknown in ("nobody", client.sid + "x"):
        for call in (server.sio.get_session(unknown), server.sio.save_session(unknown, {})):
            with pytest.raises(KeyError, match="no session"):
                await call
        with pytest.raises(KeyError, match=unknown):
            await server.sio.enter_room(unknown, "room")
        with pytest.raises(ValueError, match="sid is not connected to requested namespace"):
            await server.sio.enter_room(unknown, "room", namespace="/empty")
        await server.sio.leave_room(unknown, "room")
        await server.sio.disconnect(unknown)
        await server.sio.revoke(unknown)
        assert server.sio.rooms(unknown) == []


async def test_invalid_rooms_are_refused(server: Server) -> None:
    """A sid of another session and a name of another type are refused as rooms."""
    one, two = await server.client(), await server.client()
    with pytest.raises(ValueError, match="cannot enter a sid room"):
        await server.sio.enter_room(one.sid, two.sid)
    with pytest.raises(ValueError, match="cannot close a sid room"):
        await server.sio.close_room(one.sid)
    for room in (1.5, True, None, ("a",), uuid4(), b"a"):
        for call in (server.sio.enter_room(one.sid, room), server.sio.close_room(room)):
            with pytest.raises(TypeError, match=r"must be str or int to be stored, not .* take str\(room\)"):
                await call
    assert server.sio.rooms(one.sid) == [one.sid]


async def test_python_socketio_reports_the_clients_state(server: Server) -> None:
    """python-socketio's methods report the true state of the clients."""
    client = await server.client()
    polling = await server.polling()
    sid = (await polling.connect())["sid"]
    assert (server.sio.transport(client.sid), server.sio.transport(sid)) == ("websocket", "polling")
    assert server.sio.get_environ(client.sid)["PATH_INFO"] == "/socket.io/"
    manager = server.manager
    assert manager.get_namespaces() == ["/"]
    assert {sid for sid, _ in manager.get_participants("/", None)} == {client.sid, sid}
    eio_sid = manager.eio_sid_from_sid(client.sid, "/")
    assert eio_sid is not None and manager.sid_from_eio_sid(eio_sid, "/") == client.sid
    assert manager.is_connected(client.sid, "/") and await manager.can_disconnect(client.sid, "/")
    await away(server, client)
    assert not manager.is_connected(client.sid, "/") and await manager.can_disconnect(client.sid, "/")
    assert manager.eio_sid_from_sid(client.sid, "/") is None
    assert [sid for sid, _ in manager.get_participants("/", None)] == [sid]


async def test_environ_is_removed_with_its_connection(server: Server) -> None:
    """The environ of a connection is removed with it."""
    client = await server.client()
    assert len(server.sio.environ) == 1
    await away(server, client)
    await until(lambda: not server.sio.environ)


@pytest.mark.parametrize("room", ["\ud800", 2**63, 2**70, -(2**63) - 1])
async def test_room_that_the_store_cannot_keep(server: Server, room: Any) -> None:
    """A room that the store cannot keep is refused at the call, before the room is in a transaction."""
    client = await server.client()
    async with pausable_commits(server) as commits:
        for call in (
            server.sio.enter_room(client.sid, room),
            server.sio.leave_room(client.sid, room),
            server.sio.close_room(room),
            server.sio.close_room("room", namespace="/\ud800"),
        ):
            with pytest.raises(ValueError):
                await call
        assert commits.transactions == []
    await server.sio.enter_room(client.sid, -(2**63))
    await server.sio.enter_room(client.sid, "\0ü")
    assert server.sio.rooms(client.sid) == [client.sid, -(2**63), "\0ü"]


async def test_identity_and_key_that_the_store_cannot_keep(server: Server) -> None:
    """An identity or idempotency key with a lone surrogate is refused at the call."""
    seen = Seen()

    @server.sio.exactly_once("once")  # type: ignore[untyped-decorator]
    async def once(sid: str, key: str) -> None:
        seen(key)

    client = await server.client()
    with pytest.raises(ValueError, match="an identity cannot be stored"):
        await server.sio.bind(client.sid, "ann\ud800")
    with pytest.raises(ValueError, match="an identity cannot be stored"):
        await server.sio.revoke_identity("ann\ud800")
    async with pausable_commits(server) as commits:
        await client.send('42["once","\\ud800"]')
        assert await packets_until_marker(server, client) == [[]]
        assert len(commits.transactions) == 1 and seen.all == []
    await client.send('42["once","ü"]')
    assert await seen.until(1) == ["ü"]
