"""Claims, refusals and ends of connections that cross, on the real store."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from socketio_eventlog.errors import StoreUnavailable
from socketio_eventlog.session_changes import SessionAway, SessionEnd, SessionEnded
from socketio_eventstore.core import commit_queue
from socketio_eventstore.core.commit_queue import QueueFull
from socketio_eventstore.core.operations import JoinRoom
from socketio_eventstore.core.pending_changes import PendingChanges
from socketio_eventstore.core.session_operations import (
    EndSession,
    EndWithTransport,
    RefuseSession,
    ResumeSession,
)
from socketio_eventstore.core.sessions import State
from support.core import Core, Listener, Recorder, running


@pytest.fixture
async def core(path: Path) -> AsyncIterator[Core]:
    async with running(path) as core:
        yield core


def delete_sessions(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM sessions")
        connection.commit()


async def test_refusal_passes_a_full_queue(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused client never keeps its claim because the queue is full."""
    session, owner = await core.live()
    attached = await core.claim(session, Recorder())
    monkeypatch.setattr(commit_queue, "QUEUE_OPERATIONS", 1)
    core.queue.enqueue(JoinRoom(session, "room"))
    with pytest.raises(QueueFull):
        await core.emit()
    assert await core.queue.submit(RefuseSession(session, attached, None, 0.0))
    assert session.state is State.AWAY and owner.aborted


async def test_refusal_after_another_claim(core: Core) -> None:
    """A refusal after another claim has no effect, and its submitter learns of it."""
    session, _ = await core.live()
    first = await core.claim(session, Recorder())
    second = await core.claim(session, Recorder())
    assert await core.queue.submit(RefuseSession(session, first, None, 0.0)) is False
    assert session.is_claimed_by(second)


async def test_end_of_a_transport_after_another_claim(core: Core) -> None:
    """The end of a former connection that cannot be stored leaves the session to the new one."""
    session, _ = await core.live()
    attached = await core.claim(session, Recorder())
    core.commits.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.queue.submit(EndWithTransport(session, SessionEnd.TRANSPORT, attached.claim - 1))
    assert await core.resume(session, attached, 0)
    assert session.state is State.LIVE


async def test_accepted_client_that_has_gone(core: Core) -> None:
    """The owner comes back when the client that was accepted in its place has gone before CONNECT."""
    session, owner = await core.live()
    other = Recorder("other")
    attached = await core.claim(session, other)
    resuming = core.begin(ResumeSession(session, attached, "s1", 0.0))
    away = core.begin(core.leave(session))  # the transport ends before the acceptance takes effect
    assert await resuming is False
    await away
    assert owner.aborted and not owner.packets and not other.packets
    assert session.state is State.AWAY and session.away_since is not None


async def test_superseded_connection_is_ended_once(core: Core) -> None:
    """An accepted client ends the former connection with DISCONNECT, and never aborts it."""
    session, owner = await core.live()
    assert await core.recover(session, Recorder(), 0)
    await core.away(session)
    assert owner.packets == ["41"] and not owner.aborted


@pytest.mark.parametrize("is_away", [True, False])
async def test_end_of_a_session_without_row(core: Core, path: Path, is_away: bool) -> None:
    """A session whose row was deleted through SQL ends in memory, too."""
    session, connection = await core.live()
    if is_away:
        await core.away(session)
    delete_sessions(path)
    await core.queue.submit(EndSession(session, SessionEnd.DISCONNECTED))
    assert session.state is State.ENDED and core.registry.get("/", "s1") is None
    assert connection.packets == ([] if is_away else ["41"])


async def test_away_session_without_row(core: Core, path: Path) -> None:
    """A session whose row was deleted through SQL ends when its transport does."""
    session, _ = await core.live()
    delete_sessions(path)
    await core.away(session)
    assert session.state is State.ENDED


async def test_claimed_session_without_row(core: Core, path: Path) -> None:
    """A session whose row was deleted through SQL cannot be claimed, and its connection is told."""
    listener = Listener()
    async with running(path.with_name("other.db"), listener=listener) as other:
        session, _ = await other.live()
        delete_sessions(path.with_name("other.db"))
        with pytest.raises(AssertionError):
            await other.claim(session, Recorder())
        assert listener.ends == [(session, SessionEnd.REVOKED)]


def away(claim: int) -> SessionAway:
    return SessionAway("/", "s1", claim, 0.0, 0)


def test_pending_change_of_the_last_claim() -> None:
    """Of the changes that wait for the store, the one of the last claim stays."""
    pending = PendingChanges()
    last = away(3)
    pending.keep([last])
    pending.keep([away(2), SessionEnded("/", "s1", SessionEnd.TRANSPORT, 2)])
    assert pending.due == [last]
    over = SessionEnded("/", "s1", SessionEnd.REVOKED)
    pending.keep([over])
    pending.keep([away(4)])
    assert pending.due == [over]
