from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from socketio_eventlog.changes import Change
from socketio_eventlog.errors import StoreRejected, StoreUnavailable
from socketio_eventlog.events import Event
from socketio_eventlog.session_changes import SessionAway, SessionEnd, SessionEnded
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operations import Emit, EmitVolatile, SendPacket
from socketio_eventstore.core.session_operations import (
    EndSession,
    EndWithTransport,
    RefuseSession,
)
from socketio_eventstore.core.sessions import Session, State
from support.core import Core, Recorder, pausable_commits, said, texts
from support.embedded import serving
from support.storing import event, stored_sessions


async def only_away_since(log: EventLog) -> float | None:
    (stored,) = await stored_sessions(log)
    return stored.away_since


def with_transport(session: Session) -> EndWithTransport:
    return EndWithTransport(session, SessionEnd.TRANSPORT, session.claim)


async def sessions_away(core: Core) -> set[str]:
    return {stored.sid for stored in await stored_sessions(core.log) if stored.away_since is not None}


async def test_failed_disconnection_becomes_pending(core: Core) -> None:
    """A disconnection that cannot be stored is written with the next commit."""
    session, _ = await core.live()
    core.commits.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.away(session)
    assert session.state is State.AWAY
    assert await only_away_since(core.log) is None
    await core.emit("next")
    assert await only_away_since(core.log) is not None
    assert [type(change) for change in core.commits.transactions[-1]] == [SessionAway, Event]


async def test_pending_change_survives_failed_commits(core: Core) -> None:
    """A pending session change survives failed commits and is written once."""
    session, _ = await core.live()
    core.commits.fail_with(*[StoreUnavailable() for _ in range(3)])
    with pytest.raises(StoreUnavailable):
        await core.away(session)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await core.emit("lost")
    await core.emit("one")
    await core.emit("two")
    assert [len(changes) for changes in core.commits.transactions[-2:]] == [2, 1]
    assert await only_away_since(core.log) is not None


async def test_pending_changes_are_a_group(core: Core) -> None:
    """Pending session changes that the store rejects do not fail the operations after them."""
    sessions = [(await core.live(sid))[0] for sid in ("good", "bad")]

    def reject(changes: Sequence[Change]) -> StoreRejected | None:
        is_bad = any(isinstance(change, SessionAway) and change.sid == "bad" for change in changes)
        return StoreRejected("bad") if is_bad else None

    core.commits.fail_with(StoreUnavailable(), StoreUnavailable())
    for session in sessions:
        with pytest.raises(StoreUnavailable):
            await core.away(session)
    core.commits.failure = reject
    assert await core.emit("one")
    assert await core.emit("two")
    assert await texts(core.log) == ['["message","one"]', '["message","two"]']
    assert await sessions_away(core) == {"good"}
    assert [type(change) for change in core.commits.transactions[-1]] == [Event]
    core.commits.failure = lambda _: None
    core.queue.retry_pending_changes()
    await core.emit("three")
    assert await sessions_away(core) == {"good", "bad"}


async def test_rejected_change_is_replaced(core: Core) -> None:
    """A rejected session change is not written after a later change of the session."""
    session, _ = await core.live()
    core.commits.fail_with(StoreUnavailable(), *[StoreRejected() for _ in range(2)])
    with pytest.raises(StoreUnavailable):
        await core.away(session)
    assert await core.emit("tried without the change")
    assert await core.recover(session, Recorder(), 0)
    core.queue.retry_pending_changes()
    await core.emit("next")
    assert await only_away_since(core.log) is None


async def test_packet_waits_for_pending_changes(core: Core) -> None:
    """A packet that is not stored is sent after the pending session changes are written."""
    gone, _ = await core.live("gone")
    _, client = await core.live("here")
    core.commits.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.away(gone)
    core.commits.pause()
    reply = core.begin(SendPacket(client, "/", Frames("43[]")))
    await core.commits.reached.wait()
    assert client.batches == []
    core.commits.resume()
    await reply
    assert client.packets == ["43[]"]
    assert [type(change) for change in core.commits.transactions[-1]] == [SessionAway]


async def test_reconnection_replaces_failed_disconnection(
    core: Core,
) -> None:
    """A disconnection that is stored after the claim of the next connection has no effect."""
    session, _ = await core.live()
    core.commits.pause()
    core.commits.fail_with(StoreUnavailable())
    away, back = core.begin(core.leave(session)), Recorder("back")
    await core.commits.reached.wait()
    claim = asyncio.create_task(core.claim(session, back))
    core.commits.resume()
    with pytest.raises(StoreUnavailable):
        await away
    assert await core.resume(session, await claim, cursor=0)
    assert await only_away_since(core.log) is None
    assert session.state is State.LIVE and back.packets == ['40{"sid":"s1","pid":"s1"}']


