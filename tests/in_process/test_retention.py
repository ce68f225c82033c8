from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from socketio_eventlog.errors import StoreUnavailable
from socketio_eventlog.records import EventHandled
from socketio_eventstore.core import retention
from socketio_eventstore.core.retention import IDEMPOTENCY_KEYS_KEPT_SECONDS, UptimeClock
from socketio_eventstore.core.session_operations import EndSession, RevokeSession
from socketio_eventstore.core.sessions import Session, State
from support.core import Core, Recorder, running
from support.embedded import Seen
from support.retaining import LIMIT_SECONDS, NEWEST, Clock, Kept, emit, ending_who_has_expired, sequences
from support.storing import event, opened


@pytest.fixture(name="kept")
def kept_core(core: Core) -> Kept:
    return ending_who_has_expired(core)


# Pruning --------------------------------------------------------------------------------------------


async def test_old_events_go_and_young_ones_stay(core: Core, kept: Kept) -> None:
    await core.log.commit([event(emitted_at=NEWEST - age) for age in (90.0, 61.0, 60.0, 10.0)])
    core.dispatcher.position = core.log.head
    assert await kept.sweep() == 2
    assert await sequences(core.log) == [3, 4]
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
    assert await sequences(core.log) == [5, 6, 7, 8, 9, 10]
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
    assert await sequences(core.log) == [4, 5, 6]


async def test_without_sessions_everything_old_goes(core: Core, kept: Kept) -> None:
    session, _ = await core.live()
    await emit(core, 5)
    await core.dispatcher.submit(EndSession(session))
    kept.all_events_are_old()
    assert await kept.sweep() == 5 and await sequences(core.log) == []
    assert await core.emit() == "boot.6"


async def test_sessions_that_ended_or_expired_keep_nothing(core: Core, kept: Kept) -> None:
    session, _ = await core.live()
    session.running_disconnect_handlers = 1  # its disconnect handler is still running
    await emit(core, 3)
    await core.dispatcher.submit(EndSession(session))
    assert list(core.registry) == [session]
    assert kept.retention.floor(kept.monotonic()) == 3
    gone, _ = await core.live("gone")
    await emit(core, 3)
    await core.away(gone, at=0.0)
    assert kept.retention.floor(kept.monotonic()) == 3
    kept.monotonic.now = LIMIT_SECONDS + 1.0
    assert kept.retention.floor(kept.monotonic()) == 6
    session.running_disconnect_handlers = 0


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
    await core.log.commit([EventHandled("/", "x", "", f"key {at}", "[]", at) for at in (0.0, 100.0)])
    kept.monotonic.now = LIMIT_SECONDS + IDEMPOTENCY_KEYS_KEPT_SECONDS + 50.0
    await kept.sweep()
    assert await core.log.acknowledgement("/", "x", "", "key 0.0") is None
    assert await core.log.acknowledgement("/", "x", "", "key 100.0") == "[]"


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
            await core.dispatcher.submit(RevokeSession(session))

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


# The task and the clock -----------------------------------------------------------------------------


def test_the_service_clock_goes_on_where_the_last_server_stopped() -> None:
    monotonic = Clock(1_000.0)
    clock = UptimeClock(7.5, monotonic)
    assert clock() == 7.5
    monotonic.now += 2.0
    assert clock() == 9.5


async def test_a_sweep_writes_down_the_service_time(core: Core, kept: Kept, tmp_path: Path) -> None:
    kept.monotonic.now = 12.5
    await kept.sweep()
    await core.log.close()
    async with opened(tmp_path / "events.db") as log:
        assert log.uptime_at_open == 12.5


async def test_a_store_that_is_unavailable_is_swept_again(
    core: Core, kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen, beat = Seen(), core.log.heartbeat

    async def failing_beat(service_time: float) -> None:
        seen("beat")
        if len(seen.all) < 3:
            raise StoreUnavailable("The disk is full.")
        await beat(service_time)

    monkeypatch.setattr(core.log, "heartbeat", failing_beat)
    task = asyncio.create_task(kept.retention.run())
    await seen.until(4)
    task.cancel()
    await asyncio.wait([task])
    assert caplog.text.count("Pruning did not work. The event store cannot be written") == 2
