from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from socketio_eventlog.changes import Change, EventHandled
from socketio_eventlog.errors import ConditionFailed, StoreBusy, StoreRejected, StoreUnavailable
from socketio_eventstore.core import appending
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operation import UnstoredOperation
from socketio_eventstore.core.operations import Emit, JoinRoom, SendPacket, StoreIdempotencyKey
from support.core import BAD, Core, pausable_commits, said, texts
from support.embedded import serving
from support.storing import event


async def test_event_is_sent_after_its_commit(core: Core) -> None:
    """No byte of an event is sent before its commit."""
    _, client = await core.live()
    core.commits.pause()
    emit = core.begin(Emit(event("secret")))
    await core.commits.reached.wait()
    assert client.batches == [] and not emit.done()
    core.commits.resume()
    assert await emit == "boot.1"
    assert client.packets == [said("secret", 1)]


async def test_emit_returns_after_its_commit(core: Core) -> None:
    """An emit returns its offset when the event is on disk."""
    assert await core.emit("first") == "boot.1"
    assert await texts(core.log) == ['["message","first"]']


async def test_failed_commit_sends_nothing(core: Core) -> None:
    """A failed commit sends nothing; the next emit succeeds."""
    _, client = await core.live()
    core.commits.fail_with(StoreUnavailable("The disk is full."))
    with pytest.raises(StoreUnavailable, match=r"cannot be written at the moment.*The disk is full\."):
        await core.emit("lost")
    assert client.batches == []
    assert await core.emit("kept") == "boot.1"
    assert client.packets == [said("kept", 1)]
    assert await texts(core.log) == ['["message","kept"]']


async def test_bad_operation_fails_alone(core: Core) -> None:
    """A bad operation fails alone; the other operations of the batch keep their order."""
    session, client = await core.live()
    core.commits.pause()
    first = core.begin(Emit(event("first")))
    await core.commits.reached.wait()
    good = [core.begin(Emit(event(f"good {number}"))) for number in range(3)]
    bad = core.begin(Emit(BAD))
    reply = core.begin(SendPacket(client, "/", Frames("43[]")))
    more = [core.begin(JoinRoom(session, "room")), core.begin(Emit(event("to room", rooms=("room",))))]
    core.commits.resume()
    results = await asyncio.gather(first, *good, bad, reply, *more, return_exceptions=True)
    assert isinstance(results.pop(4), StoreRejected)
    assert not [result for result in results if isinstance(result, Exception)]
    # A sequence of a refused batch is never given out, so the offsets are not consecutive.
    offsets = [result for result in results if isinstance(result, str)]
    expected = ["first", "good 0", "good 1", "good 2", "to room"]
    events = [f'42["message","{text}","{offset}"]' for text, offset in zip(expected, offsets, strict=True)]
    assert client.packets == [*events[:4], "43[]", events[4]]
    assert await texts(core.log) == [f'["message","{text}"]' for text in expected]


@pytest.mark.parametrize("place", [0, 1, 511, 700, 1023])
async def test_bad_group_costs_two_commits_a_halving(core: Core, place: int) -> None:
    """One bad group among 1024 costs its neighbours 20 more commits, and no neighbour fails."""
    attempts: list[int] = []

    def count(changes: Sequence[Change]) -> None:
        attempts.append(len(changes))

    core.commits.pause()
    first = core.begin(Emit(event("first")))
    await core.commits.reached.wait()
    emits = [core.begin(Emit(BAD if number == place else event(f"{number}"))) for number in range(1024)]
    core.commits.failure = count
    core.commits.resume()
    await first
    results = await asyncio.gather(*emits, return_exceptions=True)
    assert isinstance(results.pop(place), StoreRejected)
    assert not [result for result in results if isinstance(result, Exception)]
    assert attempts[:2] == [1, 1024] and len(attempts[2:]) == 20
    expected = [f'["message","{number}"]' for number in range(1024) if number != place]
    assert [text for text in await texts(core.log) if "first" not in text] == expected


