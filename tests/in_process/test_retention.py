from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from socketio_eventlog.errors import StoreUnavailable
from socketio_eventlog.records import EventHandled
from socketio_eventstore.core import retention
from socketio_eventstore.core.options import Options
from socketio_eventstore.core.retention import IDEMPOTENCY_KEYS_KEPT_SECONDS, UptimeClock
from socketio_eventstore.core.session_operations import EndSession, RevokeSession
from socketio_eventstore.core.sessions import Session, State
from support.core import Core, Recorder, running
from support.embedded import Seen
from support.retaining import LIMIT_SECONDS, NEWEST, Clock, Kept, emit, ending_expired_sessions, sequences
from support.storing import event, opened


@pytest.fixture(name="kept")
def kept_core(core: Core) -> Kept:
    return ending_expired_sessions(core)


# Pruning --------------------------------------------------------------------------------------------


async def test_old_events_are_pruned(core: Core, kept: Kept) -> None:
    """Events older than the retention are pruned; younger events stay."""
    await core.log.commit([event(emitted_at=NEWEST - age) for age in (90.0, 61.0, 60.0, 10.0)])
    core.queue.context.recent_events.position = core.log.head
    assert await kept.sweep() == 2
    assert await sequences(core.log) == [3, 4]
    kept.wall.now += 1.0
    assert await kept.sweep() == 1


async def test_unconfirmed_events_are_not_pruned(core: Core, kept: Kept) -> None:
    """Events that a session has not confirmed are not pruned."""
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
async def test_session_in_any_state_limits_pruning(core: Core, kept: Kept, state: State) -> None:
    """A session in any state keeps the events that it has not confirmed."""
    await emit(core, 3)
    session = await core.open()
    session.state = state
    await emit(core, 3)
    kept.all_events_are_old()
    await kept.sweep()
    assert await sequences(core.log) == [4, 5, 6]


async def test_without_sessions_all_old_events_are_pruned(core: Core, kept: Kept) -> None:
    """Without sessions all old events are pruned."""
    session, _ = await core.live()
    await emit(core, 5)
    await core.queue.submit(EndSession(session))
    kept.all_events_are_old()
    assert await kept.sweep() == 5 and await sequences(core.log) == []
    assert await core.emit() == "boot.6"


async def test_ended_and_expired_sessions_keep_no_events(core: Core, kept: Kept) -> None:
    """Ended and expired sessions keep no events from pruning."""
    session, _ = await core.live()
    session.running_disconnect_handlers = 1  # its disconnect handler is still running
    await emit(core, 3)
    await core.queue.submit(EndSession(session))
    assert list(core.registry) == [session]
    assert kept.retention.floor(kept.monotonic()) == 3
    gone, _ = await core.live("gone")
    await emit(core, 3)
    await core.away(gone, at=0.0)
    assert kept.retention.floor(kept.monotonic()) == 3
    kept.monotonic.now = LIMIT_SECONDS + 1.0
    assert kept.retention.floor(kept.monotonic()) == 6
    session.running_disconnect_handlers = 0


async def test_pruning_works_in_chunks(core: Core, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning deletes a limited chunk of events at a time."""
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


async def test_events_emitted_during_a_sweep_stay(core: Core, kept: Kept) -> None:
    """Events that are emitted during a sweep stay."""
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


async def test_events_stay_for_the_retention(core: Core) -> None:
    """Events stay for the retention, and idempotency keys for their own time."""
    kept = Kept(core, lambda _: asyncio.sleep(0), retention_seconds=100_000.0)
    await core.log.commit([EventHandled("/", "x", "", "key", "[]", 0.0)])
    await emit(core, 3)
    kept.wall.now = NEWEST + 100_000.0
    kept.monotonic.now = LIMIT_SECONDS + IDEMPOTENCY_KEYS_KEPT_SECONDS - 1.0
    assert await kept.sweep() == 0
    assert await core.log.acknowledgement("/", "x", "", "key") == "[]"
    kept.monotonic.now += 2.0
    assert await kept.sweep() == 0
    assert await core.log.acknowledgement("/", "x", "", "key") is None
    kept.wall.now += 1.0
    assert await kept.sweep() == 3


def test_retention_of_the_options() -> None:
    """The retention is at least the disconnection duration, and a smaller one is an error."""
    assert Options(path=None, max_disconnection_duration=7.0).event_retention == 7.0
    assert Options(path=None, max_disconnection_duration=7.0, retention=8.0).event_retention == 8.0
    with pytest.raises(ValueError, match=r"retention = 6 is smaller than max_disconnection_duration = 7"):
        Options(path=None, max_disconnection_duration=7.0, retention=6.0)


async def test_old_idempotency_keys_are_pruned(core: Core, kept: Kept) -> None:
    """Old idempotency keys are pruned."""
    await core.log.commit([EventHandled("/", "x", "", f"key {at}", "[]", at) for at in (0.0, 100.0)])
    kept.monotonic.now = LIMIT_SECONDS + IDEMPOTENCY_KEYS_KEPT_SECONDS + 50.0
    await kept.sweep()
    assert await core.log.acknowledgement("/", "x", "", "key 0.0") is None
    assert await core.log.acknowledgement("/", "x", "", "key 100.0") == "[]"


async def test_restart_keeps_events_of_stored_sessions(
    tmp_path: Path,
) -> None:
    """After a restart events stay until the stored sessions have returned or expired."""
    path = tmp_path / "restarted.db"
    async with running(path, epoch="one") as core:
        session, _ = await core.live()
        await core.emit("received")
        session.confirm(1)
        await core.emit("missed")
    async with running(path, epoch="two") as core:
        for stored in await core.log.load_sessions():
            core.registry.add(Session.restore(stored, 0.0))

        async def end(session: Session) -> None:
            await core.queue.submit(RevokeSession(session))

        kept = Kept(core, end)
        kept.all_events_are_old()
        assert await kept.sweep() == 0  # its confirmed position is not known after a crash
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


def test_uptime_clock_continues_after_a_restart() -> None:
    """The uptime clock continues where the last server stopped."""
    monotonic = Clock(1_000.0)
    clock = UptimeClock(7.5, monotonic)
    assert clock() == 7.5
    monotonic.now += 2.0
    assert clock() == 9.5


async def test_sweep_stores_the_uptime(core: Core, kept: Kept, tmp_path: Path) -> None:
    """A sweep stores the uptime."""
    kept.monotonic.now = 12.5
    await kept.sweep()
    await core.log.close()
    async with opened(tmp_path / "events.db") as log:
        assert log.uptime_at_open == 12.5


async def test_failed_sweep_is_repeated(
    core: Core, kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sweep that fails is logged and repeated."""
    seen, heartbeat = Seen(), core.log.heartbeat

    async def failing_heartbeat(uptime: float) -> None:
        seen("heartbeat")
        if len(seen.all) < 3:
            raise StoreUnavailable("The disk is full.")
        await heartbeat(uptime)

    monkeypatch.setattr(core.log, "heartbeat", failing_heartbeat)
    task = asyncio.create_task(kept.retention.run())
    await seen.until(4)
    task.cancel()
    await asyncio.wait([task])
    pruning = [text for text in caplog.messages if "Pruning did not work" in text]
    assert len(pruning) == 2 and pruning[0].startswith("Pruning did not work. The event store cannot be")
    assert pruning[1].startswith("Ended after 2 times: ")
