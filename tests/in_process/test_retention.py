from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from socketio_eventlog.changes import Change, EventHandled, Pruned
from socketio_eventlog.errors import StoreUnavailable
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventlog.uptime import LONGEST_STEP_SECONDS
from socketio_eventstore.core import retention
from socketio_eventstore.core.operations import Emit, StoreIdempotencyKey
from socketio_eventstore.core.options import Options
from socketio_eventstore.core.retention import IDEMPOTENCY_KEYS_KEPT_SECONDS
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import State
from socketio_eventstore.core.slices import SLICE_LENGTH
from support.core import Core, Recorder
from support.embedded import Seen
from support.retaining import LIMIT_SECONDS, Kept, emit, keeping, sequences
from support.storing import event, stored_sessions


@pytest.fixture(name="kept")
async def kept_core(path: Path) -> AsyncIterator[Kept]:
    async with keeping(path) as kept:
        yield kept


@pytest.fixture
def core(kept: Kept) -> Core:
    return kept.core


# Pruning --------------------------------------------------------------------------------------------


async def test_old_events_are_pruned(core: Core, kept: Kept) -> None:
    """Events older than the retention are pruned; younger events stay."""
    await emit(core, 2)
    await kept.pass_time(20.0)
    await emit(core, 2)
    await kept.pass_time(LIMIT_SECONDS - 21.0)
    assert await kept.sweep() == 0
    await kept.pass_time(1.0)
    assert await kept.sweep() == 2
    assert await sequences(core.log) == [3, 4]
    await kept.pass_time(20.0)
    assert await kept.sweep() == 2


async def test_time_of_an_event_does_not_matter(core: Core, kept: Kept) -> None:
    """Events are as old as the uptime since their emit, whatever time their rows have."""
    for age in (-1e9, 0.0, 1e9):
        await core.queue.submit(Emit(event(emitted_at=age)))
    await kept.pass_time(LIMIT_SECONDS - 1.0)
    assert await kept.sweep() == 0
    await kept.pass_time(1.0)
    assert await kept.sweep() == 3


async def test_unconfirmed_events_are_not_pruned(core: Core, kept: Kept) -> None:
    """Events that a session has not confirmed are not pruned."""
    one, _ = await core.live("one")
    two, _ = await core.live("two")
    await emit(core, 10)
    await kept.all_events_are_old()
    one.confirm(7)
    two.confirm(4)
    assert await kept.retention.floor(kept.uptime) == 4
    assert await kept.sweep() == 4
    assert await sequences(core.log) == [5, 6, 7, 8, 9, 10]
    two.confirm(9)
    assert await kept.sweep() == 3
    assert core.log.pruned_through == 7


async def test_a_sweep_over_many_sessions_lets_others_run(core: Core, kept: Kept) -> None:
    """The looks at all sessions are divided: with many of them, the event loop serves others in between."""
    session = await core.open()
    await emit(core, 3)
    await kept.all_events_are_old()
    many = range(2 * SLICE_LENGTH)
    core.registry.namespaces["/many"] = {str(number): session for number in many}
    rounds: list[int] = []
    for look in (kept.retention.floor(kept.uptime), kept.retention.expiry.start()):
        asyncio.get_running_loop().call_soon(rounds.append, 1)
        await look
    assert len(rounds) == 2
    del core.registry.namespaces["/many"]


@pytest.mark.parametrize("state", [State.CONNECTING, State.REPLAYING, State.LIVE, State.AWAY])
async def test_session_in_any_state_limits_pruning(core: Core, kept: Kept, state: State) -> None:
    """A session in any state keeps the events that it has not confirmed."""
    await emit(core, 3)
    session = await core.open()
    session.state = state
    await emit(core, 3)
    await kept.all_events_are_old()
    await kept.sweep()
    assert await sequences(core.log) == [4, 5, 6]


async def test_prune_ends_no_session(core: Core, kept: Kept) -> None:
    """A pruning by hand deletes old events, and leaves expired sessions to the next sweep."""
    session = await core.open()
    await emit(core, 3)
    session.state = State.AWAY
    session.node, session.away_since = None, kept.uptime
    await kept.all_events_are_old()
    await kept.pass_time(1.0)
    assert await kept.retention.prune() == 3 and await kept.retention.prune() == 0
    assert not kept.retention.expiry.running and kept.core.registry.get("/", session.sid) is session


async def test_without_sessions_all_old_events_are_pruned(core: Core, kept: Kept) -> None:
    """Without sessions all old events are pruned."""
    session, _ = await core.live()
    await emit(core, 5)
    await core.queue.submit(EndSession(session, SessionEnd.REVOKED))
    await kept.all_events_are_old()
    assert await kept.sweep() == 5 and await sequences(core.log) == []
    assert await core.emit() == "boot.6"


async def test_ended_and_expired_sessions_keep_no_events(core: Core, kept: Kept) -> None:
    """Ended and expired sessions keep no events from pruning."""
    session, _ = await core.live()
    session.running_disconnect_handlers = 1  # its disconnect handler is still running
    await emit(core, 3)
    await core.queue.submit(EndSession(session, SessionEnd.REVOKED))
    assert list(core.registry) == [session]
    assert await kept.retention.floor(kept.uptime) == 3
    gone, _ = await core.live("gone")
    await emit(core, 3)
    await core.away(gone)
    assert await kept.retention.floor(kept.uptime) == 3
    await kept.pass_time(LIMIT_SECONDS + 1.0)
    assert await kept.retention.floor(kept.uptime) == 6
    session.running_disconnect_handlers = 0


