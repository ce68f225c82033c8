"""``close_room`` removes every session that is a member at its point of the order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from socketio_eventlog.session_changes import RoomClosed
from socketio_eventlog.snapshot import Membership
from socketio_eventlog.sqlite.log import EventLog
from support.embedded import Seen, away, serving
from support.storing import commit, event, joined, left, opened, session, stored_sessions


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


async def test_room_closed_ends_joins_of_its_transaction(path: Path) -> None:
    """RoomClosed ends memberships that began in the same transaction."""
    closed = RoomClosed("/", "room")
    async with opened(path) as log:
        await commit(log, [session("s1"), session("s2"), session("s3", "/other"), joined("room", "s1")])
        await commit(
            log,
            [
                event(rooms=("room",)),
                joined("room", "s2"),
                joined("room", "s3", "/other"),
                joined("another", "s2"),
                event(rooms=("room",)),
                closed,
                left("room", "s2"),
                event(rooms=("room",)),
                joined("room", "s1"),
                closed,
                joined("room", "s1"),
            ],
        )
        memberships = {row.sid: set(row.memberships) for row in await stored_sessions(log)}
    assert memberships["s1"] == {Membership("room", 0, 2), Membership("room", 3, None)}
    assert memberships["s2"] == {Membership("room", 1, 2), Membership("another", 1, None)}
    assert memberships["s3"] == {Membership("room", 1, None)}


async def test_join_and_close_in_one_transaction(path: Path) -> None:
    """A room that is joined and closed in one transaction is empty."""
    rooms = Seen()

    def register(sio: Any) -> None:
        @sio.exactly_once("move")  # type: ignore[untyped-decorator]  # python-socketio is not typed
        async def move(sid: str, _key: str) -> None:
            await sio.enter_room(sid, "room")
            await sio.emit("inside", room="room")
            await sio.close_room("room")
            rooms(sio.rooms(sid))
            await sio.emit("outside", room="room")

    async with serving(path, register=register) as server:
        client = await server.client()
        await client.send('427["move","key"]')
        assert (await client.event())[0] == "inside"
        assert await client.packet() == "437[]"
        # A recovery reads the memberships on disk, not those in memory.
        log = (await server.manager.start()).log
        assert isinstance(log, EventLog)
        stored = await stored_sessions(log)
        assert [m.through for row in stored for m in row.memberships] == [1]
    assert rooms.all == [[client.sid]]


async def test_join_and_close_in_the_connect_handler(path: Path) -> None:
    """A recovered session is not in a room that its connect handler joined and closed."""

    def register(sio: Any) -> None:
        @sio.event  # type: ignore[untyped-decorator]  # python-socketio is not typed
        async def connect(sid: str, _environ: Any, _auth: Any = None) -> None:
            if sio.recovered(sid):
                await sio.enter_room(sid, "closed")
                await sio.enter_room(sid, "open")
                await sio.close_room("closed")

    async with serving(path, register=register) as server:
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await away(server, client)
        again = await server.client({"pid": pid})
        assert again.sid == client.sid and set(server.sio.rooms(client.sid)) == {client.sid, "open"}
    async with opened(path) as log:
        (stored,) = await stored_sessions(log)
        assert {m.room for m in stored.memberships if m.through is None} == {"open"}
