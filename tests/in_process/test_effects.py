"""Effects come out of the log alone, in the order of its batches, own ones and those of other nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from socketio_eventlog.changes import Batch, Change, Committed
from socketio_eventlog.events import Event
from socketio_eventlog.log import Log
from socketio_eventlog.session_changes import RoomJoined, SessionEnd, SessionEnded
from socketio_eventstore.core import effects_in_order
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operations import Emit, JoinRoom, SendPacket
from socketio_eventstore.core.sessions import State
from support.core import Core, running, said, texts
from support.embedded import until
from support.storing import event


class HeldLog:
    """A real log that gives out its batches when the test says so, with batches of another node between."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._foreign: list[list[Change]] = []
        self._inserted = 0
        """The number of foreign events so far: the sequences of own events follow them."""
        self.waiting = 0
        """Own batches that are durable and not given out."""
        self._may_go = asyncio.Semaphore(1_000_000)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def hold(self) -> None:
        self._may_go = asyncio.Semaphore(0)

    def let_go(self, count: int = 1_000_000) -> None:
        for _ in range(count):
            self._may_go.release()

    def insert(self, *changes: Change) -> None:
        """Put a batch of another node in front of the next own one."""
        self._foreign.append(list(changes))

    async def batches(self) -> AsyncIterator[Batch]:
        async for batch in self._log.batches():
            self.waiting += 1
            await self._may_go.acquire()
            self.waiting -= 1
            position = batch.changes[0].position - (type(batch.changes[0].change) is Event) + self._inserted
            while self._foreign:
                committed: list[Committed] = []
                for change in self._foreign.pop(0):
                    position += type(change) is Event
                    self._inserted += type(change) is Event
                    committed.append(Committed(change, position))
                yield Batch(batch.number, "another node", None, batch.uptime, committed)
            yield batch._replace(changes=self._moved(batch.changes))

    def _moved(self, changes: Sequence[Committed]) -> list[Committed]:
        return [committed._replace(position=committed.position + self._inserted) for committed in changes]


@asynccontextmanager
async def holding(path: Path) -> AsyncIterator[tuple[Core, HeldLog]]:
    async with running(path) as core:
        # The task of the effects has not begun yet.
        log = HeldLog(core.context.log)
        core.queue.context = replace(core.context, log=cast("Log", log))
        try:
            yield core, log
        finally:
            log.let_go()


async def test_event_takes_effect_with_its_batch(path: Path) -> None:
    """A durable event is not sent and its emit does not return before its batch comes out of the log."""
    async with holding(path) as (core, log):
        _, client = await core.live()
        log.hold()
        emit, reply = core.begin(Emit(event("one"))), core.begin(SendPacket(client, "/", Frames("43[]")))
        await until(lambda: log.waiting)
        assert await texts(core.log) == ['["message","one"]']  # on disk
        assert client.packets == [] and not emit.done() and not reply.done()
        assert core.queue.position == 0
        log.let_go()
        assert await emit == "boot.1"
        await reply
        assert client.packets == [said("one", 1), "43[]"]
        assert core.queue.position == 1


async def test_reply_behind_a_batch_is_sent_at_once(path: Path) -> None:
    """A reply to a batch that has taken effect does not wait for the task that drains the queue."""
    async with running(path) as core:
        _, client = await core.live()
        assert await core.begin(Emit(event("one"))) == "boot.1"  # resumes before that task
        core.queue.post(SendPacket(client, "/", Frames("43[]")))
        assert core.queue.waiting_operations == 0
        await until(lambda: client.packets == [said("one", 1), "43[]"])


