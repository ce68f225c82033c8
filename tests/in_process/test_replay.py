from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from socketio_eventlog.records import Room
from socketio_eventstore.core import operations, replay
from socketio_eventstore.core.operations import (
    Emit,
    EmitVolatile,
    EmitWithAck,
    JoinRoom,
    LeaveRoom,
    SendPacket,
)
from socketio_eventstore.core.packets import Frames
from socketio_eventstore.core.session_operations import AcceptSession
from socketio_eventstore.core.sessions import Session, State
from support.core import Core, Recorder, running, said
from support.held_history import CONNECT, away, emit_numbers, holding, running_in_small_pages
from support.storing import event


@pytest.fixture
async def core(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Core]:
    async with running_in_small_pages(path, monkeypatch) as core:
        yield core


@pytest.fixture(params=["disk", "tail"])
async def either(path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Core]:
    """Events are read from the disk, or found among the newest in memory."""
    async with running(path, tail_bytes=0 if request.param == "disk" else 1_000_000) as core:
        yield core


# What comes -----------------------------------------------------------------------------------------


async def test_a_session_that_missed_only_the_newest_events_is_live_at_once(path: Path) -> None:
    async with running(path) as core:
        session = await away(core)
        expected = await emit_numbers(core, 10)
        history, back = holding(core), Recorder()
        await core.recover(session, back, cursor=4)
        assert session.state is State.LIVE
        assert back.batches == [[CONNECT, *expected[4:]]]
        assert history.reads == []


async def test_a_session_that_missed_nothing_of_a_long_log_is_live_at_once(core: Core) -> None:
    session = await away(core)
    await asyncio.gather(*(core.emit("x", "not hers") for _ in range(30)))
    history, back = holding(core), Recorder()
    await core.recover(session, back, cursor=0)
    assert session.state is State.LIVE and back.packets == [CONNECT] and history.reads == []


async def test_missed_events_come_page_by_page_each_once_and_in_order(core: Core) -> None:
    session = await away(core)
    expected, back = await emit_numbers(core, 40), Recorder()
    holding(core)
    await core.recover(session, back, cursor=0)
    assert await back.sent(41) == [CONNECT, *expected]
    assert session.state is State.LIVE and len(back.batches) > 10
    last = await emit_numbers(core, 1)
    assert back.packets == [CONNECT, *expected, *last]


async def test_a_read_that_stops_at_its_bytes_is_continued(path: Path) -> None:
    async with running(path, tail_bytes=0, max_unsent_bytes=3 * event("number 1").size_bytes) as core:
        sessions = [(await core.live(f"s{number}"))[0] for number in range(3)]
        for session in sessions:
            await core.away(session)
        expected, clients = await emit_numbers(core, 30), [Recorder() for _ in sessions]
        for cursor, (session, client) in enumerate(zip(sessions, clients, strict=True)):
            await core.recover(session, client, cursor=cursor)
        for cursor, client in enumerate(clients):
            assert (await client.sent(31 - cursor))[1:] == expected[cursor:]


async def test_an_event_that_alone_passes_the_limit_of_a_read_comes_too(path: Path) -> None:
    async with running(path, tail_bytes=0, max_unsent_bytes=1) as core:
        session = await away(core)
        expected, back = await emit_numbers(core, 5), Recorder()
        await core.recover(session, back, cursor=0)
        assert await back.sent(6) == [CONNECT, *expected]


async def test_attachments_come_with_their_events(either: Core) -> None:
    session = await away(either)
    blobs = (b"\x00\xff", b"", b"x" * 1_000)
    await either.dispatcher.submit(Emit(event("binary", attachments=blobs)))
    await either.emit("next")
    back = Recorder()
    await either.recover(session, back, cursor=0)
    assert await back.sent(6) == [CONNECT, '453-["message","binary","boot.1"]', *blobs, said("next", 2)]


async def test_events_that_skip_the_session_do_not_come(either: Core) -> None:
    session = await away(either)
    await either.emit("skipped", skip=("s1",))
    await either.emit("for it", skip=("s2",))
    back = Recorder()
    await either.recover(session, back, cursor=0)
    assert await back.sent(2) == [CONNECT, said("for it", 2)]
    await either.emit("live")
    assert back.packets == [CONNECT, said("for it", 2), said("live", 3)]


async def test_events_of_an_earlier_start_carry_the_offsets_that_they_were_given(path: Path) -> None:
    async with running(path, boot="one") as core:
        await away(core)
        await core.emit("before")
    async with running(path, boot="two") as core:
        (stored,) = await core.log.load_sessions()
        session = Session.restore(stored, 0.0)
        core.registry.add(session)
        await core.emit("after")
        back = Recorder()
        await core.recover(session, back, cursor=0)
        expected = ['42["message","before","one.1"]', '42["message","after","two.2"]']
        assert await back.sent(3) == [CONNECT, *expected]