@pytest.mark.parametrize("seed", range(5))
async def test_bad_groups_anywhere(core: Core, seed: int) -> None:
    """Groups of any size with bad operations anywhere: the bad ones fail, the good ones keep their order."""
    chance = random.Random(seed)
    core.commits.pause()
    first = core.begin(Emit(event("first")))
    await core.commits.reached.wait()
    groups, expected, is_bad = [], ["first"], []
    for number in range(chance.randrange(1, 200)):
        names = [f"{number}.{part}" for part in range(chance.randrange(1, 4))]
        operations = [Emit(event(name)) for name in names]
        is_bad.append(chance.random() < 0.1)
        if is_bad[-1]:
            operations.insert(chance.randrange(len(operations) + 1), Emit(BAD))
        else:
            expected += names
        groups.append(core.begin(*operations))
    core.commits.resume()
    _, *results = await asyncio.gather(first, *groups, return_exceptions=True)
    assert [isinstance(result, StoreRejected) for result in results] == is_bad
    assert await texts(core.log) == [f'["message","{name}"]' for name in expected]


async def test_group_is_never_divided(core: Core) -> None:
    """A group with a bad operation fails as a whole, and its neighbours do not."""
    core.commits.pause()
    first = core.begin(Emit(event("first")))
    await core.commits.reached.wait()
    groups = [
        core.begin(Emit(event("a")), Emit(event("b"))),
        core.begin(Emit(event("lost")), Emit(BAD), Emit(event("lost too"))),
        core.begin(Emit(event("c")), Emit(event("d"))),
    ]
    core.commits.resume()
    _, *results = await asyncio.gather(first, *groups, return_exceptions=True)
    assert [isinstance(result, StoreRejected) for result in results] == [False, True, False]
    assert await texts(core.log) == [f'["message","{text}"]' for text in ["first", "a", "b", "c", "d"]]


async def test_failing_store_is_not_asked_for_each_group(core: Core) -> None:
    """A store that takes no change at all is asked a bounded number of times for a batch."""
    attempts: list[int] = []

    def refuse(changes: Sequence[Change]) -> StoreUnavailable:
        attempts.append(len(changes))
        return StoreUnavailable("The disk is full.")

    core.commits.pause()
    core.commits.failure = refuse
    emits = [core.begin(Emit(event(f"{number}"))) for number in range(1025)]
    core.commits.resume()
    results = await asyncio.gather(*emits, return_exceptions=True)
    assert all(isinstance(result, StoreUnavailable) for result in results)
    assert len(attempts) < 50


async def test_busy_store_is_retried(core: Core) -> None:
    """A commit of a busy store is retried; each event is stored and sent once."""
    _, client = await core.live()
    core.commits.pause()
    emits = [core.begin(Emit(event(f"event {number}"))) for number in range(3)]
    await core.commits.reached.wait()
    core.commits.fail_with(StoreBusy(), StoreBusy(), StoreBusy())
    core.commits.resume()
    assert await asyncio.gather(*emits) == ["boot.1", "boot.2", "boot.3"]
    assert client.packets == [said(f"event {number}", number + 1) for number in range(3)]
    assert len(await texts(core.log)) == 3


