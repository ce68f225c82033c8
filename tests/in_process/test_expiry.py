from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from socketio_eventlog.changes import Change
from socketio_eventlog.errors import StoreClosed, StoreUnavailable
from socketio_eventlog.session_changes import SessionEnded
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.core.expiry import ENDING_AT_ONCE, EXPIRY_ATTEMPTS
from socketio_eventstore.core.recovery import RecoveryResult
from socketio_eventstore.core.sessions import Session, State
from support.core import Core, pausable_commits
from support.embedded import Seen, Server, away, serving, until
from support.retaining import LIMIT_SECONDS, Kept, emit, keeping
from support.storing import opened, stored_sessions


@pytest.fixture(name="kept")
async def kept_core(path: Path) -> AsyncIterator[Kept]:
    async with keeping(path) as kept:
        yield kept


@pytest.fixture
def core(kept: Kept) -> Core:
    return kept.core


# Expiry ---------------------------------------------------------------------------------------------


async def test_expired_session_is_ended_once(core: Core, kept: Kept) -> None:
    """A session that was away for too long is ended once."""
    gone, here = (await core.live("gone"))[0], (await core.live("here"))[0]
    await kept.pass_time(10.0)
    await core.away(gone)
    await kept.pass_time(LIMIT_SECONDS)
    await kept.sweep()
    assert kept.seen.all == []
    await kept.pass_time(1.0)
    await kept.sweep()
    await kept.sweep()
    assert kept.seen.all == ["gone"]
    assert (gone.state, here.state) == (State.ENDED, State.LIVE)
    assert [stored.sid for stored in await stored_sessions(core.log)] == ["here"]