@pytest.mark.parametrize("seed", range(6))
async def test_a_session_gets_what_a_twin_that_never_left_gets(
    path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    for name in ("PAGE_EVENTS", "LOOK_UP_EVENTS", "READ_EVENTS"):
        monkeypatch.setattr(replay, name, random.randint(1, 5))
    async with running(path, tail_bytes=random.choice([0, 200, 10_000])) as core:
        holding(core)
        twin, witness = await core.live("twin")
        session, client = await core.live("s1")
        received: list[str | bytes] = []
        numbers = iter(range(10_000))
        for _ in range(4):
            for _ in range(random.randint(0, 15)):
                await change_both(core, random, (twin, session), next(numbers))
            received += client.packets
            cursor = core.dispatcher.position
            await core.away(session)
            for _ in range(random.randint(0, 25)):
                await change_both(core, random, (twin, session), next(numbers))
            client = Recorder()
            coming = asyncio.create_task(core.recover(session, client, cursor))
            for _ in range(random.randint(0, 25)):
                await change_both(core, random, (twin, session), next(numbers))
            await coming
            await core.emit("now")
            await client.until(lambda client=client: said("now", core.log.head) in client.packets)  # type: ignore[misc]
            assert client.batches[0].pop(0) == CONNECT
        assert received + client.packets == witness.packets


ROOMS: tuple[Room, ...] = ("a", "b", 3)


async def change_both(core: Core, random: Random, both: tuple[Session, ...], number: int) -> None:
    """Something happens to two sessions, or to rooms that they may be in."""
    room = random.choice(ROOMS)
    match random.randint(0, 5):
        case 0:
            await core.dispatcher.submit(*(JoinRoom(session, room) for session in both))
        case 1:
            await core.dispatcher.submit(*(LeaveRoom(session, room) for session in both))
        case 2:
            await core.emit(f"to all {number}", skip=("twin", "s1") if number % 5 == 0 else ())
        case _:
            await core.emit(f"to {room} {number}", room, "somebody else's")


# What is not in the log -----------------------------------------------------------------------------


async def test_packets_that_are_not_stored_come_between_the_events_where_they_belong(either: Core) -> None:
    session, back = await away(either), Recorder()
    await either.emit("one")
    session.recovered = True
    claim = session.attach(back, 0)
    ask = EmitWithAck(event("?", rooms=("s1",)), lambda session: Frames(f'427["{session.sid}?"]'))
    for turn in (
        Emit(event("two")),
        SendPacket(back, "/", Frames("43[2]")),
        EmitVolatile(event("volatile")),
        Emit(event("three")),
        ask,
        Emit(event("not hers", rooms=("nobody's",))),
        SendPacket(back, "/", Frames("43[4]")),
    ):
        await either.dispatcher.submit(turn)
    assert back.packets == []
    await either.dispatcher.submit(AcceptSession(session, claim, "s1", 1_001.0))
    events = [said("one", 1), said("two", 2), said("three", 3)]
    assert await back.sent(7) == [CONNECT, *events[:2], "43[2]", events[2], '427["s1?"]', "43[4]"]


async def test_what_comes_in_for_a_session_in_replay_keeps_its_place(core: Core) -> None:
    session = await away(core)
    expected = await emit_numbers(core, 10)
    history, back = holding(core), Recorder()
    history.open.clear()
    await core.recover(session, back, cursor=0)
    await history.reached.wait()
    await core.dispatcher.submit(SendPacket(back, "/", Frames("43[10]")))
    expected += ["43[10]", *await emit_numbers(core, 2)]
    await core.dispatcher.submit(EmitVolatile(event("volatile")))
    await core.dispatcher.submit(SendPacket(back, "/", Frames("43[12]")))
    assert back.packets == [CONNECT]
    history.open.set()
    assert await back.sent(15) == [CONNECT, *expected, "43[12]"]
    assert session.state is State.LIVE and session.deferred_packets == [] and session.deferred_bytes == 0


async def test_a_new_session_gets_what_is_addressed_to_it_after_its_connect(either: Core) -> None:
    await either.emit("before")
    session, connection = await either.open(), Recorder()
    claim = session.attach(connection, session.start.sequence)
    await either.dispatcher.submit(JoinRoom(session, "room"))
    await either.emit("to all")
    await either.emit("to room", "room")
    await either.dispatcher.submit(SendPacket(connection, "/", Frames("43[]")))
    await either.emit("to it", "s1")
    assert connection.packets == []
    await either.dispatcher.submit(AcceptSession(session, claim, "s1", 1_001.0))
    expected = [said("to all", 2), said("to room", 3), "43[]", said("to it", 4)]
    assert await connection.sent(5) == [CONNECT, *expected]


@pytest.mark.parametrize(("limit", "value"), [("MAX_DEFERRED_PACKETS", 3), ("MAX_DEFERRED_BYTES", 30)])
async def test_a_session_for_which_too_much_is_held_loses_its_transport(
    core: Core, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(operations, limit, value)
    session, connection = await core.open(), Recorder()
    session.attach(connection, 0)
    for number in range(4):
        assert connection.aborted == []
        await core.dispatcher.submit(SendPacket(connection, "/", Frames(f"43[{number:05}]")))
    assert connection.aborted == ["too much is waiting for the replay"] and connection.packets == []
