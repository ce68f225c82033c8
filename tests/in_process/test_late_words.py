"""Late words of a former claim: what a superseded connection has still to say changes nothing any more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from socketio_eventlog.session_changes import SessionEnd
from socketio_eventlog.snapshot import StoredSession
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.operations import JoinRoom
from socketio_eventstore.core.session_operations import (
    EndWithTransport,
    MarkAway,
    RefuseSession,
    ResumeSession,
)
from socketio_eventstore.core.sessions import Session, SessionConnection, State
from support.core import Core, Recorder, running, said
from support.storing import opened, stored_sessions


async def stored(core: Core) -> StoredSession:
    (session,) = await stored_sessions(core.log)
    return session


def away(session: Session, former: SessionConnection) -> Operation:
    return MarkAway(session, former.claim, 1_002.0)


def end(session: Session, former: SessionConnection) -> Operation:
    return EndWithTransport(session, SessionEnd.TRANSPORT, former.claim)


def refusal(session: Session, former: SessionConnection) -> Operation:
    return RefuseSession(session, former, Frames("44{}"), 1_002.0)


def resumption(session: Session, former: SessionConnection) -> Operation:
    return ResumeSession(session, former, "s1", 1_002.0, [JoinRoom(session, "late")])


Late = Callable[[Session, SessionConnection], Operation]
LATE: list[Late] = [away, end, refusal, resumption]


@pytest.mark.parametrize("late", LATE)
async def test_late_word_does_not_touch_a_live_session(path: Path, late: Late) -> None:
    """A late word of a former claim has no effect on a session that another claim has made live."""
    async with running(path) as core:
        session, _ = await core.live()
        await core.away(session)
        former = await core.claim(session, Recorder("slow"))
        client = Recorder("fast")
        assert await core.recover(session, client, cursor=0)
        before = await stored(core)
        assert not await core.queue.submit(late(session, former))
        await core.emit("after")
        assert session.state is State.LIVE and session.current.connection is client
        assert session.away_since is None and session.joined == {}
        assert client.packets[1:] == [said("after", 1)] and client.aborted == []
        assert await stored(core) == before and before.away_since is None and before.claim == 3
    async with opened(path) as log:  # what the next server finds
        (found,) = await stored_sessions(log)
        assert (found.sid, found.claim, found.memberships) == ("s1", 3, ())


@pytest.mark.parametrize("late", LATE)
async def test_late_word_does_not_touch_a_claim(core: Core, late: Late) -> None:
    """A late word of a former claim has no effect on a claim whose connect handler is running."""
    session, _ = await core.live()
    await core.away(session)
    slow, fast = Recorder("slow"), Recorder("fast")
    former = await core.claim(session, slow)
    attached = await core.claim(session, fast)
    assert not await core.queue.submit(late(session, former))
    assert session.is_claimed_by(attached) and fast.aborted == []
    assert slow.packets == fast.packets == []
    assert await core.resume(session, attached, cursor=0)
    assert session.state is State.LIVE and session.joined == {}
    assert slow.packets == ["41"]  # the last claim was accepted: the other one stops


@pytest.mark.parametrize("late", LATE)
async def test_late_word_does_not_wake_an_ended_session(core: Core, late: Late) -> None:
    """A late word has no effect on a session that has ended, in memory and in the store."""
    session, _ = await core.live()
    await core.away(session)
    former = await core.claim(session, Recorder("slow"))
    await core.claim(session, Recorder("fast"))
    await core.queue.submit(EndWithTransport(session, SessionEnd.TRANSPORT, session.claim))
    assert session.state is State.ENDED
    assert not await core.queue.submit(late(session, former))
    assert list(core.registry) == []
    assert await stored_sessions(core.log) == []
