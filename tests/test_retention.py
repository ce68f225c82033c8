from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from storing import event, opened
from test_adapter import away
from test_dispatch import Core, Recorder, holding, running
from test_transport import Seen, Server, serving, until

from socketio_eventstore.server import retention
from socketio_eventstore.server.recovery import Limits, Recovery, Result
from socketio_eventstore.server.registry import Session, State
from socketio_eventstore.server.retention import ANSWERS_KEPT_SECONDS, Expired, Retention, ServiceClock
from socketio_eventstore.server.session_turns import End, Revoke
from socketio_eventstore.server.turns import Emit
from socketio_eventstore.store.errors import StoreClosed, StoreUnavailable
from socketio_eventstore.store.log import EventLog
from socketio_eventstore.store.model import Answered, Change, SessionEnded

LIMIT_SECONDS = 60.0
NEWEST = 1_000.0
"""When the events of ``storing.event`` were emitted."""


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Kept:
    """The retention of a core, and the clocks that it goes by."""

    def __init__(self, core: Core, expired: Expired) -> None:
        self.core = core
        self.monotonic, self.wall = Clock(), Clock(NEWEST)
        self.seen = Seen()
        recovery = Recovery(core.log, core.registry, Limits(LIMIT_SECONDS, 100, 10_000))

        async def expire(session: Session) -> None:
            self.seen(session.sid)
            await expired(session)

        self.retention = Retention(
            core.log,
            core.dispatcher,
            recovery,
            ServiceClock(0.0, self.monotonic),
            expired=expire,
            interval_seconds=0.0,
            retention_seconds=LIMIT_SECONDS,
            wall_clock=self.wall,
        )

    async def sweep(self) -> int:
        """One sweep, and all that it has begun."""
        pruned = await self.retention.sweep()
        await asyncio.gather(*self.retention._expiring.values())
        return pruned

    def all_events_are_old(self) -> None:
        self.wall.now = NEWEST + LIMIT_SECONDS + 1.0


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    async with running(tmp_path / "events.db") as core:
        yield core


@pytest.fixture(name="kept")
def kept_core(core: Core) -> Kept:
    async def end(session: Session) -> None:
        await core.dispatcher.submit(Revoke(session))

    return Kept(core, end)


async def numbers(log: EventLog) -> list[int]:
    """The events that are there."""
    return [logged.number for logged in await log.read(range(1, log.head + 1))]


async def emit(core: Core, count: int) -> None:
    await core.dispatcher.submit(*(Emit(event()) for _ in range(count)))


# Pruning --------------------------------------------------------------------------------------------


async def test_old_events_go_and_young_ones_stay(core: Core, kept: Kept) -> None:
    await core.log.commit([event(emitted_at=NEWEST - age) for age in (90.0, 61.0, 60.0, 10.0)])
    core.dispatcher.position = core.log.head
    assert await kept.sweep() == 2
    assert await numbers(core.log) == [3, 4]
    kept.wall.now += 1.0
    assert await kept.sweep() == 1


async def test_no_event_goes_that_a_session_may_lack(core: Core, kept: Kept) -> None:
    one, _ = await core.live("one")
    two, _ = await core.live("two")
    await emit(core, 10)
    kept.all_events_are_old()
    one.confirm(7)
    two.confirm(4)
    assert kept.retention.floor(kept.monotonic()) == 4
    assert await kept.sweep() == 4
    assert await numbers(core.log) == [5, 6, 7, 8, 9, 10]
    two.confirm(9)
    assert await kept.sweep() == 3
    assert core.log.pruned_through == 7


@pytest.mark.parametrize("state", [State.CONNECTING, State.REPLAYING, State.LIVE, State.AWAY])
async def test_a_session_in_any_state_keeps_what_it_has_not_confirmed(
    core: Core, kept: Kept, state: State
) -> None:
    await emit(core, 3)
    session = await core.open()
    session.state = state
    await emit(core, 3)
    kept.all_events_are_old()
    await kept.sweep()
    assert await numbers(core.log) == [4, 5, 6]


