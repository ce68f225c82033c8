"""What callers hear of an append that was on its way when the life of their node ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from socketio_eventlog.changes import Batch, Heartbeat
from socketio_eventlog.errors import NodeFenced, OutcomeUnknown, StoreError
from socketio_eventlog.events import Event
from socketio_eventstore.core import effects_in_order, health, outcomes, runtime
from support.embedded import Seen, until
from support.in_process_nodes import NodeLog, Nodes, nodes


@pytest.fixture
def heard() -> Seen:
    return Seen()


@pytest.fixture
async def two(heard: Seen, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nodes]:
    """Two nodes that write one heartbeat; a handler says what it hears of its emit."""
    monkeypatch.setattr(health, "HEARTBEAT_SECONDS", 1000.0)

    def register(sio: Any) -> None:
        async def go(sid: str) -> None:
            try:
                heard(await sio.emit("kept"))
            except StoreError as error:
                heard(error)

        sio.on("go", go)

    async with nodes(monkeypatch, register) as running:
        await until(lambda: running.count(Heartbeat) == 2)
        await running.until_applied()
        yield running


async def emitting(two: Nodes, log: NodeLog) -> None:
    """Let a client's handler emit on the first node, whose append does not arrive."""
    client = await two.servers[0].client()
    log.hold(log.appends)
    await client.send('42["go"]')
    await until(lambda: log.sending is not None and any(isinstance(one, Event) for one in log.sending[1]))


async def test_stored_emit_gets_its_offset(two: Nodes, heard: Seen) -> None:
    """The answer was lost, and the node gives up before it learns the outcome. It appends nothing again."""
    a, b = two.servers
    former, log = two.node(0), two.log(0)
    await emitting(two, log)
    log.hold(log.deliveries)
    log.answers_to_lose, log.pauses_after_loss = 1, True
    log.appends.open()
    await until(lambda: two.count(Event) == 1)
    a.sio.lost("a test")
    await until(lambda: former.is_over)
    assert not heard.all
    log.release()
    assert await heard.until(1) == ["epoch.1"]
    await until(lambda: not a.sio.rejoining.is_running)
    assert two.count(Event) == 1
    assert await b.sio.emit("next") == "epoch.2"


async def test_emit_of_a_dead_node_is_not_stored(two: Nodes, heard: Seen) -> None:
    """The other nodes have declared the node dead before its append arrived: the error is definite."""
    a, _ = two.servers
    former, log = two.node(0), two.log(0)
    await emitting(two, log)
    log.freeze()
    await two.pass_a_lease(at=1)
    a.sio.lost("a test")
    await until(lambda: former.is_over)
    log.release()
    (error,) = await heard.until(1)
    assert type(error) is NodeFenced and two.count(Event) == 0


async def test_interrupted_effect_is_in_the_log(two: Nodes, heard: Seen) -> None:
    """The batch has come out of the log, and its effect is cut off: the offset is known."""
    a, _ = two.servers
    former = two.node(0)
    client = await a.client()
    await two.until_applied()
    async with former.queue.effects.lock:
        await client.send('42["go"]')
        await until(lambda: _is_of_event(former.queue.effects.taking))
        a.sio.lost("a test")
        await until(lambda: former.is_over)
        assert await heard.until(1) == ["epoch.1"]


def _is_of_event(batch: Batch | None) -> bool:
    return batch is not None and any(isinstance(one.change, Event) for one in batch.changes)


async def test_handler_hears_that_nobody_knows(
    two: Nodes, heard: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without contact a handler gets the error in time to act on it: soon afterwards it is cancelled."""
    monkeypatch.setattr(outcomes, "HANDLERS_HEAR_SECONDS", 0.0)
    log = two.log(0)
    await emitting(two, log)
    two.servers[0].sio.lost("a test")
    (error,) = await heard.until(1)
    assert type(error) is OutcomeUnknown
    log.release()


async def test_outcome_that_nobody_knows(two: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without contact until the log is closed, the error says that the event may be stored."""
    monkeypatch.setattr(runtime, "SETTLE_SECONDS", 0.0)
    a, _ = two.servers
    log = two.log(0)
    log.hold(log.appends)
    emit = asyncio.create_task(a.sio.emit("unknown"))
    await until(lambda: log.sending is not None and any(isinstance(one, Event) for one in log.sending[1]))
    a.sio.lost("a test")
    with pytest.raises(OutcomeUnknown, match="may be stored, or not"):
        await emit
    log.release()


async def test_effects_that_end_after_the_append(two: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The life ends in the middle of a batch, and the task that appends ends first: all is stored."""
    monkeypatch.setattr(effects_in_order, "SLICE_BYTES", 0)  # others are served after each event
    a, _ = two.servers
    former, midway = two.node(0), asyncio.Event()
    await a.client()
    await two.until_applied()

    async def serve_others() -> None:
        midway.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(former.flush_schedule, "flush_and_yield", serve_others)
    emits = asyncio.gather(a.sio.emit("first"), a.sio.emit("second"))
    await midway.wait()
    a.sio.lost("a test")
    assert list(await emits) == ["epoch.1", "epoch.2"]


async def test_end_before_a_refusal(two: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The life ends while the error of an append waits for its place: its caller gets this error."""
    a, _ = two.servers
    former, log = two.node(0), two.log(0)
    log.hold(log.deliveries)
    log.answers_to_lose = 1

    def give_up(own: int) -> int:
        raise OutcomeUnknown

    monkeypatch.setattr(log, "number_of_retry", give_up)
    async with former.queue.effects.lock:
        emit = asyncio.create_task(a.sio.emit("unknown"))
        await until(lambda: former.queue.appending.failed_commits == 1)
        a.sio.lost("a test")
        with pytest.raises(OutcomeUnknown):
            await emit
