"""The table of epochs is bounded, and every epoch of a valid offset stays."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from socketio_eventlog.errors import OffsetUnknown
from socketio_eventlog.records import Pruned, SessionOpened
from socketio_eventlog.sqlite import start
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits, hash_pid
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import Session
from support.storing import BEAT, Clock, commit, ended, event, opened, session, sqlite, stored_sessions


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(start, "EPOCHS_KEPT", 2)
    return tmp_path / "events.db"


async def start_as(path: Path, *epochs: str) -> None:
    for epoch in epochs:
        async with opened(path, new_epoch=partial(str, epoch)):
            pass


def kept(path: Path) -> list[str]:
    return sqlite(path, "SELECT boot FROM boots ORDER BY number").split()


async def test_epochs_without_references_are_deleted(path: Path) -> None:
    """An epoch without events and sessions is deleted, and its offsets are then unknown."""
    clock = Clock()
    async with opened(path, monotonic=clock, new_epoch=lambda: "a") as log:
        clock.now = 1.5
        await commit(log, [session("s1"), event(), event(), ended(), BEAT])
    await start_as(path, "b", "c", "d")
    assert kept(path) == ["a", "b", "c", "d"]
    async with opened(path, new_epoch=lambda: "e") as log:
        await commit(log, [Pruned(2)])
    await start_as(path, "f")
    assert kept(path) == ["e", "f"]
    async with opened(path, new_epoch=lambda: "g") as log:
        assert (log.head, log.pruned_through, (await log.join()).uptime) == (2, 2, 1.5)
        assert await commit(log, [event()]) == [3]
        assert str(log.offset_of(3)) == "g.3"
        with pytest.raises(OffsetUnknown):
            log.locate("a.2")


async def test_the_epoch_of_the_oldest_event_is_kept(path: Path) -> None:
    """The epoch of the oldest event stays, with all later epochs."""
    await start_as(path, "a")
    async with opened(path, new_epoch=lambda: "b") as log:
        await commit(log, [event(), event()])
    await start_as(path, "c", "d", "e", "f")
    assert kept(path) == ["b", "c", "d", "e", "f"]
    async with opened(path, new_epoch=lambda: "g") as log:
        await commit(log, [event()])
        assert [str(log.offset_of(sequence)) for sequence in (1, 2, 3)] == ["b.1", "b.2", "g.3"]
        assert log.locate("b.2").sequence == 2


async def test_a_session_recovers_after_many_epochs(
    path: Path,
) -> None:
    """A session recovers with every offset that its client can have, from however old an epoch."""
    opening = SessionOpened("/", "s1", hash_pid("s1"), "a.1", 1_000.0)
    async with opened(path, new_epoch=lambda: "a") as log:
        await commit(log, [event()])
    async with opened(path, new_epoch=lambda: "b") as log:
        await commit(log, [opening, event(), event()])
    async with opened(path, new_epoch=lambda: "c") as log:
        await commit(log, [Pruned(3)])
        await commit(log, [event()])
        await commit(log, [Pruned(4)])
    await start_as(path, "d", "e", "f")
    async with opened(path, new_epoch=lambda: "g") as log:
        assert kept(path) == ["b", "c", "d", "e", "f", "g"]
        registry = Registry()
        for stored in await stored_sessions(log):
            registry.add(Session.restore(stored))
        recovery = Recovery(log, registry, RecoveryLimits(60.0, 100, 10_000))
        for offset in (None, "a.1", "b.1", "b.2", "b.3", "c.3", "c.4", "d.4", "g.4"):
            found = recovery.find("/", "s1", offset, 0.0)
            assert isinstance(found, Session), (offset, found)
            assert await recovery.decide(found, offset, log.head, lambda: 0.0) == 4, offset
