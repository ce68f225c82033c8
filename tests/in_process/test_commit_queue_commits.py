from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from socketio_eventlog.errors import StoreBusy, StoreRejected, StoreUnavailable
from socketio_eventstore.core import commit_queue
from socketio_eventstore.core.commit_queue import Dispatcher, Operation
from socketio_eventstore.core.operations import Emit, JoinRoom, SendPacket
from socketio_eventstore.core.packets import Frames
from support.core import BAD, Core, holding, said, texts
from support.embedded import serving
from support.storing import event


async def test_nothing_of_an_event_is_sent_before_it_is_stored(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    emit = core.begin(Emit(event("secret")))
    await core.held.reached.wait()
    assert client.batches == [] and not emit.done()
    core.held.release()
    assert await emit == "boot.1"
    assert client.packets == [said("secret", 1)]


async def test_an_emit_returns_when_its_event_is_on_disk_and_not_before(core: Core) -> None:
    assert await core.emit("first") == "boot.1"
    assert await texts(core.log) == ['["message","first"]']


async def test_a_commit_that_fails_sends_nothing_and_the_next_emit_works(core: Core) -> None:
    _, client = await core.live()
    core.held.fail_with(StoreUnavailable("The disk is full."))
    with pytest.raises(StoreUnavailable, match=r"cannot be written at the moment.*The disk is full\."):
        await core.emit("lost")
    assert client.batches == []
    assert await core.emit("kept") == "boot.1"
    assert client.packets == [said("kept", 1)]
    assert await texts(core.log) == ['["message","kept"]']


async def test_one_bad_turn_fails_alone_and_the_others_keep_their_order(core: Core) -> None:
    session, client = await core.live()
    core.held.hold()
    first = core.begin(Emit(event("first")))
    await core.held.reached.wait()
    good = [core.begin(Emit(event(f"good {number}"))) for number in range(3)]
    bad = core.begin(Emit(BAD))
    reply = core.begin(SendPacket(client, "/", Frames("43[]")))
    more = [core.begin(JoinRoom(session, "room")), core.begin(Emit(event("to room", rooms=("room",))))]
    core.held.release()
    results = await asyncio.gather(first, *good, bad, reply, *more, return_exceptions=True)
    assert isinstance(results.pop(4), StoreRejected)
    assert not [result for result in results if isinstance(result, Exception)]
    # A number that a refused batch would have had is never given out, so they are not consecutive.
    offsets = [result for result in results if isinstance(result, str)]
    expected = ["first", "good 0", "good 1", "good 2", "to room"]
    events = [f'42["message","{text}","{offset}"]' for text, offset in zip(expected, offsets, strict=True)]
    assert client.packets == [*events[:4], "43[]", events[4]]
    assert await texts(core.log) == [f'["message","{text}"]' for text in expected]


async def test_a_busy_store_is_tried_again_and_nothing_is_lost_or_doubled(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    emits = [core.begin(Emit(event(f"event {number}"))) for number in range(3)]
    await core.held.reached.wait()
    core.held.fail_with(StoreBusy(), StoreBusy(), StoreBusy())
    core.held.release()
    assert await asyncio.gather(*emits) == ["boot.1", "boot.2", "boot.3"]
    assert client.packets == [said(f"event {number}", number + 1) for number in range(3)]
    assert len(await texts(core.log)) == 3


async def test_a_store_that_stays_busy_is_reported_when_patience_is_at_its_end(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_queue, "BUSY_TIMEOUT_SECONDS", 0.0)
    core.held.failure = lambda _: StoreBusy()
    with pytest.raises(StoreBusy, match="Another program holds the write lock"):
        await core.emit()
    core.held.failure = lambda _: None
    assert await core.emit() == "boot.1"


async def test_a_fault_of_the_log_reaches_those_who_wait_and_the_next_emit_works(
    core: Core, caplog: pytest.LogCaptureFixture
) -> None:
    core.held.fail_with(ZeroDivisionError("a fault of ours"))
    with pytest.raises(ZeroDivisionError):
        await core.emit()
    assert "failed" in caplog.text
    assert await core.emit() == "boot.1"


async def test_a_turn_that_cannot_take_effect_does_not_stop_those_behind_it(
    core: Core, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Operation):
        def apply(self, dispatcher: Dispatcher) -> None:
            raise ZeroDivisionError

    _, client = await core.live()
    core.held.hold()
    turns = [core.begin(Emit(event("before"))), core.begin(Faulty()), core.begin(Emit(event("after")))]
    await core.held.reached.wait()
    core.held.release()
    before, fault, after = await asyncio.gather(*turns, return_exceptions=True)
    assert (before, after) == ("boot.1", "boot.2") and isinstance(fault, ZeroDivisionError)
    assert client.packets == [said("before", 1), said("after", 2)]
    assert "could not take effect" in caplog.text


async def test_an_emit_whose_caller_was_cancelled_is_sent_all_the_same(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    emit, other = core.begin(Emit(event("cancelled"))), core.begin(Emit(event("other")))
    await core.held.reached.wait()
    emit.cancel()
    core.held.release()
    assert await other == "boot.2"
    assert client.packets == [said("cancelled", 1), said("other", 2)]


async def test_no_byte_reaches_a_websocket_while_the_commit_is_held_back(tmp_path: Path) -> None:
    async with serving(tmp_path / "events.db", ping_interval=0.05) as server:
        client = await server.client()
        async with holding(server) as held:
            held.hold()
            emit = asyncio.create_task(server.sio.emit("secret", "text"))
            await held.reached.wait()
            # A heartbeat keeps its place among the bytes: what was written before it would be here by now.
            for _ in range(2):
                assert await client.raw_packet() == "2"
                await client.send("3")
            assert not emit.done()
            held.release()
            assert await client.event() == ["secret", "text", await emit]


async def test_after_a_commit_that_failed_a_websocket_gets_the_next_event_and_no_other(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path / "events.db") as server, holding(server) as held:
        client = await server.client()
        held.fail_with(StoreUnavailable("The disk is full."), StoreUnavailable("The disk is full."))
        with pytest.raises(StoreUnavailable, match=r"The disk is full\."):
            await server.sio.emit("lost")
        with pytest.raises(StoreUnavailable):
            await server.sio.enter_room(client.sid, "room")
        assert server.sio.rooms(client.sid) == [client.sid]
        assert await client.event_of(server.sio.emit("kept", 1)) == ["kept", 1]