async def test_failed_acceptance_closes_the_transport(core: Core) -> None:
    """An acceptance that cannot be stored closes the transport without a packet."""
    session, _ = await core.live()
    await core.away(session)
    again = Recorder("again")
    attached = await core.claim(session, again)
    core.commits.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.resume(session, attached, cursor=0)
    assert again.packets == [] and again.aborted == ["the store is not available"]
    assert session.state is State.CONNECTING


async def test_failed_refusal_closes_the_transport(
    core: Core,
) -> None:
    """A refusal that cannot be stored closes the transport without a packet and becomes pending."""
    connection = Recorder()
    session = await core.open("s1", connection)
    core.commits.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.queue.submit(RefuseSession(session, session.current, Frames("44{}"), 1_001.0))
    assert connection.packets == [] and connection.aborted == ["the store is not available"]
    assert session.state is State.ENDED and core.registry.get("/", "s1") is None
    await core.emit()
    assert [type(change) for change in core.commits.transactions[-1]] == [SessionEnded, Event]
    assert await stored_sessions(core.log) == []


async def test_failed_store_sends_no_connect_error(
    tmp_path: Path,
) -> None:
    """When the store fails, transports are closed without CONNECT_ERROR and DISCONNECT."""
    async with serving(tmp_path / "events.db") as server, pausable_commits(server) as commits:
        first = await server.socket()
        pid = (await first.connect())["pid"]
        commits.failure = lambda _: StoreUnavailable("The disk is full.")
        for auth in (None, {"pid": pid}):  # a new session, and one that takes over its own
            client = await server.socket()
            await client.send("40" + ("" if auth is None else f'{{"pid":"{pid}"}}'))
            assert await client.rest() == []
        commits.fail_with()
        # The claim was not stored, so the first connection still has the session.
        assert await first.event_of(server.sio.emit("event")) == ["event"]
        again = await server.socket()
        answer = await again.connect(auth={"pid": pid})
        assert (answer["pid"], answer["sid"]) == (pid, first.sid)


@pytest.mark.parametrize("reason", [SessionEnd.REVOKED, SessionEnd.DISCONNECTED])
async def test_failed_revocation_changes_nothing(core: Core, reason: SessionEnd) -> None:
    """When the store fails, the end of a transport becomes pending; a revocation changes nothing."""
    kept, client = await core.live("kept")
    gone, other = await core.live("gone")
    core.commits.fail_with(StoreUnavailable(), StoreUnavailable())
    for operation in (EndSession(kept, reason), with_transport(gone)):
        with pytest.raises(StoreUnavailable):
            await core.queue.submit(operation)
    assert kept.state is State.LIVE and client.packets == []
    assert gone.state is State.ENDED and other.packets == []
    assert await core.emit() == "boot.1"
    assert client.packets == [said("hello", 1)] and other.packets == []
    assert [stored.sid for stored in await stored_sessions(core.log)] == ["kept"]
    await core.queue.submit(EndSession(kept, reason))
    assert client.packets[1:] == (["41"] if reason is SessionEnd.DISCONNECTED else [])
    assert await stored_sessions(core.log) == []


async def test_pending_end_replaces_pending_disconnection(core: Core) -> None:
    """The pending end of a session replaces its pending disconnection."""
    session, _ = await core.live()
    core.commits.fail_with(StoreUnavailable(), StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.away(session)
    with pytest.raises(StoreUnavailable):
        await core.queue.submit(with_transport(session))
    await core.emit()
    assert [type(change) for change in core.commits.transactions[-1]] == [SessionEnded, Event]
    assert await stored_sessions(core.log) == []


async def test_retry_writes_pending_changes(core: Core) -> None:
    """``retry_pending_changes`` writes pending session changes without an operation."""
    session, _ = await core.live()
    core.commits.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.away(session)
    core.commits.reached.clear()
    core.queue.retry_pending_changes()
    await core.commits.reached.wait()
    await core.emit()
    assert [type(change) for change in core.commits.transactions[-2]] == [SessionAway]
    core.queue.retry_pending_changes()  # nothing is left
    await core.emit()
    assert [len(changes) for changes in core.commits.transactions[-2:]] == [1, 1]


async def test_failed_store_sends_unstored_packets(
    core: Core,
) -> None:
    """When the store fails, packets that are not stored are sent in their order."""
    _, client = await core.live()
    core.commits.failure = lambda _: StoreUnavailable()
    core.commits.pause()
    operations = [
        core.begin(Emit(event("lost"))),
        core.begin(SendPacket(client, "/", Frames("431[]"))),
        core.begin(EmitVolatile(event("volatile"))),
        core.begin(Emit(event("lost, too"))),
        core.begin(SendPacket(client, "/", Frames("432[]"))),
    ]
    await core.commits.reached.wait()
    core.commits.resume()
    results = await asyncio.gather(*operations, return_exceptions=True)
    assert [isinstance(result, StoreUnavailable) for result in results] == [True, False, False, True, False]
    assert client.packets == ["431[]", said("volatile", 0), "432[]"]
