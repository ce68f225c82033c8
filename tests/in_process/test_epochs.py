"""The table of epochs is bounded, and every epoch of a valid offset stays."""

from __future__ import annotations

from functools import partial

import pytest

from socketio_eventlog.changes import Pruned
from socketio_eventlog.errors import OffsetUnknown
from socketio_eventlog.session_changes import SessionOpened
from socketio_eventlog.sqlite import start
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits, hash_pid
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import Session
from support.log_engines import PostgresStore, Store
from support.storing import BEAT, commit, ended, event, session, stored_sessions


@pytest.fixture
def few_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that keeps two epochs beyond those that it needs."""
    if isinstance(store, PostgresStore):
        source = store.sql("SELECT pg_get_functiondef('eventstore.record_epoch'::regproc)")
        assert "- 1000" in source
        store.sql(source.replace("- 1000", "- 2"))
    monkeypatch.setattr(start, "EPOCHS_KEPT", 2)
    return store


async def start_as(store: Store, *epochs: str) -> None:
    for epoch in epochs:
        async with store.open(new_epoch=partial(str, epoch)):
            pass


def kept(store: Store) -> list[str]:
    columns = "epoch FROM epochs" if isinstance(store, PostgresStore) else "boot FROM boots"
    return store.sql(f"SELECT {columns} ORDER BY number").split()


async def test_epochs_without_references_are_deleted(few_kept: Store) -> None:
    """An epoch without events and sessions is deleted, and its offsets are then unknown."""
    clock = few_kept.clock
    async with few_kept.open(new_epoch=lambda: "a") as log:
        clock.now = 1.5
        await commit(log, [session("s1"), event(), event(), ended(), BEAT])
    await start_as(few_kept, "b", "c", "d")
    assert kept(few_kept) == ["a", "b", "c", "d"]
    async with few_kept.open(new_epoch=lambda: "e") as log:
        await commit(log, [Pruned(2)])
    await start_as(few_kept, "f")
    assert kept(few_kept) == ["e", "f"]
    async with few_kept.open(new_epoch=lambda: "g") as log:
        assert (log.head, log.pruned_through, (await log.join()).uptime) == (2, 2, 1.5)
        assert await commit(log, [event()]) == [3]
        assert str(log.offset_of(3)) == "g.3"
        with pytest.raises(OffsetUnknown):
            log.locate("a.2")


async def test_the_epoch_of_the_oldest_event_is_kept(few_kept: Store) -> None:
    """The epoch of the oldest event stays, with all later epochs."""
    await start_as(few_kept, "a")
    async with few_kept.open(new_epoch=lambda: "b") as log:
        await commit(log, [event(), event()])
    await start_as(few_kept, "c", "d", "e", "f")
    assert kept(few_kept) == ["b", "c", "d", "e", "f"]
    async with few_kept.open(new_epoch=lambda: "g") as log:
        await commit(log, [event()])
        assert [str(log.offset_of(sequence)) for sequence in (1, 2, 3)] == ["b.1", "b.2", "g.3"]
        assert log.locate("b.2").sequence == 2


async def test_a_session_recovers_after_many_epochs(
    few_kept: Store,
) -> None:
    """A session recovers with every offset that its client can have, from however old an epoch."""
    opening = SessionOpened("/", "s1", hash_pid("s1"), "a.1", 1_000.0)
    async with few_kept.open(new_epoch=lambda: "a") as log:
        await commit(log, [event()])
    async with few_kept.open(new_epoch=lambda: "b") as log:
        await commit(log, [opening, event(), event()])
    async with few_kept.open(new_epoch=lambda: "c") as log:
        await commit(log, [Pruned(3)])
        await commit(log, [event()])
        await commit(log, [Pruned(4)])
    await start_as(few_kept, "d", "e", "f")
    async with few_kept.open(new_epoch=lambda: "g") as log:
        assert kept(few_kept) == ["b", "c", "d", "e", "f", "g"]
        registry = Registry()
        for stored in await stored_sessions(log):
            registry.add(Session.restore(stored))
        recovery = Recovery(log, registry, RecoveryLimits(60.0, 100, 10_000))
        for offset in (None, "a.1", "b.1", "b.2", "b.3", "c.3", "c.4", "d.4", "g.4"):
            found = recovery.find("/", "s1", offset, 0.0)
            assert isinstance(found, Session), (offset, found)
            assert await recovery.decide(found, offset, log.head, lambda: 0.0) == 4, offset