async def test_expiries_leave_room_for_others(
    core: Core, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many sessions expire together, a transaction ends few of them; all end in one sweep."""
    count, ended, append = 3 * ENDING_AT_ONCE + 1, list[int](), EventLog.append

    def recorded(log: EventLog, changes: Sequence[Change]) -> asyncio.Future[int]:
        ended.append(sum(isinstance(change, SessionEnded) for change in changes))
        return append(log, changes)

    for number in range(count):
        await core.away((await core.live(str(number)))[0])
    await kept.pass_time(LIMIT_SECONDS + 1.0)
    monkeypatch.setattr(EventLog, "append", recorded)
    await kept.sweep()
    await until(lambda: not kept.retention.expiry.running)
    assert sum(ended) == len(kept.seen.all) == count
    assert max(ended) <= ENDING_AT_ONCE


async def test_failed_expiry_is_retried_at_the_next_sweep(
    core: Core, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed expiry is retried once at each later sweep."""

    async def expired(session: Session) -> None:
        if len(kept.seen.all) < 3:
            raise ZeroDivisionError
        await kept.end(session)

    kept.expiries.expire = expired
    session, _ = await core.live()
    await core.away(session)
    await kept.pass_time(LIMIT_SECONDS + 1.0)
    for count in (1, 2, 3, 3):
        await kept.sweep()
        assert len(kept.seen.all) == count
    assert session.state is State.ENDED
    assert caplog.text.count("has expired but could not be ended") == 1
    assert "The session_expired handler of / failed for s1; " in caplog.text


async def test_failing_expiry_has_growing_pauses_and_an_end(
    core: Core, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    """An expiry that always fails is retried with growing pauses, then given up with an error."""
    calls: list[float] = []

    async def expired(_: Session) -> None:
        calls.append(kept.uptime)
        raise ZeroDivisionError

    kept.expiries.expire = expired
    kept.retention.expiry._interval_seconds = 10.0
    session, _ = await core.live()
    await core.away(session)
    while session.state is not State.ENDED:
        await kept.pass_time(10.0)
        await kept.sweep()
    pauses = [later - earlier for earlier, later in pairwise(calls)]
    assert pauses == [20.0 * 2**number for number in range(EXPIRY_ATTEMPTS - 1)]
    assert caplog.messages[1:] == [
        f"The session_expired handler of / failed for s1 {EXPIRY_ATTEMPTS} times; the session ends without it"
    ]
    assert await stored_sessions(core.log) == []


async def test_store_failure_is_no_failure_of_the_handler(core: Core, kept: Kept) -> None:
    """A store that is not available for long does not end a session without its handler."""

    async def expired(session: Session) -> None:
        if len(kept.seen.all) < 3 * EXPIRY_ATTEMPTS:
            raise StoreUnavailable
        await kept.end(session)

    kept.expiries.expire = expired
    session, _ = await core.live()
    await core.away(session)
    await kept.pass_time(LIMIT_SECONDS + 1.0)
    for _ in range(3 * EXPIRY_ATTEMPTS - 1):
        await kept.sweep()
    assert await stored_sessions(core.log) != []
    await kept.sweep()
    assert await stored_sessions(core.log) == []


async def test_slow_handler_does_not_delay_pruning(core: Core, kept: Kept) -> None:
    """A slow expiry handler is called once and does not delay pruning."""
    may_go = asyncio.Event()

    async def expired(session: Session) -> None:
        await may_go.wait()
        await kept.end(session)

    kept.expiries.expire = expired
    session, _ = await core.live()
    await emit(core, 3)
    await core.away(session)
    await kept.pass_time(LIMIT_SECONDS + 1.0)
    assert await kept.retention.sweep() == 3
    assert await kept.retention.sweep() == 0
    assert kept.seen.all == ["s1"]
    may_go.set()
    await kept.sweep()
    assert session.state is State.ENDED


async def test_expired_session_is_not_recovered(core: Core, kept: Kept) -> None:
    """An expired session is not recovered while its expiry handler runs."""
    may_go = asyncio.Event()

    async def expired(session: Session) -> None:
        await may_go.wait()
        await kept.end(session)

    kept.expiries.expire = expired
    session, _ = await core.live()
    await core.away(session)
    await kept.pass_time(LIMIT_SECONDS + 1.0)
    await kept.retention.sweep()
    assert kept.recovery.find("/", "s1", None, kept.uptime) is RecoveryResult.EXPIRED
    may_go.set()
    await kept.sweep()
    assert kept.recovery.find("/", "s1", None, kept.uptime) is RecoveryResult.UNKNOWN_SESSION


# With the handlers of an application ----------------------------------------------------------------


def ended(changes: Sequence[Change]) -> bool:
    return any(isinstance(change, SessionEnded) for change in changes)


async def session_of(server: Server, sid: str) -> Session:
    session = (await server.manager.start()).registry.get("/", sid)
    assert session is not None
    return session


async def test_expiry_is_one_transaction(tmp_path: Path) -> None:
    """The emits of the expiry handler and the end of the session are one transaction."""
    path, seen = tmp_path / "events.db", Seen()

    async def session_expired(sid: str, data: Any) -> None:
        seen(sid, data, server.sio.rooms(sid))
        await server.sio.emit("left", data["name"])
        await server.sio.emit("left, too", to="room")

    async with serving(path, register=lambda sio: sio.on("session_expired", session_expired)) as server:
        client, witness = await server.client(), await server.client()
        await server.sio.save_session(client.sid, {"name": "Ada"})
        session = await session_of(server, client.sid)
        async with pausable_commits(server) as commits:
            await away(server, client)
            commits.failure = lambda changes: StoreUnavailable() if ended(changes) else None
            with pytest.raises(StoreUnavailable):
                await server.sio.session_expired(session)
            assert server.sio.rooms(client.sid) == [client.sid]
            runtime = await server.manager.start()
            assert runtime.log.head == 0
            commits.fail_with()
            await server.sio.session_expired(session)
            assert len(commits.transactions[-1]) == 3
        assert (await witness.event())[:2] == ["left", "Ada"]
        assert seen.all == [(client.sid, {"name": "Ada"}, [client.sid])] * 2
        assert session.state is State.ENDED and server.sio.rooms(client.sid) == []
    async with opened(path) as log:
        assert log.head == 2 and [stored.sid for stored in await stored_sessions(log)] == [witness.sid]


async def test_failing_handler_stores_nothing(tmp_path: Path) -> None:
    """A failing expiry handler keeps its session and stores none of its emits."""

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


async def test_sessions_expire_after_a_restart(tmp_path: Path) -> None:
    """Sessions of an earlier start expire after a restart."""
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
        assert runtime.recovery.results == {RecoveryResult.UNKNOWN_SESSION: 1}
        assert len(seen.all) == 1


async def test_client_cannot_send_session_expired(tmp_path: Path) -> None:
    """The transport of a client that sends ``session_expired`` is closed; no handler is called."""
    seen = Seen()

    def register(sio: Any) -> None:
        sio.on("session_expired", lambda *what: seen(what))

    async with serving(tmp_path / "events.db", register=register) as server:
        client = await server.client()
        await client.send('42["session_expired",{}]')
        assert await client.rest() == [] and seen.all == []


async def test_shutdown_during_handler_keeps_the_session(
    tmp_path: Path,
) -> None:
    """A shutdown during the expiry handler keeps its session for the next start."""
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
        assert [stored.sid for stored in await stored_sessions(log)] == [client.sid]
    with pytest.raises(StoreClosed):
        await log.counts()
