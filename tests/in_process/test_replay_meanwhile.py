from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from socketio_eventlog.errors import StoreUnavailable
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.session_operations import EndSession, ResumeSession
from socketio_eventstore.core.sessions import ClientConnection, State
from support.core import Core, Recorder, running, said
from support.pausable_reads import CONNECT, away, emit_numbers, pausable_reads, running_in_small_pages
from support.storing import event


@pytest.fixture
async def core(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Core]:
    async with running_in_small_pages(path, monkeypatch) as core:
        yield core


async def test_emits_during_a_replay_come_in_order(path: Path) -> None:
    """Events that are emitted during a replay come once and in order."""
    async with running(path, tail_bytes=500) as core:
        session = await away(core)
        expected = await emit_numbers(core, 300)
        back, recovered = Recorder(), asyncio.Event()

        async def emit_until_live() -> None:
            for _ in range(2_000):
                await emit_numbers(core, 2)
                recovered.set()
                if session.state is State.LIVE:
                    break

        emits = asyncio.create_task(emit_until_live())
        await recovered.wait()
        await core.recover(session, back, cursor=0)
        await emits
        assert session.state is State.LIVE
        expected += await emit_numbers(core, 3)
        total = core.queue.position
        assert back.packets == [CONNECT, *(said(f"number {n}", n) for n in range(1, total + 1))]
        assert back.packets[1:301] == expected[:300]


async def test_several_sessions_are_served_from_shared_reads(path: Path) -> None:
    async with running(path, tail_bytes=0) as core:
        sessions = [
            (await core.live(f"s{number}", "even" if number % 2 == 0 else "odd"))[0] for number in range(6)
        ]
        for session in sessions:
            await core.away(session)
        for number in range(20):
            await core.emit(f"number {number + 1}", "even" if number % 2 == 0 else "odd")
        history, clients = pausable_reads(core), [Recorder() for _ in sessions]
        accepts = []
        for session, client in zip(sessions, clients, strict=True):
            attached = await core.claim(session, client)
            accepts.append(ResumeSession(session, attached, session.sid, 1_001.0))
        await core.queue.submit(*accepts)
        for number, client in enumerate(clients):
            expected = [said(f"number {n}", n) for n in range(1 + number % 2, 21, 2)]
            assert (await client.sent(11))[1:] == expected
        assert history.reads == [list(range(1, 21))]


async def test_full_buffer_does_not_delay_other_replays(core: Core) -> None:
    """A client with a full buffer waits; the replays of other clients go on."""
    crowded, other = await away(core), (await core.live("s2"))[0]
    await core.away(other)
    expected = await emit_numbers(core, 20)
    slow, quick = Recorder("slow"), Recorder("quick")
    slow.unsent = 1_000_001
    await core.recover(crowded, slow, cursor=0)
    await core.recover(other, quick, cursor=0)
    assert (await quick.sent(21))[1:] == expected
    assert slow.packets == [CONNECT] and crowded.state is State.REPLAYING
    slow.unsent = 1_000_000
    assert (await slow.sent(21))[1:] == expected


async def test_takeover_during_a_replay_restarts_it(core: Core) -> None:
    """A takeover during a replay sends all missed events to the new connection."""
    session = await away(core)
    expected = await emit_numbers(core, 20)
    history, old, new = pausable_reads(core), Recorder("old"), Recorder("new")
    await core.recover(session, old, cursor=0)
    await old.sent(7)
    history.open.clear()
    history.reached.clear()
    await history.reached.wait()
    before = list(old.packets)
    coming = asyncio.create_task(core.recover(session, new, cursor=3))
    await coming
    expected += await emit_numbers(core, 2)
    history.open.set()
    assert await new.sent(20) == [CONNECT, *expected[3:]]
    assert old.packets == [*before, "41"]
    assert session.state is State.LIVE and not core.replayer._replays


@pytest.mark.parametrize("how", ["away", "ended"])
async def test_replay_stops_with_its_session(core: Core, how: str) -> None:
    """The replay of a session that goes away or ends stops without a packet."""
    session, other = await away(core), (await core.live("s2"))[0]
    await core.away(other)
    expected = await emit_numbers(core, 20)
    history, back, client = pausable_reads(core), Recorder(), Recorder()
    history.open.clear()
    await core.recover(session, back, cursor=0)
    await history.reached.wait()
    if how == "away":
        await core.away(session)
    else:
        await core.queue.submit(EndSession(session, SessionEnd.DISCONNECTED))
    history.open.set()
    await core.recover(other, client, cursor=0)  # the replays work on
    assert (await client.sent(21))[1:] == expected
    assert back.packets == ([CONNECT] if how == "away" else [CONNECT, "41"])


@pytest.mark.parametrize("where", ["read", "look-up"])
async def test_unreadable_log_closes_the_transports(
    core: Core, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An unreadable log closes the transports of replays; a later recovery misses no event."""
    session = await away(core)
    expected = await emit_numbers(core, 10)
    history, back = pausable_reads(core), Recorder()
    if where == "read":
        history.failure = StoreUnavailable("The disk is broken.")
    else:
        history.missed_failure = StoreUnavailable("The disk is broken.")
    await core.recover(session, back, cursor=0)
    await back.until(lambda: bool(back.aborted))
    assert back.packets == [CONNECT] and back.aborted == ["the log cannot be read"]
    assert "The disk is broken." in caplog.text
    history.failure = history.missed_failure = None
    await core.away(session)
    again = Recorder()
    await core.recover(session, again, cursor=0)
    assert await again.sent(11) == [CONNECT, *expected]


@pytest.mark.parametrize("failing", ["from the log", "recent"])
async def test_replay_with_a_fault_is_broken_off(
    path: Path, failing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault that is not of the encoder is logged and closes the transport; a recovery misses no event."""
    async with running(path, tail_bytes=3 * event("number 1").weight_bytes) as core:
        session = await away(core)
        expected = await emit_numbers(core, 9)
        at_fault, put = expected[0 if failing == "from the log" else -1], core.replayer._fan_out.put

        def faulty(connection: ClientConnection, frames: Frames) -> None:
            if at_fault in frames.packets:
                raise ZeroDivisionError
            put(connection, frames)

        back, again = Recorder(), Recorder()
        with monkeypatch.context() as patch:
            patch.setattr(core.replayer._fan_out, "put", faulty)
            await core.recover(session, back, cursor=0)
            await back.until(lambda: bool(back.aborted or len(back.packets) == 10))
        assert back.aborted == ["the log cannot be read"] and "ZeroDivisionError" in caplog.text
        await core.away(session)
        await core.recover(session, again, cursor=0)
        assert await again.sent(10) == [CONNECT, *expected]
