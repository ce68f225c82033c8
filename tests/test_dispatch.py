from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import DEADLINE
from storing import event, opened
from test_transport import Server, serving

from socketio_eventstore.server import dispatch
from socketio_eventstore.server.dispatch import Dispatcher, QueueFull, Turn
from socketio_eventstore.server.packets import Frames, TextCodec
from socketio_eventstore.server.recovery import hash_pid
from socketio_eventstore.server.registry import Connection, Registry, Session, State
from socketio_eventstore.server.replay import Replayer
from socketio_eventstore.server.session_turns import Accept, Away, Dismiss, End, Open, Refuse, Revoke
from socketio_eventstore.server.tail import Tail
from socketio_eventstore.server.turns import (
    Acknowledged,
    CloseRoom,
    Emit,
    Join,
    Leave,
    Reply,
    Save,
    Volatile,
)
from socketio_eventstore.store.errors import (
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreRejected,
    StoreUnavailable,
)
from socketio_eventstore.store.log import EventLog
from socketio_eventstore.store.model import Change, Event, Place, Room, SessionAway, SessionEnded

BAD = event("\ud800")
"""A lone surrogate: the real store refuses it."""


class Recorder(Connection):
    """A connection that keeps what it was given, batch by batch."""

    def __init__(self, connection_id: str = "connection") -> None:
        super().__init__(connection_id)
        self.batches: list[list[str | bytes]] = []
        self.aborted: list[str] = []
        self.unsent = 0
        self._written = asyncio.Event()

    @property
    def packets(self) -> list[str | bytes]:
        return [packet for batch in self.batches for packet in batch]

    def write(self, batch: Sequence[Frames]) -> None:
        if not self.aborted:
            self.batches.append([packet for frames in batch for packet in frames.packets])
            self._written.set()

    def abort(self, reason: str) -> None:
        self.aborted.append(reason)
        self._written.set()

    @property
    def unsent_bytes(self) -> int:
        return self.unsent

    async def until(self, happened: Callable[[], bool]) -> None:
        """Waits for what is written, or for the abort."""
        async with asyncio.timeout(DEADLINE):
            while not happened():
                self._written.clear()
                await self._written.wait()

    async def sent(self, count: int) -> list[str | bytes]:
        """Waits until so many packets were written; returns all of them."""
        await self.until(lambda: len(self.packets) >= count)
        return self.packets


