from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from storing import event
from test_dispatch import Core, Recorder, running, said

from socketio_eventstore.server import replay, turns
from socketio_eventstore.server.packets import Frames
from socketio_eventstore.server.registry import Session, State
from socketio_eventstore.server.session_turns import Accept, Dismiss
from socketio_eventstore.server.turns import Acknowledged, Emit, Join, Leave, Reply, Volatile
from socketio_eventstore.store.errors import StoreUnavailable
from socketio_eventstore.store.log import EventLog
from socketio_eventstore.store.model import Interval, LoggedEvent, Missed, Room

CONNECT = '40{"sid":"s1","pid":"s1"}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
async def core(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Core]:
    """Every event is read from the disk, in small pages."""
    monkeypatch.setattr(replay, "PAGE_EVENTS", 3)
    monkeypatch.setattr(replay, "LOOK_UP_EVENTS", 7)
    monkeypatch.setattr(replay, "READ_EVENTS", 5)
    async with running(path, tail_bytes=0) as core:
        yield core


@pytest.fixture(params=["disk", "tail"])
async def either(path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Core]:
    """Events are read from the disk, or found among the newest in memory."""
    async with running(path, tail_bytes=0 if request.param == "disk" else 1_000_000) as core:
        yield core


class HeldHistory:
    """A real log whose reads can be held back, or fail; its answers are as short as they may be."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.reads: list[list[int]] = []
        self.failure: Exception | None = None
        self.missed_failure: Exception | None = None
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def missed(
        self, namespace: str, memberships: Sequence[Interval], after: int, through: int, **options: Any
    ) -> Missed:
        if self.missed_failure is not None:
            raise self.missed_failure
        found = await self._log.missed(namespace, memberships, after, through, **options)
        return replace(found, numbers=found.numbers[: options["at_most"] + 1])

    async def read(self, numbers: Sequence[int], limit_bytes: int) -> list[LoggedEvent]:
        self.reads.append(list(numbers))
        self.reached.set()
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return await self._log.read(numbers, limit_bytes)


def holding(core: Core) -> HeldHistory:
    """What the replays read is in the hands of the test."""
    core.replayer._history = history = HeldHistory(core.log)
    return history


async def away(core: Core, *rooms: str) -> Session:
    session, _ = await core.live("s1", *rooms)
    await core.away(session)
    return session


async def emit_numbers(core: Core, count: int) -> list[str | bytes]:
    """Emits events to all; returns the packets that make them."""
    numbers = [core.dispatcher.position + number for number in range(1, count + 1)]
    await asyncio.gather(*(core.emit(f"number {number}") for number in numbers))
    return [said(f"number {number}", number) for number in numbers]


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
            await core.dispatcher.submit(*(Join(session, room) for session in both))
        case 1:
            await core.dispatcher.submit(*(Leave(session, room) for session in both))
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
    ask = Acknowledged("/", ("s1",), (), lambda session: Frames(f'427["{session.sid}?"]'))
    for turn in (
        Emit(event("two")),
        Reply(back, "/", Frames("43[2]")),
        Volatile(event("volatile")),
        Emit(event("three")),
        ask,
        Emit(event("not hers", rooms=("nobody's",))),
        Reply(back, "/", Frames("43[4]")),
    ):
        await either.dispatcher.submit(turn)
    assert back.packets == []
    await either.dispatcher.submit(Accept(session, claim, "s1", 1_001.0))
    events = [said("one", 1), said("two", 2), said("three", 3)]
    assert await back.sent(7) == [CONNECT, *events[:2], "43[2]", events[2], '427["s1?"]', "43[4]"]


async def test_what_comes_in_for_a_session_in_replay_keeps_its_place(core: Core) -> None:
    session = await away(core)
    expected = await emit_numbers(core, 10)
    history, back = holding(core), Recorder()
    history.open.clear()
    await core.recover(session, back, cursor=0)
    await history.reached.wait()
    await core.dispatcher.submit(Reply(back, "/", Frames("43[10]")))
    expected += ["43[10]", *await emit_numbers(core, 2)]
    await core.dispatcher.submit(Volatile(event("volatile")))
    await core.dispatcher.submit(Reply(back, "/", Frames("43[12]")))
    assert back.packets == [CONNECT]
    history.open.set()
    assert await back.sent(15) == [CONNECT, *expected, "43[12]"]
    assert session.state is State.LIVE and session.held == [] and session.held_bytes == 0


async def test_a_new_session_gets_what_is_addressed_to_it_after_its_connect(either: Core) -> None:
    await either.emit("before")
    session, connection = await either.open(), Recorder()
    claim = session.attach(connection, session.start.number)
    await either.dispatcher.submit(Join(session, "room"))
    await either.emit("to all")
    await either.emit("to room", "room")
    await either.dispatcher.submit(Reply(connection, "/", Frames("43[]")))
    await either.emit("to it", "s1")
    assert connection.packets == []
    await either.dispatcher.submit(Accept(session, claim, "s1", 1_001.0))
    expected = [said("to all", 2), said("to room", 3), "43[]", said("to it", 4)]
    assert await connection.sent(5) == [CONNECT, *expected]


@pytest.mark.parametrize(("limit", "value"), [("HELD_PACKETS", 3), ("HELD_BYTES", 30)])
async def test_a_session_for_which_too_much_is_held_loses_its_transport(
    core: Core, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(turns, limit, value)
    session, connection = await core.open(), Recorder()
    session.attach(connection, 0)
    for number in range(4):
        assert connection.aborted == []
        await core.dispatcher.submit(Reply(connection, "/", Frames(f"43[{number:05}]")))
    assert connection.aborted == ["too much is waiting for the replay"] and connection.packets == []


# At the same time -----------------------------------------------------------------------------------


async def test_emits_that_go_on_during_a_replay_come_once_and_in_order(path: Path) -> None:
    async with running(path, tail_bytes=500) as core:
        session = await away(core)
        expected = await emit_numbers(core, 300)
        back, recovered = Recorder(), asyncio.Event()

        async def emit_until_live() -> None:
            for _ in range(2_000):
                await emit_numbers(core, 2)
                recovered.set()
                if session.state is State.LIVE:
                    break

        emits = asyncio.create_task(emit_until_live())
        await recovered.wait()
        await core.recover(session, back, cursor=0)
        await emits
        assert session.state is State.LIVE
        expected += await emit_numbers(core, 3)
        total = core.dispatcher.position
        assert back.packets == [CONNECT, *(said(f"number {n}", n) for n in range(1, total + 1))]
        assert back.packets[1:301] == expected[:300]


async def test_several_sessions_are_served_from_shared_reads(path: Path) -> None:
    async with running(path, tail_bytes=0) as core:
        sessions = [
            (await core.live(f"s{number}", "even" if number % 2 == 0 else "odd"))[0] for number in range(6)
        ]
        for session in sessions:
            await core.away(session)
        for number in range(20):
            await core.emit(f"number {number + 1}", "even" if number % 2 == 0 else "odd")
        history, clients = holding(core), [Recorder() for _ in sessions]
        accepts = []
        for session, client in zip(sessions, clients, strict=True):
            session.recovered = True
            accepts.append(Accept(session, session.attach(client, 0), session.sid, 1_001.0))
        await core.dispatcher.submit(*accepts)
        for number, client in enumerate(clients):
            expected = [said(f"number {n}", n) for n in range(1 + number % 2, 21, 2)]
            assert (await client.sent(11))[1:] == expected
        assert history.reads == [list(range(1, 21))]


async def test_a_client_that_does_not_read_waits_and_the_others_are_served(core: Core) -> None:
    crowded, other = await away(core), (await core.live("s2"))[0]
    await core.away(other)
    expected = await emit_numbers(core, 20)
    slow, quick = Recorder("slow"), Recorder("quick")
    slow.unsent = 1_000_001
    await core.recover(crowded, slow, cursor=0)
    await core.recover(other, quick, cursor=0)
    assert (await quick.sent(21))[1:] == expected
    assert slow.packets == [CONNECT] and crowded.state is State.REPLAYING
    slow.unsent = 1_000_000
    assert (await slow.sent(21))[1:] == expected


async def test_a_takeover_in_the_middle_of_a_replay_gives_everything_to_the_new_one(core: Core) -> None:
    session = await away(core)
    expected = await emit_numbers(core, 20)
    history, old, new = holding(core), Recorder("old"), Recorder("new")
    await core.recover(session, old, cursor=0)
    await old.sent(7)
    history.open.clear()
    history.reached.clear()
    await history.reached.wait()
    before = list(old.packets)
    coming = asyncio.create_task(core.recover(session, new, cursor=3))
    await coming
    expected += await emit_numbers(core, 2)
    history.open.set()
    assert await new.sent(20) == [CONNECT, *expected[3:]]
    assert old.packets == [*before, "41"]
    assert session.state is State.LIVE and not core.replayer._replays


@pytest.mark.parametrize("how", ["away", "ended"])
async def test_a_replay_whose_session_goes_ends_without_a_word(core: Core, how: str) -> None:
    session, other = await away(core), (await core.live("s2"))[0]
    await core.away(other)
    expected = await emit_numbers(core, 20)
    history, back, client = holding(core), Recorder(), Recorder()
    history.open.clear()
    await core.recover(session, back, cursor=0)
    await history.reached.wait()
    if how == "away":
        await core.away(session)
    else:
        await core.dispatcher.submit(Dismiss(session))
    history.open.set()
    await core.recover(other, client, cursor=0)  # the replays work on
    assert (await client.sent(21))[1:] == expected
    assert back.packets == ([CONNECT] if how == "away" else [CONNECT, "41"])


@pytest.mark.parametrize("where", ["read", "look-up"])
async def test_a_log_that_cannot_be_read_closes_the_transports_and_loses_nothing(
    core: Core, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = await away(core)
    expected = await emit_numbers(core, 10)
    history, back = holding(core), Recorder()
    if where == "read":
        history.failure = StoreUnavailable("The disk is broken.")
    else:
        history.missed_failure = StoreUnavailable("The disk is broken.")
    await core.recover(session, back, cursor=0)
    await back.until(lambda: bool(back.aborted))
    assert back.packets == [CONNECT] and back.aborted == ["the log cannot be read"]
    assert "The disk is broken." in caplog.text
    history.failure = history.missed_failure = None
    await core.away(session)
    again = Recorder()
    await core.recover(session, again, cursor=0)
    assert await again.sent(11) == [CONNECT, *expected]