async def test_pruning_works_in_chunks(core: Core, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning deletes a limited chunk of events at a time."""
    monkeypatch.setattr(retention, "PRUNE_EVENTS", 10)
    await emit(core, 35)
    await kept.all_events_are_old()
    assert await kept.sweep() == 35
    changes = [change for transaction in core.commits.transactions for change in transaction]
    assert [change.through for change in changes if isinstance(change, Pruned)] == [10, 20, 30, 35]


async def test_events_emitted_during_a_sweep_stay(core: Core, kept: Kept) -> None:
    """Events that are emitted during a sweep stay."""
    await emit(core, 3)
    await kept.all_events_are_old()
    sweep = asyncio.create_task(kept.sweep())
    session, connection = await core.live()
    await core.emit("young")
    assert await sweep <= 3
    await core.away(session)
    again = Recorder()
    await core.recover(session, again, cursor=0)
    assert connection.packets == again.packets[1:]


async def test_events_stay_for_the_retention(path: Path) -> None:
    """Events stay for the retention, and idempotency keys for their own time."""
    keys_kept = LIMIT_SECONDS + IDEMPOTENCY_KEYS_KEPT_SECONDS
    async with keeping(path, retention_seconds=keys_kept + 100.0) as kept:
        core = kept.core
        await core.queue.submit(StoreIdempotencyKey(EventHandled("/", "x", "", "key", "[]")))
        await emit(core, 3)
        await kept.pass_time(keys_kept - 1.0)
        assert await kept.sweep() == 0
        assert await core.log.acknowledgement("/", "x", "", "key") == "[]"
        await kept.pass_time(2.0)
        assert await kept.sweep() == 0
        assert await core.log.acknowledgement("/", "x", "", "key") is None
        await kept.pass_time(100.0)
        assert await kept.sweep() == 3


def test_retention_of_the_options() -> None:
    """The retention is at least the disconnection duration, and a smaller one is an error."""
    assert Options(path=None, max_disconnection_duration=7.0).event_retention == 7.0
    assert Options(path=None, max_disconnection_duration=7.0, retention=8.0).event_retention == 8.0
    with pytest.raises(ValueError, match=r"retention = 6 is smaller than max_disconnection_duration = 7"):
        Options(path=None, max_disconnection_duration=7.0, retention=6.0)


async def test_old_idempotency_keys_are_pruned(core: Core, kept: Kept) -> None:
    """Old idempotency keys are pruned."""
    for key in ("old", "young"):
        await core.queue.submit(StoreIdempotencyKey(EventHandled("/", "x", "", key, "[]")))
        await kept.pass_time(100.0)
    await kept.pass_time(LIMIT_SECONDS + IDEMPOTENCY_KEYS_KEPT_SECONDS - 150.0)
    await kept.sweep()
    assert await core.log.acknowledgement("/", "x", "", "old") is None
    assert await core.log.acknowledgement("/", "x", "", "young") == "[]"


async def test_restart_keeps_events_of_stored_sessions(
    tmp_path: Path,
) -> None:
    """After a restart events stay until the stored sessions have returned or expired."""
    path = tmp_path / "restarted.db"
    async with keeping(path, epoch="one") as kept:
        core = kept.core
        session, _ = await core.live()
        await core.emit("received")
        session.confirm(1)
        await core.emit("missed")
    async with keeping(path, epoch="two") as kept:
        core = kept.core
        await kept.pass_time(LIMIT_SECONDS - 1.0)
        assert await kept.sweep() == 0  # its confirmed position is not known after a crash
        (restored,) = core.registry
        back = Recorder()
        await core.recover(restored, back, cursor=1)
        assert await back.sent(2) == [back.packets[0], '42["message","missed","one.2"]']
        restored.confirm(1)
        await kept.pass_time(1.0)
        assert await kept.sweep() == 1
        await core.away(restored)
        await kept.pass_time(LIMIT_SECONDS + 1.0)
        assert await kept.sweep() == 1
        assert kept.seen.all == ["s1"] and await stored_sessions(core.log) == []


# The task and the clock -----------------------------------------------------------------------------


async def test_uptime_continues_after_a_restart(path: Path) -> None:
    """The uptime continues where the last server stopped; the events grow older without a break."""
    async with keeping(path) as kept:
        await emit(kept.core, 3)
        await kept.pass_time(LIMIT_SECONDS - 10.0)
        await kept.sweep()
    async with keeping(path, epoch="later") as kept:
        assert kept.uptime == LIMIT_SECONDS - 10.0
        await kept.pass_time(9.0)
        assert await kept.sweep() == 0
        await kept.pass_time(1.0)
        assert await kept.sweep() == 3


async def test_time_without_heartbeats_does_not_count(core: Core, kept: Kept) -> None:
    """A server that writes nothing for long, as after a SIGSTOP, expires and prunes nothing for it."""
    session, _ = await core.live()
    await core.away(session)
    await emit(core, 3)
    kept.stand_still(100 * LIMIT_SECONDS)
    assert await kept.sweep() == 0
    assert kept.uptime <= LONGEST_STEP_SECONDS
    assert kept.seen.all == [] and session.state is State.AWAY


async def test_failed_sweep_is_repeated(core: Core, kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """A sweep that fails is logged and repeated."""
    seen = Seen()

    def failure(_: Sequence[Change]) -> StoreUnavailable | None:
        seen("append")
        return StoreUnavailable("The disk is full.") if len(seen.all) < 3 else None

    core.commits.failure = failure
    task = asyncio.create_task(kept.retention.run())
    await seen.until(4)
    task.cancel()
    await asyncio.wait([task])
    pruning = [text for text in caplog.messages if "Pruning did not work" in text]
    assert len(pruning) == 2 and pruning[0].startswith("Pruning did not work. The event store cannot be")
    assert pruning[1].startswith("Ended after 2 times: ")
