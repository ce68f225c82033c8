"""Closing a room takes out whoever is in it at this point of the order, however short the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from socketio_eventlog.records import Membership, RoomClosed
from socketio_eventlog.sqlite.log import EventLog
from support.embedded import Seen, away, serving
from support.storing import event, joined, left, opened, session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


async def test_the_store_takes_out_who_joined_in_the_same_transaction(path: Path) -> None:
    closed = RoomClosed("/", "room")
    async with opened(path) as log:
        await log.commit([session("s1"), session("s2"), session("s3", "/other"), joined("room", "s1")])
        await log.commit(
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
            ]
        )
        memberships = {row.sid: set(row.memberships) for row in await log.load_sessions()}
    assert memberships["s1"] == {Membership("room", 0, 2), Membership("room", 3, None)}
    assert memberships["s2"] == {Membership("room", 1, 2), Membership("another", 1, None)}
    assert memberships["s3"] == {Membership("room", 1, None)}


async def test_a_room_that_is_joined_and_closed_in_one_transaction_is_empty(path: Path) -> None:
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
        # In memory it was right before: it is what is on disk that a recovery goes by.
        log = (await server.manager.start()).log
        assert isinstance(log, EventLog)
        stored = await log.load_sessions()
        assert [m.through for row in stored for m in row.memberships] == [1]
    assert rooms.all == [[client.sid]]


async def test_who_recovers_is_not_in_a_room_that_its_connect_handler_joined_and_closed(path: Path) -> None:
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
        (stored,) = await log.load_sessions()
        assert {m.room for m in stored.memberships if m.through is None} == {"open"}