async def test_busy_store_fails_after_the_timeout(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that stays busy raises StoreBusy after the timeout."""
    monkeypatch.setattr(appending, "BUSY_TIMEOUT_SECONDS", 0.0)
    core.commits.failure = lambda _: StoreBusy()
    with pytest.raises(StoreBusy, match="Another program holds the write lock"):
        await core.emit()
    core.commits.failure = lambda _: None
    assert await core.emit() == "boot.1"


async def test_fault_of_the_log_reaches_the_caller(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected fault of the log reaches the caller; the next emit succeeds."""
    core.commits.fail_with(ZeroDivisionError("a fault of ours"))
    with pytest.raises(ZeroDivisionError):
        await core.emit()
    assert "failed" in caplog.text
    assert await core.emit() == "boot.1"


async def test_faulty_operation_does_not_stop_the_queue(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    """An unstored operation that fails to take effect does not stop the operations behind it."""

    class Faulty(UnstoredOperation):
        def send(self, context: Context) -> None:
            raise ZeroDivisionError

    _, client = await core.live()
    core.commits.pause()
    operations = [core.begin(Emit(event("before"))), core.begin(Faulty()), core.begin(Emit(event("after")))]
    await core.commits.reached.wait()
    core.commits.resume()
    before, fault, after = await asyncio.gather(*operations, return_exceptions=True)
    assert (before, after) == ("boot.1", "boot.2") and isinstance(fault, ZeroDivisionError)
    assert client.packets == [said("before", 1), said("after", 2)]
    assert "could not take effect" in caplog.text


async def test_cancelled_emit_is_sent(core: Core) -> None:
    """An emit whose caller was cancelled is stored and sent."""
    _, client = await core.live()
    core.commits.pause()
    emit, other = core.begin(Emit(event("cancelled"))), core.begin(Emit(event("other")))
    await core.commits.reached.wait()
    emit.cancel()
    core.commits.resume()
    assert await other == "boot.2"
    assert client.packets == [said("cancelled", 1), said("other", 2)]


async def test_paused_commit_sends_no_byte_to_a_websocket(tmp_path: Path) -> None:
    """A WebSocket receives no byte of an event while its commit is paused."""
    async with serving(tmp_path / "events.db", ping_interval=0.05) as server:
        client = await server.client()
        async with pausable_commits(server) as commits:
            commits.pause()
            emit = asyncio.create_task(server.sio.emit("secret", "text"))
            await commits.reached.wait()
            # A heartbeat keeps its order among the bytes: earlier writes have arrived before it.
            for _ in range(2):
                assert await client.raw_packet() == "2"
                await client.send("3")
            assert not emit.done()
            commits.resume()
            assert await client.event() == ["secret", "text", await emit]


async def test_websocket_after_a_failed_commit(
    tmp_path: Path,
) -> None:
    """After a failed commit a WebSocket receives the next event and no other."""
    async with serving(tmp_path / "events.db") as server, pausable_commits(server) as commits:
        client = await server.client()
        commits.fail_with(StoreUnavailable("The disk is full."), StoreUnavailable("The disk is full."))
        with pytest.raises(StoreUnavailable, match=r"The disk is full\."):
            await server.sio.emit("lost")
        with pytest.raises(StoreUnavailable):
            await server.sio.enter_room(client.sid, "room")
        assert server.sio.rooms(client.sid) == [client.sid]
        assert await client.event_of(server.sio.emit("kept", 1)) == ["kept", 1]


async def test_second_group_with_one_key_is_not_stored(core: Core) -> None:
    """Of two groups with one idempotency key in one batch the first is stored, the second as a whole not."""
    _, client = await core.live()
    core.commits.pause()
    before = core.begin(Emit(event("before")))
    await core.commits.reached.wait()
    runs = [
        core.begin(
            Emit(event(f"by the {which} run")),
            StoreIdempotencyKey(EventHandled("/", "order", "", "key", f'["{which}"]')),
        )
        for which in ("first", "second")
    ]
    after = core.begin(Emit(event("after")))
    core.commits.resume()
    _, first, second, last = await asyncio.gather(before, *runs, after, return_exceptions=True)
    assert first is None and isinstance(second, ConditionFailed)
    assert isinstance(last, str)
    assert await core.log.acknowledgement("/", "order", "", "key") == '["first"]'
    stored = ['["message","before"]', '["message","by the first run"]', '["message","after"]']
    assert await texts(core.log) == stored
    assert len(client.packets) == 3 and client.packets[2] == f'42["message","after","{last}"]'