class HeldLog:
    """A real log whose commits can be held back, and fail where a test says so."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.committed: list[list[Change]] = []
        """What was committed, transaction by transaction."""
        self.failure: Callable[[Sequence[Change]], Exception | None] = lambda _: None
        self.reached = asyncio.Event()
        """A commit was asked for."""
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        self.reached.clear()
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def fail_with(self, *errors: Exception) -> None:
        """The next commits fail so, one after the other."""
        waiting = list(errors)
        self.failure = lambda _: waiting.pop(0) if waiting else None

    @property
    def head(self) -> int:
        return self._log.head

    def place(self, number: int) -> Place:
        return self._log.place(number)

    async def commit(self, changes: Sequence[Change]) -> list[int]:
        self.reached.set()
        await self._open.wait()
        if (error := self.failure(changes)) is not None:
            raise error
        positions = await self._log.commit(changes)
        self.committed.append(list(changes))
        return positions


@dataclass
class Core:
    """The core of a server, without transports: a real log, the dispatcher and the replays."""

    log: EventLog
    held: HeldLog
    registry: Registry
    dispatcher: Dispatcher
    replayer: Replayer

    async def open(self, sid: str = "s1", *, namespace: str = "/", former: str | None = None) -> Session:
        """A new session whose client is connecting; its pid is its sid."""
        session = Session(namespace, sid, hash_pid(sid), self.log.place(0), former_offset=former)
        await self.dispatcher.submit(Open(session, 1_000.0))
        return session

    async def accept(self, session: Session, connection: Connection, cursor: int | None = None) -> bool:
        """A connection claims the session and its connect handler accepts it."""
        claim = session.attach(connection, session.start.number if cursor is None else cursor)
        return bool(await self.dispatcher.submit(Accept(session, claim, session.sid, 1_001.0)))

    async def recover(self, session: Session, connection: Connection, cursor: int) -> bool:
        """The same for a session that was away."""
        session.recovered = True
        return await self.accept(session, connection, cursor)

    async def live(self, sid: str = "s1", *rooms: Room, namespace: str = "/") -> tuple[Session, Recorder]:
        """A session that is connected, and in these rooms; what it was sent so far is forgotten."""
        connection = Recorder(f"of {sid}")
        session = await self.open(sid, namespace=namespace)
        assert await self.accept(session, connection)
        for room in rooms:
            await self.dispatcher.submit(Join(session, room))
        assert session.state is State.LIVE
        connection.batches.clear()
        return session, connection

    async def away(self, session: Session, at: float = 0.0) -> None:
        """The transport of a session ends."""
        await self.dispatcher.submit(self.leave(session, at))

    def leave(self, session: Session, at: float = 0.0) -> Away:
        """As the handshake does it: away in memory at once, the turn follows."""
        session.detach()
        session.away_since = at
        session.move(State.AWAY)
        return Away(session, session.claim, 1_002.0)

    async def emit(self, text: str = "hello", *rooms: Room, skip: tuple[str, ...] = ()) -> object:
        return await self.dispatcher.submit(Emit(event(text, rooms=rooms or None, skip=skip)))

    def begin(self, *turns: Turn) -> asyncio.Future[object]:
        """Give turns their place now; the future is done when they have taken effect."""
        turns[-1].settled = settled = asyncio.get_running_loop().create_future()
        self.dispatcher.enqueue(*turns)
        return settled


@asynccontextmanager
async def running(
    path: Path, *, boot: str = "boot", max_unsent_bytes: int = 1_000_000, tail_bytes: int = 1_000_000
) -> AsyncIterator[Core]:
    """A core whose offsets read ``boot.1``, ``boot.2`` …"""
    async with opened(path, boot_id=lambda: boot) as log:
        held, registry = HeldLog(log), Registry()
        replayer = Replayer(log, max_unsent_bytes)
        dispatcher = Dispatcher(
            held, registry, TextCodec(), tail_bytes=tail_bytes, offsets=True, catch_up=replayer.begin
        )
        replayer.dispatcher = dispatcher
        tasks = [asyncio.create_task(dispatcher.run()), asyncio.create_task(replayer.run())]
        try:
            yield Core(log, held, registry, dispatcher, replayer)
        finally:
            held.release()
            dispatcher.close()
            tasks[1].cancel()
            await asyncio.wait(tasks)
            tasks[0].result()


@asynccontextmanager
async def holding(server: Server) -> AsyncIterator[HeldLog]:
    """The commits of a running server are in the hands of the test."""
    runtime = await server.manager.start()
    assert isinstance(runtime.log, EventLog)
    runtime.dispatcher.log = held = HeldLog(runtime.log)
    try:
        yield held
    finally:
        held.failure = lambda _: None
        held.release()


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    async with running(tmp_path / "events.db") as core:
        yield core


def said(text: str, number: int) -> str:
    """The packet of an event of ``storing.event``."""
    return f'42["message","{text}","boot.{number}"]'


async def texts(log: EventLog) -> list[str]:
    """What is stored."""
    return [logged.event.payload for logged in await log.read(range(1, log.head + 1))]


async def only_away_since(log: EventLog) -> float | None:
    (stored,) = await log.load_sessions()
    return stored.away_since


# Commit before send ---------------------------------------------------------------------------------


async def test_nothing_of_an_event_is_sent_before_it_is_stored(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    emit = core.begin(Emit(event("secret")))
    await core.held.reached.wait()
    assert client.batches == [] and not emit.done()
    core.held.release()
    assert await emit == "boot.1"
    assert client.packets == [said("secret", 1)]


async def test_an_emit_returns_when_its_event_is_on_disk_and_not_before(core: Core) -> None:
    assert await core.emit("first") == "boot.1"
    assert await texts(core.log) == ['["message","first"]']


async def test_a_commit_that_fails_sends_nothing_and_the_next_emit_works(core: Core) -> None:
    _, client = await core.live()
    core.held.fail_with(StoreUnavailable("The disk is full."))
    with pytest.raises(StoreUnavailable, match=r"cannot be written at the moment.*The disk is full\."):
        await core.emit("lost")
    assert client.batches == []
    assert await core.emit("kept") == "boot.1"
    assert client.packets == [said("kept", 1)]
    assert await texts(core.log) == ['["message","kept"]']


async def test_one_bad_turn_fails_alone_and_the_others_keep_their_order(core: Core) -> None:
    session, client = await core.live()
    core.held.hold()
    first = core.begin(Emit(event("first")))
    await core.held.reached.wait()
    good = [core.begin(Emit(event(f"good {number}"))) for number in range(3)]
    bad = core.begin(Emit(BAD))
    reply = core.begin(Reply(client, "/", Frames("43[]")))
    more = [core.begin(Join(session, "room")), core.begin(Emit(event("to room", rooms=("room",))))]
    core.held.release()
    results = await asyncio.gather(first, *good, bad, reply, *more, return_exceptions=True)
    assert isinstance(results.pop(4), StoreRejected)
    assert not [result for result in results if isinstance(result, Exception)]
    # A number that a refused batch would have had is never given out, so they are not consecutive.
    offsets = [result for result in results if isinstance(result, str)]
    expected = ["first", "good 0", "good 1", "good 2", "to room"]
    events = [f'42["message","{text}","{offset}"]' for text, offset in zip(expected, offsets, strict=True)]
    assert client.packets == [*events[:4], "43[]", events[4]]
    assert await texts(core.log) == [f'["message","{text}"]' for text in expected]


async def test_a_busy_store_is_tried_again_and_nothing_is_lost_or_doubled(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    emits = [core.begin(Emit(event(f"event {number}"))) for number in range(3)]
    await core.held.reached.wait()
    core.held.fail_with(StoreBusy(), StoreBusy(), StoreBusy())
    core.held.release()
    assert await asyncio.gather(*emits) == ["boot.1", "boot.2", "boot.3"]
    assert client.packets == [said(f"event {number}", number + 1) for number in range(3)]
    assert len(await texts(core.log)) == 3


async def test_a_store_that_stays_busy_is_reported_when_patience_is_at_its_end(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "BUSY_PATIENCE_SECONDS", 0.0)
    core.held.failure = lambda _: StoreBusy()
    with pytest.raises(StoreBusy, match="Another program holds the write lock"):
        await core.emit()
    core.held.failure = lambda _: None
    assert await core.emit() == "boot.1"


async def test_a_fault_of_the_log_reaches_those_who_wait_and_the_next_emit_works(
    core: Core, caplog: pytest.LogCaptureFixture
) -> None:
    core.held.fail_with(ZeroDivisionError("a fault of ours"))
    with pytest.raises(ZeroDivisionError):
        await core.emit()
    assert "failed" in caplog.text
    assert await core.emit() == "boot.1"


async def test_a_turn_that_cannot_take_effect_does_not_stop_those_behind_it(
    core: Core, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Turn):
        def apply(self, dispatcher: Dispatcher) -> None:
            raise ZeroDivisionError

    _, client = await core.live()
    core.held.hold()
    turns = [core.begin(Emit(event("before"))), core.begin(Faulty()), core.begin(Emit(event("after")))]
    await core.held.reached.wait()
    core.held.release()
    before, fault, after = await asyncio.gather(*turns, return_exceptions=True)
    assert (before, after) == ("boot.1", "boot.2") and isinstance(fault, ZeroDivisionError)
    assert client.packets == [said("before", 1), said("after", 2)]
    assert "could not take effect" in caplog.text


async def test_an_emit_whose_caller_was_cancelled_is_sent_all_the_same(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    emit, other = core.begin(Emit(event("cancelled"))), core.begin(Emit(event("other")))
    await core.held.reached.wait()
    emit.cancel()
    core.held.release()
    assert await other == "boot.2"
    assert client.packets == [said("cancelled", 1), said("other", 2)]


async def test_no_byte_reaches_a_websocket_while_the_commit_is_held_back(tmp_path: Path) -> None:
    async with serving(tmp_path / "events.db", ping_interval=0.05) as server:
        client = await server.client()
        async with holding(server) as held:
            held.hold()
            emit = asyncio.create_task(server.sio.emit("secret", "text"))
            await held.reached.wait()
            # A heartbeat keeps its place among the bytes: what was written before it would be here by now.
            for _ in range(2):
                assert await client.raw_packet() == "2"
                await client.send("3")
            assert not emit.done()
            held.release()
            assert await client.event() == ["secret", "text", await emit]


async def test_after_a_commit_that_failed_a_websocket_gets_the_next_event_and_no_other(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path / "events.db") as server, holding(server) as held:
        client = await server.client()
        held.fail_with(StoreUnavailable("The disk is full."), StoreUnavailable("The disk is full."))
        with pytest.raises(StoreUnavailable, match=r"The disk is full\."):
            await server.sio.emit("lost")
        with pytest.raises(StoreUnavailable):
            await server.sio.enter_room(client.sid, "room")
        assert server.sio.rooms(client.sid) == [client.sid]
        assert await client.event_of(server.sio.emit("kept", 1)) == ["kept", 1]


# What must happen even if it cannot be stored -------------------------------------------------------


async def test_a_disconnection_that_cannot_be_stored_is_written_with_the_next_commit(core: Core) -> None:
    session, _ = await core.live()
    core.held.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.away(session, at=7.5)
    assert session.state is State.AWAY
    assert await only_away_since(core.log) is None
    await core.emit("next")
    assert await only_away_since(core.log) == 7.5
    assert [type(change) for change in core.held.committed[-1]] == [SessionAway, Event]


async def test_what_is_owed_is_kept_over_several_failures_and_written_once(core: Core) -> None:
    session, _ = await core.live()
    core.held.fail_with(*[StoreUnavailable() for _ in range(3)])
    with pytest.raises(StoreUnavailable):
        await core.away(session, at=7.5)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await core.emit("lost")
    await core.emit("one")
    await core.emit("two")
    assert [len(changes) for changes in core.held.committed[-2:]] == [2, 1]
    assert await only_away_since(core.log) == 7.5


async def test_an_unstored_packet_writes_what_is_owed_and_is_sent_after_it(core: Core) -> None:
    gone, _ = await core.live("gone")
    _, client = await core.live("here")
    core.held.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.away(gone, at=7.5)
    core.held.hold()
    reply = core.begin(Reply(client, "/", Frames("43[]")))
    await core.held.reached.wait()
    assert client.batches == []
    core.held.release()
    await reply
    assert client.packets == ["43[]"]
    assert [type(change) for change in core.held.committed[-1]] == [SessionAway]


async def test_a_client_that_is_back_before_its_departure_could_be_stored_stays_connected(
    core: Core,
) -> None:
    session, _ = await core.live()
    core.held.hold()
    core.held.fail_with(StoreUnavailable(), StoreUnavailable())
    away, back = core.begin(core.leave(session)), Recorder("back")
    await core.held.reached.wait()
    session.attach(back, 0)
    core.held.release()
    await asyncio.gather(away, return_exceptions=True)
    core.held.fail_with()
    await core.dispatcher.submit(Accept(session, session.claim, "s1", 1_003.0))
    assert await only_away_since(core.log) is None
    assert session.state is State.LIVE and back.packets == ['40{"sid":"s1","pid":"s1"}']


async def test_an_acceptance_that_cannot_be_stored_closes_the_transport_without_a_packet(core: Core) -> None:
    session, _ = await core.live()
    await core.away(session)
    again = Recorder("again")
    core.held.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.recover(session, again, cursor=0)
    assert again.packets == [] and again.aborted == ["the store is not available"]
    assert session.state is State.CONNECTING


async def test_a_refusal_that_cannot_be_stored_closes_the_transport_without_a_packet_and_is_owed(
    core: Core,
) -> None:
    session, connection = await core.open(), Recorder()
    claim = session.attach(connection, 0)
    core.held.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.dispatcher.submit(Refuse(session, claim, Frames("44{}"), 1_001.0))
    assert connection.packets == [] and connection.aborted == ["the store is not available"]
    assert session.state is State.ENDED and core.registry.get("/", "s1") is None
    await core.emit()
    assert [type(change) for change in core.held.committed[-1]] == [SessionEnded, Event]
    assert await core.log.load_sessions() == []


async def test_a_transport_is_not_given_connect_error_or_disconnect_when_the_store_fails(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path / "events.db") as server, holding(server) as held:
        first = await server.socket()
        pid = (await first.connect())["pid"]
        held.failure = lambda _: StoreUnavailable("The disk is full.")
        for auth in (None, {"pid": pid}):  # a new session, and one that takes over its own
            client = await server.socket()
            await client.send("40" + ("" if auth is None else f'{{"pid":"{pid}"}}'))
            assert await client.rest() == []
        assert await first.rest() == []  # it was displaced, and comes back for its session
        held.fail_with()
        again = await server.socket()
        answer = await again.connect(auth={"pid": pid})
        assert (answer["pid"], answer["sid"]) == (pid, first.sid)


@pytest.mark.parametrize("wanted", [Revoke, Dismiss])
async def test_an_end_that_happened_is_owed_and_one_that_is_wanted_changes_nothing(
    core: Core, wanted: type[End]
) -> None:
    kept, client = await core.live("kept")
    gone, other = await core.live("gone")
    core.held.fail_with(StoreUnavailable(), StoreUnavailable())
    for turn in (wanted(kept), End(gone)):
        with pytest.raises(StoreUnavailable):
            await core.dispatcher.submit(turn)
    assert kept.state is State.LIVE and client.packets == []
    assert gone.state is State.ENDED and other.packets == []
    assert await core.emit() == "boot.1"
    assert client.packets == [said("hello", 1)] and other.packets == []
    assert [stored.sid for stored in await core.log.load_sessions()] == ["kept"]
    await core.dispatcher.submit(wanted(kept))
    assert client.packets[1:] == (["41"] if wanted is Dismiss else [])
    assert await core.log.load_sessions() == []


async def test_of_a_session_that_went_and_ended_only_the_end_is_owed(core: Core) -> None:
    session, _ = await core.live()
    core.held.fail_with(StoreUnavailable(), StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.away(session)
    with pytest.raises(StoreUnavailable):
        await core.dispatcher.submit(End(session))
    await core.emit()
    assert [type(change) for change in core.held.committed[-1]] == [SessionEnded, Event]
    assert await core.log.load_sessions() == []


async def test_what_is_owed_can_be_tried_again_without_any_turn(core: Core) -> None:
    session, _ = await core.live()
    core.held.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.away(session, at=7.5)
    core.held.reached.clear()
    core.dispatcher.retry_owed()
    await core.held.reached.wait()
    await core.emit()
    assert [type(change) for change in core.held.committed[-2]] == [SessionAway]
    core.dispatcher.retry_owed()  # nothing is left
    await core.emit()
    assert [len(changes) for changes in core.held.committed[-2:]] == [1, 1]


async def test_packets_that_are_not_stored_are_sent_in_their_place_although_the_store_fails(
    core: Core,
) -> None:
    _, client = await core.live()
    core.held.failure = lambda _: StoreUnavailable()
    core.held.hold()
    turns = [
        core.begin(Emit(event("lost"))),
        core.begin(Reply(client, "/", Frames("431[]"))),
        core.begin(Volatile(event("volatile"))),
        core.begin(Emit(event("lost, too"))),
        core.begin(Reply(client, "/", Frames("432[]"))),
    ]
    await core.held.reached.wait()
    core.held.release()
    results = await asyncio.gather(*turns, return_exceptions=True)
    assert [isinstance(result, StoreUnavailable) for result in results] == [True, False, False, True, False]
    assert client.packets == ["431[]", said("volatile", 0), "432[]"]


# One order ------------------------------------------------------------------------------------------


async def test_everything_takes_effect_in_the_order_in_which_it_was_asked_for(core: Core) -> None:
    session, client = await core.live()
    core.held.hold()
    turns = [
        core.begin(Emit(event("to nobody yet", rooms=("room",)))),
        core.begin(Join(session, "room")),
        core.begin(Emit(event("to room", rooms=("room",)))),
        core.begin(Volatile(event("volatile", rooms=("room",)))),
        core.begin(Reply(client, "/", Frames('431["reply"]'))),
        core.begin(Acknowledged("/", ("room",), (), lambda session: Frames(f'427["{session.sid}?"]'))),
        core.begin(Leave(session, "room")),
        core.begin(Emit(event("to room again", rooms=("room",)))),
        core.begin(Emit(event("to all"))),
    ]
    await core.held.reached.wait()
    assert client.batches == []
    core.held.release()
    await asyncio.gather(*turns)
    assert client.packets == [
        said("to room", 2),
        said("volatile", 2),
        '431["reply"]',
        '427["s1?"]',
        said("to all", 4),
    ]


async def test_nothing_overtakes_the_commit_that_runs(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    emit = core.begin(Emit(event("stored")))
    await core.held.reached.wait()
    core.dispatcher.enqueue(Volatile(event("volatile")))
    core.dispatcher.enqueue(Reply(client, "/", Frames("43[]")))
    assert client.batches == []
    core.held.release()
    await emit
    assert await client.sent(3) == [said("stored", 1), said("volatile", 1), "43[]"]


async def test_an_unstored_packet_goes_at_once_when_nothing_is_before_it(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    core.dispatcher.enqueue(Volatile(event("volatile")))
    assert client.packets == [said("volatile", 0)]


async def test_an_unstored_event_ends_in_the_present_offset(core: Core) -> None:
    _, client = await core.live()
    for _ in range(3):
        await core.emit()
    await core.dispatcher.submit(Volatile(event("volatile")))
    assert client.packets[-1] == said("volatile", 3)
    assert await texts(core.log) == ['["message","hello"]'] * 3


async def test_without_offsets_no_event_carries_one(tmp_path: Path) -> None:
    async with opened(tmp_path / "events.db") as log:
        dispatcher = Dispatcher(
            log, Registry(), TextCodec(), tail_bytes=1, offsets=False, catch_up=lambda _: None
        )
        assert dispatcher.offset is None


async def test_what_one_batch_has_for_a_connection_is_written_at_once(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    first = core.begin(Emit(event("first")))
    await core.held.reached.wait()
    rest = [core.begin(Emit(event(f"rest {number}"))) for number in range(5)]
    core.held.release()
    await asyncio.gather(first, *rest)
    assert [len(batch) for batch in client.batches] == [1, 5]
    assert len(core.held.committed[-1]) == 5


async def test_a_batch_with_very_much_to_send_lets_others_run_and_keeps_its_order(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "SLICE_BYTES", 1)
    clients = [(await core.live(f"s{number}"))[1] for number in range(3)]
    core.held.hold()
    emits = [core.begin(Emit(event(f"event {number}"))) for number in range(4)]
    await core.held.reached.wait()
    emits += [core.begin(Emit(event(f"event {number}"))) for number in range(4, 8)]
    core.held.release()
    await emits[4]
    assert not emits[7].done()
    core.dispatcher.enqueue(Volatile(event("volatile")))
    await asyncio.gather(*emits)
    for client in clients:
        expected = [said(f"event {number}", number + 1) for number in range(8)]
        assert await client.sent(9) == [*expected, said("volatile", 8)]
        assert len(client.batches) > 4


async def test_a_skipped_session_and_other_namespaces_receive_nothing(core: Core) -> None:
    _, skipped = await core.live("skipped")
    _, other = await core.live("other", namespace="/other")
    _, client = await core.live("client")
    await core.emit("for some", skip=("skipped", "nobody"))
    assert (skipped.packets, other.packets) == ([], [])
    assert client.packets == [said("for some", 1)]


async def test_a_session_in_several_of_the_rooms_receives_an_event_once(core: Core) -> None:
    _, client = await core.live("s1", "a", "b", 42)
    await core.emit("once", "a", "b", 42, "s1", "nobody's")
    assert client.packets == [said("once", 1)]


async def test_text_and_attachments_of_a_binary_event_are_next_to_each_other(core: Core) -> None:
    _, client = await core.live()
    await core.dispatcher.submit(Emit(event("binary", attachments=(b"1", b"2"))), Emit(event("next")))
    assert client.packets == ['452-["message","binary","boot.1"]', b"1", b"2", said("next", 2)]


async def test_saved_data_are_on_disk_and_in_memory(core: Core) -> None:
    session, _ = await core.live()
    await core.dispatcher.submit(Save(session, '{"a":1}'))
    assert session.data == '{"a":1}'
    assert [stored.data for stored in await core.log.load_sessions()] == ['{"a":1}']


# Groups ---------------------------------------------------------------------------------------------


async def test_a_group_is_one_transaction_and_gives_what_its_last_turn_gives(core: Core) -> None:
    session, client = await core.live()
    group = (Emit(event("one")), Join(session, "room"), Emit(event("two", rooms=("room",))))
    assert await core.dispatcher.submit(*group) == "boot.2"
    assert len(core.held.committed[-1]) == 3
    assert client.packets == [said("one", 1), said("two", 2)]


async def test_of_a_group_with_a_bad_turn_nothing_happens_and_the_groups_beside_it_do(core: Core) -> None:
    session, client = await core.live()
    core.held.hold()
    before = core.begin(Emit(event("before")))
    await core.held.reached.wait()
    group = core.begin(
        Emit(event("one")),
        Join(session, "room"),
        Emit(BAD),
        Dismiss(session),
    )
    after = core.begin(Emit(event("after")))
    core.held.release()
    with pytest.raises(StoreRejected):
        await group
    offset = await after
    assert client.packets == [said("before", 1), f'42["message","after","{offset}"]']
    assert session.state is State.LIVE and session.joined == {}
    assert await texts(core.log) == ['["message","before"]', '["message","after"]']
    assert [stored.memberships for stored in await core.log.load_sessions()] == [()]
    await before


async def test_closing_a_room_sees_who_joined_before_it_in_the_queue(core: Core) -> None:
    early, first = await core.live("early", "room")
    late, second = await core.live("late")
    await core.emit("to early", "room")
    core.held.hold()
    turns = [
        core.begin(Join(late, "room")),
        core.begin(CloseRoom("/", "room")),
        core.begin(Emit(event("to nobody", rooms=("room",)))),
        core.begin(Join(late, "room")),
        core.begin(Emit(event("to one", rooms=("room",)))),
    ]
    await core.held.reached.wait()
    core.held.release()
    await asyncio.gather(*turns)
    assert first.packets == [said("to early", 1)] and second.packets == [said("to one", 3)]
    assert (list(early.joined), list(late.joined)) == ([], ["room"])
    stored = {session.sid: session.memberships for session in await core.log.load_sessions()}
    assert [interval.through for interval in stored["early"]] == [1]
    assert [(interval.after, interval.through) for interval in stored["late"]][-1] == (2, None)


async def test_closing_a_room_takes_out_those_who_are_away(core: Core) -> None:
    session, _ = await core.live("s1", "room")
    await core.away(session)
    await core.dispatcher.submit(CloseRoom("/", "room"))
    assert session.joined == {}
    await core.dispatcher.submit(CloseRoom("/", "nobody's"))


# Bounds and the end ---------------------------------------------------------------------------------


async def test_what_the_queue_cannot_hold_is_refused_and_the_rest_is_not_harmed(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "QUEUE_TURNS", 2)
    core.held.hold()
    turns = [core.begin(Emit(event("being committed")))]
    await core.held.reached.wait()
    turns += [core.begin(Emit(event(f"waiting {number}"))) for number in range(2)]
    with pytest.raises(QueueFull, match="2 turns of "):
        await core.emit("too many")
    core.held.release()
    assert await asyncio.gather(*turns) == ["boot.1", "boot.2", "boot.3"]
    assert await core.emit("fits again") == "boot.4"


async def test_very_large_events_that_wait_are_refused_beyond_their_bytes(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "QUEUE_BYTES", 1_000)
    core.held.hold()
    turns = [core.begin(Emit(event("x" * 900)))]
    await core.held.reached.wait()
    turns += [core.begin(Emit(event("x" * 900))) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 turns of 1"):
        await core.emit("too much")
    core.held.release()
    await asyncio.gather(*turns)
    assert await core.emit("fits again") == "boot.4"


async def test_closing_lets_everything_in_the_queue_take_effect_and_nothing_more(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    turns = [core.begin(Emit(event("one"))), core.begin(Emit(event("two")))]
    await core.held.reached.wait()
    turns.append(core.begin(Volatile(event("three"))))
    core.dispatcher.close()
    with pytest.raises(StoreClosed):
        await core.emit("too late")
    with pytest.raises(StoreClosed):
        core.dispatcher.enqueue(Volatile(event("too late")))
    core.held.release()
    await asyncio.gather(*turns)
    assert client.packets == [said("one", 1), said("two", 2), said("three", 2)]


async def test_a_busy_store_does_not_hold_up_the_end(core: Core) -> None:
    core.held.hold()
    emit = core.begin(Emit(event()))
    await core.held.reached.wait()
    core.held.failure = lambda _: StoreBusy()
    core.dispatcher.close()
    core.held.release()
    with pytest.raises(StoreBusy):
        await emit


async def test_when_the_dispatcher_is_cancelled_those_who_wait_hear_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "events.db") as log:
        held = HeldLog(log)
        dispatcher = Dispatcher(
            held, Registry(), TextCodec(), tail_bytes=0, offsets=True, catch_up=lambda _: None
        )
        task, turns = asyncio.create_task(dispatcher.run()), [Emit(event()), Emit(event())]
        held.hold()
        for turn in turns:  # the first is being committed, the second waits
            turn.settled = asyncio.get_running_loop().create_future()
            dispatcher.enqueue(turn)
            await held.reached.wait()
        task.cancel()
        await asyncio.wait([task])
        for turn in turns:
            assert turn.settled is not None and turn.settled.done()
            assert isinstance(turn.settled.exception(), StoreClosed)
        with pytest.raises(StoreClosed):
            await dispatcher.submit(Emit(event()))


@pytest.mark.parametrize("error", [StoreUnavailable(), StoreRejected("a bad change")])
async def test_a_turn_that_nobody_waits_for_is_logged_when_it_fails(
    core: Core, caplog: pytest.LogCaptureFixture, error: StoreError
) -> None:
    core.held.fail_with(error, error)  # for the batch, then for the turn alone
    core.dispatcher.enqueue(Emit(event()))
    await core.emit()
    assert str(error) in caplog.text


# The tail -------------------------------------------------------------------------------------------

SENT = Frames("as it was sent")


def test_the_tail_has_the_events_after_a_number_oldest_first() -> None:
    tail = Tail(4, limit_bytes=1_000)
    for number in (5, 7, 8):
        tail.append(number, event(str(number)), SENT)
    assert [number for number, _, _ in tail.after(4)] == [5, 7, 8]
    assert [number for number, _, _ in tail.after(6)] == [7, 8]
    assert [number for number, _, _ in tail.after(7)] == [8]
    assert [number for number, _, _ in tail.after(8)] == []
    assert tail.begins_after == 4


def test_the_tail_drops_the_oldest_events_beyond_its_bytes() -> None:
    size_bytes = event("x").size_bytes
    tail = Tail(0, limit_bytes=2 * size_bytes)
    for number in range(1, 5):
        tail.append(number, event("x"), SENT)
    assert tail.begins_after == 2 and [number for number, _, _ in tail.after(2)] == [3, 4]
    tail.append(5, event("x", attachments=(b"y" * 2 * size_bytes,)), SENT)
    assert tail.begins_after == 5 and list(tail.after(5)) == []


def test_the_tail_drops_the_oldest_events_beyond_its_number() -> None:
    tail = Tail(0, limit_bytes=1_000_000, limit_events=2)
    for number in range(1, 5):
        tail.append(number, event("x"), SENT)
    assert tail.begins_after == 2 and [number for number, _, _ in tail.after(2)] == [3, 4]