async def test_reply_waits_for_an_interrupted_batch(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply does not overtake the rest of another node's batch that yields to the event loop."""
    monkeypatch.setattr(effects_in_order, "SLICE_BYTES", 1)
    async with running(path) as core:
        _, client = await core.live()
        changes = [Committed(event("first"), 1), Committed(event("second"), 2)]
        batch = Batch(core.context.nodes.batch + 1, "another node", None, core.context.uptime, changes)
        taking = asyncio.create_task(core.queue.effects.take_effects_of(batch))
        await asyncio.sleep(0)  # until the batch yields
        reply = core.begin(SendPacket(client, "/", Frames("43[]")))
        assert client.packets == [said("first", 1)] and not reply.done()
        await asyncio.gather(taking, reply)
        assert client.packets == [said("first", 1), said("second", 2), "43[]"]


async def test_large_batch_of_another_node_yields(path: Path) -> None:
    """A batch with many changes of sessions lets the event loop serve others in between."""
    async with running(path) as core:
        session, _ = await core.live()
        count = 2 * effects_in_order.SLICE_OPERATIONS
        changes = [Committed(RoomJoined("/", "s1", room), 0) for room in range(count + 1)]
        batch = Batch(core.context.nodes.batch + 1, "another node", None, core.context.uptime, changes)
        taking = asyncio.create_task(core.queue.effects.take_effects_of(batch))
        await asyncio.sleep(0)  # until the batch yields
        assert len(session.joined) == effects_in_order.SLICE_OPERATIONS
        await taking
        assert len(session.joined) == count + 1


async def test_session_takes_effect_with_its_batch(path: Path) -> None:
    """A session and its rooms are not there before their batches come out of the log."""
    async with holding(path) as (core, log):
        session, _ = await core.live()
        log.hold()
        opening = asyncio.create_task(core.open("s2"))
        joining = core.begin(JoinRoom(session, "room"))
        await until(lambda: log.waiting)
        assert core.registry.get("/", "s2") is None and session.joined == {}
        assert not opening.done() and not joining.done()
        log.let_go()
        await joining
        assert await opening is core.registry.get("/", "s2") and list(session.joined) == ["room"]


async def test_foreign_batch_takes_effect_in_its_place(path: Path) -> None:
    """A batch of another node between own ones takes effect in its place, and own positions follow."""
    async with holding(path) as (core, log):
        _, client = await core.live()
        _, other = await core.live("s2")
        await core.emit("one")
        log.hold()
        log.insert(
            event("not yet", rooms=("room",)),
            RoomJoined("/", "s1", "room"),
            event("foreign", rooms=("room",)),
        )
        emits = [core.begin(Emit(event(text, rooms=rooms))) for text, rooms in [("two", None)]]
        await until(lambda: log.waiting)
        emits.append(core.begin(Emit(event("three", rooms=("room",)))))
        log.let_go()
        assert await asyncio.gather(*emits) == ["boot.4", "boot.5"]
        assert client.packets == [said("one", 1), said("foreign", 3), said("two", 4), said("three", 5)]
        assert other.packets == [said("one", 1), said("two", 4)]
        assert core.queue.position == 5


async def test_foreign_end_of_a_session_takes_effect(path: Path) -> None:
    """Another node disconnects a session of this one; later own events do not reach the client."""
    async with holding(path) as (core, log):
        session, client = await core.live()
        log.insert(SessionEnded("/", "s1", SessionEnd.DISCONNECTED))
        assert await core.emit("after") == "boot.1"
        assert client.packets == ["41"] and session.state is State.ENDED


@pytest.mark.parametrize("count", [1, 3])
async def test_appends_wait_for_the_effects(path: Path, count: int) -> None:
    """The operations that came during an append are one batch, which follows its effects."""
    async with holding(path) as (core, log):
        _, client = await core.live()
        log.hold()
        first = core.begin(Emit(event("first")))
        await until(lambda: log.waiting)
        rest = [core.begin(Emit(event(f"rest {number}"))) for number in range(count)]
        log.let_go(1)
        assert await first == "boot.1"
        await until(lambda: log.waiting)
        assert client.packets == [said("first", 1)] and not any(emit.done() for emit in rest)
        log.let_go()
        await asyncio.gather(*rest)
        assert len(client.packets) == 1 + count and len(client.batches) == 2
