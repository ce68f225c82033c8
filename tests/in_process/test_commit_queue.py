"""The queue in front of the log: groups, bounds, and its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_hex
from typing import cast

import pytest

from socketio_eventlog.changes import EventHandled
from socketio_eventlog.errors import (
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreRejected,
    StoreUnavailable,
)
from socketio_eventlog.log import Log
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.core import commit_queue
from socketio_eventstore.core.commit_queue import CommitQueue, QueueFull
from socketio_eventstore.core.flush_schedule import FlushSchedule
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.operations import (
    BindIdentity,
    CloseRoom,
    Emit,
    EmitVolatile,
    EmitWithAck,
    JoinRoom,
    SaveData,
    SendPacket,
    StoreIdempotencyKey,
)
from socketio_eventstore.core.outcomes import settle
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import Session, State
from support.core import BAD, Core, PausableLog, Recorder, context_of, said, texts
from support.storing import event, opened, stored_sessions

# Groups ---------------------------------------------------------------------------------------------


async def test_group_is_one_transaction(core: Core) -> None:
    """A group is one transaction; its result is the result of its last operation."""
    session, client = await core.live()
    group = (Emit(event("one")), JoinRoom(session, "room"), Emit(event("two", rooms=("room",))))
    assert await core.queue.submit(*group) == "boot.2"
    assert len(core.commits.transactions[-1]) == 3
    assert client.packets == [said("one", 1), said("two", 2)]


async def test_bad_group_fails_alone(core: Core) -> None:
    """A group with a bad operation fails as a whole; the groups beside it succeed."""
    session, client = await core.live()
    core.commits.pause()
    before = core.begin(Emit(event("before")))
    await core.commits.reached.wait()
    group = core.begin(
        Emit(event("one")),
        JoinRoom(session, "room"),
        Emit(BAD),
        EndSession(session, SessionEnd.DISCONNECTED),
    )
    after = core.begin(Emit(event("after")))
    core.commits.resume()
    with pytest.raises(StoreRejected):
        await group
    offset = await after
    assert client.packets == [said("before", 1), f'42["message","after","{offset}"]']
    assert session.state is State.LIVE and session.joined == {}
    assert await texts(core.log) == ['["message","before"]', '["message","after"]']
    assert [stored.memberships for stored in await stored_sessions(core.log)] == [()]
    await before


async def test_close_room_covers_joins_in_the_queue(core: Core) -> None:
    """CloseRoom removes sessions whose join is before it in the queue."""
    early, first = await core.live("early", "room")
    late, second = await core.live("late")
    await core.emit("to early", "room")
    core.commits.pause()
    operations = [
        core.begin(JoinRoom(late, "room")),
        core.begin(CloseRoom("/", "room")),
        core.begin(Emit(event("to nobody", rooms=("room",)))),
        core.begin(JoinRoom(late, "room")),
        core.begin(Emit(event("to one", rooms=("room",)))),
    ]
    await core.commits.reached.wait()
    core.commits.resume()
    await asyncio.gather(*operations)
    assert first.packets == [said("to early", 1)] and second.packets == [said("to one", 3)]
    assert (list(early.joined), list(late.joined)) == ([], ["room"])
    stored = {session.sid: session.memberships for session in await stored_sessions(core.log)}
    assert [interval.through for interval in stored["early"]] == [1]
    assert [(interval.after, interval.through) for interval in stored["late"]][-1] == (2, None)


async def test_close_room_removes_away_sessions(core: Core) -> None:
    """CloseRoom removes away sessions from the room."""
    session, _ = await core.live("s1", "room")
    await core.away(session)
    await core.queue.submit(CloseRoom("/", "room"))
    assert session.joined == {}
    await core.queue.submit(CloseRoom("/", "nobody's"))


# Bounds and closing ---------------------------------------------------------------------------------


async def test_full_queue_refuses_operations(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue refuses further operations and commits the queued ones."""
    monkeypatch.setattr(commit_queue, "QUEUE_OPERATIONS", 2)
    core.commits.pause()
    operations = [core.begin(Emit(event("being committed")))]
    await core.commits.reached.wait()
    operations += [core.begin(Emit(event(f"waiting {number}"))) for number in range(2)]
    with pytest.raises(QueueFull, match="2 operations of "):
        await core.emit("too many")
    core.commits.resume()
    assert await asyncio.gather(*operations) == ["boot.1", "boot.2", "boot.3"]
    assert await core.emit("fits again") == "boot.4"


