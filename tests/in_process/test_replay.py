from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from socketio_eventlog.events import Room
from socketio_eventstore.core import replay, unstored
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operations import (
    Emit,
    EmitVolatile,
    EmitWithAck,
    JoinRoom,
    LeaveRoom,
    SendPacket,
)
from socketio_eventstore.core.sessions import Session, State
from support.core import Core, Recorder, running, said
from support.pausable_reads import CONNECT, away, emit_numbers, pausable_reads, running_in_small_pages
from support.storing import event


@pytest.fixture
async def core(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Core]:
    async with running_in_small_pages(path, monkeypatch) as core:
        yield core


@pytest.fixture(params=["disk", "memory"])
async def either(path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Core]:
    """A core that reads missed events from the disk, or finds them among the recent events."""
    async with running(path, tail_bytes=0 if request.param == "disk" else 1_000_000) as core:
        yield core


# Missed events --------------------------------------------------------------------------------------


async def test_session_missing_recent_events_is_live(path: Path) -> None:
    """A session that missed only recent events is live at once."""
    async with running(path) as core:
        session = await away(core)
        expected = await emit_numbers(core, 10)
        history, back = pausable_reads(core), Recorder()
        await core.recover(session, back, cursor=4)
        assert session.state is State.LIVE
        assert back.batches == [[CONNECT, *expected[4:]]]
        assert history.reads == []


async def test_session_without_missed_events_is_live(core: Core) -> None:
    """A session without missed events is live at once, however long the log is."""
    session = await away(core)
    await asyncio.gather(*(core.emit("x", "not hers") for _ in range(30)))
    history, back = pausable_reads(core), Recorder()
    await core.recover(session, back, cursor=0)
    assert session.state is State.LIVE and back.packets == [CONNECT] and history.reads == []


async def test_missed_events_come_page_by_page(core: Core) -> None:
    """Missed events come page by page, each once and in order."""
    session = await away(core)
    expected, back = await emit_numbers(core, 40), Recorder()
    pausable_reads(core)
    await core.recover(session, back, cursor=0)
    assert await back.sent(41) == [CONNECT, *expected]
    assert session.state is State.LIVE and len(back.batches) > 10
    last = await emit_numbers(core, 1)
    assert back.packets == [CONNECT, *expected, *last]


async def test_read_is_continued_after_its_byte_limit(path: Path) -> None:
    """A read that stops at its limit in bytes is continued."""
    async with running(path, tail_bytes=0, max_unsent_bytes=3 * event("number 1").size_bytes) as core:
        sessions = [(await core.live(f"s{number}"))[0] for number in range(3)]
        for session in sessions:
            await core.away(session)
        expected, clients = await emit_numbers(core, 30), [Recorder() for _ in sessions]
        for cursor, (session, client) in enumerate(zip(sessions, clients, strict=True)):
            await core.recover(session, client, cursor=cursor)
        for cursor, client in enumerate(clients):
            assert (await client.sent(31 - cursor))[1:] == expected[cursor:]


async def test_event_beyond_the_read_limit_is_sent(path: Path) -> None:
    """An event that alone exceeds the limit of a read is sent."""
    async with running(path, tail_bytes=0, max_unsent_bytes=1) as core:
        session = await away(core)
        expected, back = await emit_numbers(core, 5), Recorder()
        await core.recover(session, back, cursor=0)
        assert await back.sent(6) == [CONNECT, *expected]


async def test_attachments_come_with_their_events(either: Core) -> None:
    session = await away(either)
    blobs = (b"\x00\xff", b"", b"x" * 1_000)
    await either.queue.submit(Emit(event("binary", attachments=blobs)))
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


async def test_replayed_events_keep_their_epoch(path: Path) -> None:
    """Events of an earlier epoch are replayed with their original offsets."""
    async with running(path, epoch="one") as core:
        await away(core)
        await core.emit("before")
    async with running(path, epoch="two") as core:
        (session,) = core.registry
        await core.emit("after")
        back = Recorder()
        await core.recover(session, back, cursor=0)
        expected = ['42["message","before","one.1"]', '42["message","after","two.2"]']
        assert await back.sent(3) == [CONNECT, *expected]


