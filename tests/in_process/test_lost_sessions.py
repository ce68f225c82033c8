"""The sessions that lack changes, which the database has lost, end in steps."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from socketio_eventlog.changed_sessions import ChangedSessions, Shared
from socketio_eventlog.changes import Batch, Committed
from socketio_eventlog.errors import StoreClosed, StoreUnavailable
from socketio_eventlog.session_changes import DataSaved
from socketio_eventstore.core import lost_changes
from socketio_eventstore.core.lost_changes import LostSessions
from socketio_eventstore.core.sessions import Session, State
from support.core import Core, running
from support.embedded import until
from support.in_process_nodes import nodes


class Rounds:
    """Counts the rounds of the event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._next()

    def _next(self) -> None:
        self.count += 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


def life(core: Core, lost: Sequence[Session], epoch: str = "boot") -> Any:
    """A life of a node, as far as the sessions that lack changes need it; the changes were in an epoch."""
    former, changed = (ChangedSessions([(epoch, 1)], (1, b"1")) for _ in range(2))
    former.given_out((9, b"9"), 0.0)
    changes = [Committed(DataSaved("/", session.sid, "{}"), 1) for session in lost]
    former.note(Batch(9, "other", None, 0.0, changes))
    changed.follow_on(former, Shared(lacks_last=True, newest=8))
    log = SimpleNamespace(changed_sessions=changed)
    return SimpleNamespace(log=log, registry=core.registry, queue=core.queue)


async def test_lost_sessions_end_in_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the looks at some sessions, and the ends of some, the event loop serves others."""
    monkeypatch.setattr(lost_changes, "ENDING_AT_ONCE", 5)
    async with running(path) as core:
        sessions = await asyncio.gather(*(core.open(f"s{number}") for number in range(40)))
        lost = [session for session in sessions if int(session.sid[1:]) % 2]
        rounds, submits, submit = Rounds(), Counter[int](), core.queue.submit

        def counted(*operations: Any) -> Any:
            submits[rounds.count] += 1
            return submit(*operations)

        monkeypatch.setattr(core.queue, "submit", counted)
        before = rounds.count
        await LostSessions().follow_on(life(core, lost))
        passed = rounds.count - before
        rounds.stop()
        assert passed >= 40 / 5 - 1 and max(submits.values()) <= 5
        await core.emit("behind the ends")
        assert [session for session in sessions if session.state is State.ENDED] == lost


async def test_refused_end_of_a_lost_session(path: Path) -> None:
    """A session that lacks changes ends in memory at once, although the store cannot be written."""
    async with running(path) as core:
        session = await core.open("s1")
        core.commits.failure = lambda _: StoreUnavailable()
        await LostSessions().follow_on(life(core, [session]))
        with pytest.raises(StoreUnavailable):
            await core.emit("refused, too")
        assert session.state is State.ENDED


async def test_next_life_ends_what_the_former_could_not(path: Path) -> None:
    """A life that is over before the sessions have ended leaves them to the next one, which lacks more."""

    def closed(_: object) -> asyncio.Future[object]:
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(StoreClosed())
        return failed

    async with running(path) as core:
        first, second, other = [await core.open(sid) for sid in ("s1", "s2", "s3")]
        over, lost_sessions = life(core, [first]), LostSessions()
        over.queue = SimpleNamespace(submit=closed)
        await lost_sessions.follow_on(over)
        await lost_sessions.follow_on(life(core, [second]))
        await core.emit("behind the ends")
        assert [one.state is State.ENDED for one in (first, second, other)] == [True, True, False]


async def test_session_of_a_later_epoch_lacks_nothing(path: Path) -> None:
    """The lost changes were of another session, even if an identity or a room is the same."""
    async with running(path) as core:
        session = await core.open("s1")
        await LostSessions().follow_on(life(core, [session], "before boot"))
        await core.emit("behind the ends")
        assert session.state is not State.ENDED


async def test_life_that_ends_during_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new life that is over before its clients could come is followed by another one, and no more."""
    async with nodes(monkeypatch, count=1) as one:
        (server,) = one.servers
        rejoining, lives = server.sio.rejoining, []

        async def follow_on(present: object) -> None:
            lives.append(present)
            if len(lives) == 1:
                rejoining.begin("over again")  # as its lease does
                await asyncio.sleep(0)

        monkeypatch.setattr(rejoining._lost_sessions, "follow_on", follow_on)
        for _ in range(2):
            rejoining.begin("over")
        await until(lambda: rejoining.count == 2 and not rejoining.is_running)
        assert lives[1] is one.node(0) is not lives[0]
        client = await server.client()
        assert await client.event_of(server.sio.emit("live")) == ["live"]
        assert len(lives) == rejoining.count == 2