async def test_without_sessions_everything_old_goes(core: Core, kept: Kept) -> None:
    session, _ = await core.live()
    await emit(core, 5)
    await core.dispatcher.submit(End(session))
    kept.all_events_are_old()
    assert await kept.sweep() == 5 and await numbers(core.log) == []
    assert await core.emit() == "boot.6"


async def test_sessions_that_ended_or_expired_keep_nothing(core: Core, kept: Kept) -> None:
    session, _ = await core.live()
    session.leaving = 1  # its disconnect handler is still running
    await emit(core, 3)
    await core.dispatcher.submit(End(session))
    assert list(core.registry) == [session]
    assert kept.retention.floor(kept.monotonic()) == 3
    gone, _ = await core.live("gone")
    await emit(core, 3)
    await core.away(gone, at=0.0)
    assert kept.retention.floor(kept.monotonic()) == 3
    kept.monotonic.now = LIMIT_SECONDS + 1.0
    assert kept.retention.floor(kept.monotonic()) == 6
    session.leaving = 0


async def test_pruning_goes_in_small_steps(core: Core, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PRUNE_EVENTS", 10)
    await emit(core, 35)
    kept.all_events_are_old()
    steps, prune = [], core.log.prune

    async def noted_prune(**arguments: Any) -> int:
        steps.append(await prune(**arguments))
        return steps[-1]

    monkeypatch.setattr(core.log, "prune", noted_prune)
    assert await kept.sweep() == 35
    assert steps == [10, 10, 10, 5]


async def test_events_that_come_during_a_sweep_stay(core: Core, kept: Kept) -> None:
    await emit(core, 3)
    kept.all_events_are_old()
    sweep = asyncio.create_task(kept.sweep())
    session, connection = await core.live()
    await core.emit("young")
    assert await sweep <= 3
    await core.away(session)
    again = Recorder()
    await core.recover(session, again, cursor=0)
    assert connection.packets == again.packets[1:]


async def test_old_answers_to_clients_are_forgotten(core: Core, kept: Kept) -> None:
    await core.log.commit([Answered("/", "x", "", f"key {at}", "[]", at) for at in (0.0, 100.0)])
    kept.monotonic.now = LIMIT_SECONDS + ANSWERS_KEPT_SECONDS + 50.0
    await kept.sweep()
    assert await core.log.answer("/", "x", "", "key 0.0") is None
    assert await core.log.answer("/", "x", "", "key 100.0") == "[]"


async def test_after_a_restart_nothing_goes_until_the_sessions_have_returned_or_expired(
    tmp_path: Path,
) -> None:
    path = tmp_path / "restarted.db"
    async with running(path, boot="one") as core:
        session, _ = await core.live()
        await core.emit("received")
        session.confirm(1)
        await core.emit("missed")
    async with running(path, boot="two") as core:
        for stored in await core.log.load_sessions():
            core.registry.add(Session.restore(stored, 0.0))

        async def end(session: Session) -> None:
            await core.dispatcher.submit(Revoke(session))

        kept = Kept(core, end)
        kept.all_events_are_old()
        assert await kept.sweep() == 0  # what it had confirmed is not known after a crash
        (restored,) = core.registry
        back = Recorder()
        await core.recover(restored, back, cursor=1)
        assert await back.sent(2) == [back.packets[0], '42["message","missed","one.2"]']
        assert await kept.sweep() == 1
        await core.away(restored, at=0.0)
        kept.monotonic.now = LIMIT_SECONDS + 1.0
        assert await kept.sweep() == 1
        assert kept.seen.all == ["s1"] and await core.log.load_sessions() == []


# Expiry ---------------------------------------------------------------------------------------------


async def test_a_session_that_was_away_for_too_long_is_ended_once(core: Core, kept: Kept) -> None:
    gone, here = (await core.live("gone"))[0], (await core.live("here"))[0]
    await core.away(gone, at=10.0)
    kept.monotonic.now = 10.0 + LIMIT_SECONDS
    await kept.sweep()
    assert kept.seen.all == []
    kept.monotonic.now += 1.0
    await kept.sweep()
    await kept.sweep()
    assert kept.seen.all == ["gone"]
    assert (gone.state, here.state) == (State.ENDED, State.LIVE)
    assert [stored.sid for stored in await core.log.load_sessions()] == ["here"]


async def test_what_failed_is_tried_again_at_the_next_sweep_and_only_then(
    core: Core, caplog: pytest.LogCaptureFixture
) -> None:
    async def expired(session: Session) -> None:
        if len(kept.seen.all) < 3:
            raise ZeroDivisionError
        await core.dispatcher.submit(Revoke(session))

    kept = Kept(core, expired)
    session, _ = await core.live()
    await core.away(session)
    kept.monotonic.now = LIMIT_SECONDS + 1.0
    for count in (1, 2, 3, 3):
        await kept.sweep()
        assert len(kept.seen.all) == count
    assert session.state is State.ENDED
    assert caplog.text.count("has expired but could not be ended") == 2


async def test_a_slow_handler_is_not_called_again_and_holds_up_nothing(core: Core) -> None:
    may_go = asyncio.Event()

    async def expired(session: Session) -> None:
        await may_go.wait()
        await core.dispatcher.submit(Revoke(session))

    kept = Kept(core, expired)
    session, _ = await core.live()
    await emit(core, 3)
    await core.away(session)
    kept.monotonic.now = LIMIT_SECONDS + 1.0
    kept.all_events_are_old()
    assert await kept.retention.sweep() == 3
    assert await kept.retention.sweep() == 0
    assert kept.seen.all == ["s1"]
    may_go.set()
    await kept.sweep()
    assert session.state is State.ENDED


async def test_a_session_that_has_expired_is_not_recovered_while_its_handler_runs(core: Core) -> None:
    may_go = asyncio.Event()

    async def expired(session: Session) -> None:
        await may_go.wait()
        await core.dispatcher.submit(Revoke(session))

    kept = Kept(core, expired)
    session, _ = await core.live()
    await core.away(session)
    kept.monotonic.now = LIMIT_SECONDS + 1.0
    await kept.retention.sweep()
    recovery = Recovery(core.log, core.registry, Limits(LIMIT_SECONDS, 100, 10_000))
    assert await recovery.decide("/", "s1", None, 0, kept.monotonic) is Result.EXPIRED
    may_go.set()
    await kept.sweep()
    assert await recovery.decide("/", "s1", None, 0, kept.monotonic) is Result.UNKNOWN_SESSION


# The task and the clock -----------------------------------------------------------------------------


def test_the_service_clock_goes_on_where_the_last_server_stopped() -> None:
    monotonic = Clock(1_000.0)
    clock = ServiceClock(7.5, monotonic)
    assert clock() == 7.5
    monotonic.now += 2.0
    assert clock() == 9.5


async def test_a_sweep_writes_down_the_service_time(core: Core, kept: Kept, tmp_path: Path) -> None:
    kept.monotonic.now = 12.5
    await kept.sweep()
    async with opened(tmp_path / "events.db") as log:
        assert log.service_time_at_open == 12.5


async def test_a_store_that_is_unavailable_is_swept_again(
    core: Core, kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen, beat = Seen(), core.log.beat

    async def failing_beat(service_time: float) -> None:
        seen("beat")
        if len(seen.all) < 3:
            raise StoreUnavailable("The disk is full.")
        await beat(service_time)

    monkeypatch.setattr(core.log, "beat", failing_beat)
    task = asyncio.create_task(kept.retention.run())
    await seen.until(4)
    task.cancel()
    await asyncio.wait([task])
    assert caplog.text.count("Pruning did not work. The event store cannot be written") == 2


# With the handlers of an application ----------------------------------------------------------------


def ended(changes: Sequence[Change]) -> bool:
    return any(isinstance(change, SessionEnded) for change in changes)


async def session_of(server: Server, sid: str) -> Session:
    session = (await server.manager.start()).registry.get("/", sid)
    assert session is not None
    return session


async def test_the_handlers_emits_and_the_end_of_the_session_are_one_transaction(tmp_path: Path) -> None:
    path, seen = tmp_path / "events.db", Seen()

    async def session_expired(sid: str, data: Any) -> None:
        seen(sid, data, server.sio.rooms(sid))
        await server.sio.emit("left", data["name"])
        await server.sio.emit("left, too", to="room")

    async with serving(path, register=lambda sio: sio.on("session_expired", session_expired)) as server:
        client, witness = await server.client(), await server.client()
        await server.sio.save_session(client.sid, {"name": "Ada"})
        session = await session_of(server, client.sid)
        async with holding(server) as held:
            await away(server, client)
            held.failure = lambda changes: StoreUnavailable() if ended(changes) else None
            with pytest.raises(StoreUnavailable):
                await server.sio.session_expired(session)
            assert server.sio.rooms(client.sid) == [client.sid]
            runtime = await server.manager.start()
            assert runtime.log.head == 0
            held.fail_with()
            await server.sio.session_expired(session)
            assert len(held.committed[-1]) == 3
        assert (await witness.event())[:2] == ["left", "Ada"]
        assert seen.all == [(client.sid, {"name": "Ada"}, [client.sid])] * 2
        assert session.state is State.ENDED and server.sio.rooms(client.sid) == []
    async with opened(path) as log:
        assert log.head == 2 and [stored.sid for stored in await log.load_sessions()] == [witness.sid]


async def test_a_handler_that_fails_leaves_its_session_and_nothing_of_what_it_emitted(tmp_path: Path) -> None:
    async def session_expired(_sid: str, _data: Any) -> None:
        await server.sio.emit("half done")
        raise ZeroDivisionError

    path = tmp_path / "events.db"
    async with serving(path, register=lambda sio: sio.on("session_expired", session_expired)) as server:
        client = await server.client()
        session = await session_of(server, client.sid)
        with pytest.raises(ZeroDivisionError):
            await server.sio.session_expired(session)
        assert session.state is State.LIVE
        assert (await server.manager.start()).log.head == 0


async def test_sessions_expire_by_themselves_also_after_a_restart(tmp_path: Path) -> None:
    path, seen = tmp_path / "events.db", Seen()

    def register(sio: Any) -> None:
        sio.on("session_expired", seen)

    async with serving(path, register=register) as server:
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await server.sio.save_session(client.sid, {"name": "Ada"})
    assert seen.all == []
    recovery = {"prune_interval": 0.01, "max_disconnection_duration": 0.02}
    async with serving(path, register=register, recovery=recovery) as server:
        await server.sio.start()
        assert await seen.until(1) == [(client.sid, {"name": "Ada"})]
        runtime = await server.manager.start()
        await until(lambda: not list(runtime.registry))
        again = await server.socket()
        assert (await again.connect(auth={"pid": pid}))["sid"] != client.sid
        assert runtime.recovery.results == {Result.UNKNOWN_SESSION: 1}
        assert len(seen.all) == 1


async def test_a_client_cannot_raise_the_event_itself(tmp_path: Path) -> None:
    seen = Seen()

    def register(sio: Any) -> None:
        sio.on("session_expired", lambda *what: seen(what))

    async with serving(tmp_path / "events.db", register=register) as server:
        client = await server.client()
        await client.send('42["session_expired",{}]')
        assert await client.rest() == [] and seen.all == []


async def test_a_shutdown_in_the_middle_of_a_handler_leaves_its_session_for_the_next_start(
    tmp_path: Path,
) -> None:
    path, seen = tmp_path / "events.db", Seen()

    async def session_expired(sid: str, _data: Any) -> None:
        seen(sid)
        await asyncio.Event().wait()

    def register(sio: Any) -> None:
        sio.on("session_expired", session_expired)

    async with serving(path) as server:
        client = await server.client()
    recovery = {"prune_interval": 0.01, "max_disconnection_duration": 0.02}
    async with serving(path, register=register, recovery=recovery) as server:
        await server.sio.start()
        await seen.until(1)
    async with opened(path) as log:
        assert [stored.sid for stored in await log.load_sessions()] == [client.sid]
    with pytest.raises(StoreClosed):
        await log.counts()