async def test_groups_count_their_operations(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue and its batches count operations, so a large group does not pass as one."""
    monkeypatch.setattr(commit_queue, "QUEUE_OPERATIONS", 5)
    monkeypatch.setattr(commit_queue, "BATCH_OPERATIONS", 4)
    core.commits.pause()
    first = core.begin(Emit(event("being committed")))
    await core.commits.reached.wait()
    groups = [
        core.begin(*[Emit(event(f"{name} {n}")) for n in range(size)]) for name, size in [("a", 3), ("b", 6)]
    ]
    with pytest.raises(QueueFull, match="9 operations of "):
        await core.emit("too many")
    core.commits.resume()
    await asyncio.gather(first, *groups)
    assert [len(changes) for changes in core.commits.transactions] == [1, 3, 6]


async def test_batch_is_bounded_in_bytes(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction holds no more bytes than the limit, unless one group alone is larger."""
    monkeypatch.setattr(commit_queue, "BATCH_BYTES", 2_000)
    core.commits.pause()
    emits = [core.begin(Emit(event("being committed")))]
    await core.commits.reached.wait()
    emits += [core.begin(Emit(event("x" * size))) for size in (900, 900, 900, 3_000, 10, 10)]
    core.commits.resume()
    await asyncio.gather(*emits)
    assert [len(changes) for changes in core.commits.transactions] == [1, 2, 1, 1, 2]


LARGE: list[Callable[[Session], Operation]] = [
    lambda _: Emit(event("x" * 900)),
    lambda _: EmitVolatile(event("x" * 900)),
    lambda _: EmitWithAck(event("x" * 900), lambda _: Frames("421[]")),
    lambda session: SaveData(session, json.dumps({"x": "x" * 700})),
    lambda session: BindIdentity(session, session.current, "x" * 700),
    lambda _: StoreIdempotencyKey(EventHandled("/", "event", "", token_hex(), json.dumps(["x" * 900]))),
]


@pytest.mark.parametrize("large", LARGE)
async def test_queue_is_bounded_in_bytes(
    core: Core, monkeypatch: pytest.MonkeyPatch, large: Callable[[Session], Operation]
) -> None:
    """The queue refuses operations beyond its limit in bytes."""
    monkeypatch.setattr(commit_queue, "QUEUE_BYTES", 1_200)
    session, _ = await core.live()
    core.commits.pause()
    operations = [core.begin(Emit(event("is being committed")))]
    await core.commits.reached.wait()
    operations += [core.begin(large(session)) for _ in range(2)]
    with pytest.raises(QueueFull, match=r"2 operations of [12]\d\d\d bytes"):
        await core.emit("too much")
    core.commits.resume()
    await asyncio.gather(*operations)
    assert await core.emit("fits again")


async def test_close_completes_the_queue(core: Core) -> None:
    """After ``close`` queued operations take effect; later operations are refused."""
    _, client = await core.live()
    core.commits.pause()
    operations = [core.begin(Emit(event("one"))), core.begin(Emit(event("two")))]
    await core.commits.reached.wait()
    operations.append(core.begin(EmitVolatile(event("three"))))
    core.queue.close()
    with pytest.raises(StoreClosed):
        await core.emit("too late")
    with pytest.raises(StoreClosed):
        core.queue.enqueue(EmitVolatile(event("too late")))
    core.commits.resume()
    await asyncio.gather(*operations)
    assert client.packets == [said("one", 1), said("two", 2), said("three", 2)]


async def test_busy_store_does_not_delay_close(core: Core) -> None:
    """A busy store does not delay ``close``: the commit is not retried."""
    core.commits.pause()
    emit = core.begin(Emit(event()))
    await core.commits.reached.wait()
    core.commits.failure = lambda _: StoreBusy()
    core.queue.close()
    core.commits.resume()
    with pytest.raises(StoreBusy):
        await emit


async def test_cancelled_queue_fails_its_operations(tmp_path: Path) -> None:
    """A cancelled commit queue fails its operations with StoreClosed; the log knows of those on their way."""
    async with opened(tmp_path / "events.db") as log:
        commits = PausableLog(log)
        context = await context_of(cast("Log", commits))
        queue = CommitQueue(context, FlushSchedule(context.fan_out))
        task, results = asyncio.create_task(queue.run()), list[asyncio.Future[object]]()
        commits.pause()
        for _ in range(2):  # the first is being committed, the second waits
            results.append(queue.submit(Emit(event())))
            await commits.reached.wait()
        task.cancel()
        await asyncio.wait([task])
        on_its_way, waiting = results
        assert not on_its_way.done() and isinstance(waiting.exception(), StoreClosed)
        with pytest.raises(StoreClosed):
            await queue.submit(Emit(event()))
        commits.resume()
        await settle(context.log, queue.effects)
        assert await on_its_way == log.offset_text(1)


@pytest.mark.parametrize("error", [StoreUnavailable(), StoreRejected("a bad change")])
async def test_failed_unawaited_operation_is_logged(
    core: Core, caplog: pytest.LogCaptureFixture, error: StoreError
) -> None:
    """The failure of an operation without a waiting caller is logged."""
    core.commits.fail_with(error, error)  # for the batch, then for the operation alone
    core.queue.enqueue(Emit(event()))
    await core.emit()
    assert str(error) in caplog.text


async def test_failed_write_closes_one_connection(core: Core) -> None:
    """A failed write closes its connection; the other connections receive the event."""

    class Broken(Recorder):
        def write(self, batch: Sequence[Frames]) -> None:
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    broken = Broken("broken")
    assert await core.accept(await core.open("s1", broken))
    _, client = await core.live("s2")
    await core.emit("for both")
    assert client.packets == [said("for both", 1)]
    assert broken.aborted == ["the frames could not be written"] * 2  # with its CONNECT and with the event


async def test_waiting_acknowledgements_are_bounded(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Acknowledgements that wait behind a stuck store are bounded in bytes."""
    monkeypatch.setattr(commit_queue, "QUEUE_BYTES", 1_000)
    _, client = await core.live()
    core.commits.pause()
    emit = core.begin(Emit(event("stored")))
    await core.commits.reached.wait()
    core.queue.post(SendPacket(client, "/", Frames("43" + "x" * 2_000)))
    with pytest.raises(QueueFull):
        core.queue.post(SendPacket(client, "/", Frames("43[]")))
    core.commits.resume()
    await emit


async def test_session_ends_during_the_fan_out(core: Core) -> None:
    """A session that ends during the fan-out does not disturb it: the others receive the event."""

    class EndsAnother(Recorder):
        def write(self, batch: Sequence[Frames]) -> None:
            super().write(batch)
            if (gone := core.registry.get("/", "s2")) is not None:
                core.registry.detach(gone)
                core.registry.remove(gone)

    first = EndsAnother()
    assert await core.accept(await core.open("s1", first))
    first.batches.clear()
    await core.live("s2")
    _, third = await core.live("s3")
    await core.emit()
    assert first.packets == third.packets == [said("hello", 1)]