@pytest.mark.parametrize("seed", range(6))
async def test_session_receives_the_events_of_its_twin(
    path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session receives the same events as its twin, which never disconnects."""
    random = Random(seed)
    for name in ("PAGE_EVENTS", "LOOK_UP_EVENTS", "READ_EVENTS"):
        monkeypatch.setattr(replay, name, random.randint(1, 5))
    async with running(path, tail_bytes=random.choice([0, 200, 10_000])) as core:
        pausable_reads(core)
        twin, witness = await core.live("twin")
        session, client = await core.live("s1")
        received: list[str | bytes] = []
        numbers = iter(range(10_000))
        for _ in range(4):
            for _ in range(random.randint(0, 15)):
                await change_both(core, random, (twin, session), next(numbers))
            received += client.packets
            cursor = core.queue.position
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
    """Change two sessions alike, or emit to rooms that may contain them."""
    room = random.choice(ROOMS)
    match random.randint(0, 5):
        case 0:
            await core.queue.submit(*(JoinRoom(session, room) for session in both))
        case 1:
            await core.queue.submit(*(LeaveRoom(session, room) for session in both))
        case 2:
            await core.emit(f"to all {number}", skip=("twin", "s1") if number % 5 == 0 else ())
        case _:
            await core.emit(f"to {room} {number}", room, "somebody else's")


# Packets outside the log ----------------------------------------------------------------------------


async def test_deferred_packets_keep_their_order(either: Core) -> None:
    """Deferred packets come between the replayed events, in the order of the queue."""
    session, back = await away(either), Recorder()
    await either.emit("one")
    attached = await either.claim(session, back)
    ask = EmitWithAck(event("?", rooms=("s1",)), lambda session: Frames(f'427["{session.sid}?"]'))
    for operation in (
        Emit(event("two")),
        SendPacket(back, "/", Frames("43[2]")),
        EmitVolatile(event("volatile")),
        Emit(event("three")),
        ask,
        Emit(event("not hers", rooms=("nobody's",))),
        SendPacket(back, "/", Frames("43[4]")),
    ):
        await either.queue.submit(operation)
    assert back.packets == []
    assert await either.resume(session, attached, cursor=0)
    events = [said("one", 1), said("two", 2), said("three", 3)]
    assert await back.sent(7) == [CONNECT, *events[:2], "43[2]", events[2], '427["s1?"]', "43[4]"]


async def test_packets_during_a_replay_keep_their_order(core: Core) -> None:
    """Packets and events that arrive during a replay keep their order."""
    session = await away(core)
    expected = await emit_numbers(core, 10)
    history, back = pausable_reads(core), Recorder()
    history.open.clear()
    await core.recover(session, back, cursor=0)
    await history.reached.wait()
    await core.queue.submit(SendPacket(back, "/", Frames("43[10]")))
    expected += ["43[10]", *await emit_numbers(core, 2)]
    await core.queue.submit(EmitVolatile(event("volatile")))
    await core.queue.submit(SendPacket(back, "/", Frames("43[12]")))
    assert back.packets == [CONNECT]
    history.open.set()
    assert await back.sent(15) == [CONNECT, *expected, "43[12]"]
    assert session.state is State.LIVE
    assert not session.current.deferred_packets and session.current.deferred_bytes == 0


async def test_new_session_receives_events_after_connect(either: Core) -> None:
    """Events and packets for a new session follow its CONNECT packet."""
    await either.emit("before")
    connection = Recorder()
    session = await either.open("s1", connection)
    await either.queue.submit(JoinRoom(session, "room"))
    await either.emit("to all")
    await either.emit("to room", "room")
    await either.queue.submit(SendPacket(connection, "/", Frames("43[]")))
    await either.emit("to it", "s1")
    assert connection.packets == []
    assert await either.accept(session)
    expected = [said("to all", 2), said("to room", 3), "43[]", said("to it", 4)]
    assert await connection.sent(5) == [CONNECT, *expected]


@pytest.mark.parametrize(("limit", "value"), [("MAX_DEFERRED_PACKETS", 3), ("MAX_DEFERRED_BYTES", 30)])
async def test_too_many_deferred_packets_end_transport(
    core: Core, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    """A session with too many deferred packets loses its transport."""
    monkeypatch.setattr(unstored, limit, value)
    connection = Recorder()
    await core.open("s1", connection)
    for number in range(4):
        assert connection.aborted == []
        await core.queue.submit(SendPacket(connection, "/", Frames(f"43[{number:05}]")))
    assert connection.aborted == ["too many packets wait for the replay"] and connection.packets == []
