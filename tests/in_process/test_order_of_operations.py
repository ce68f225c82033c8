"""Operations take effect in the order in which they were submitted, stored or not."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from socketio_eventlog.volatile import VolatileLog
from socketio_eventstore.core import effects_in_order
from socketio_eventstore.core.effects_in_order import SLICE_OPERATIONS
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operations import (
    Emit,
    EmitVolatile,
    EmitWithAck,
    JoinRoom,
    LeaveRoom,
    SaveData,
    SendPacket,
)
from support.core import Core, context_of, said, texts
from support.storing import event, stored_sessions


async def test_operations_take_effect_in_order(core: Core) -> None:
    """Operations take effect in the order in which they were submitted."""
    session, client = await core.live()
    core.commits.pause()
    operations = [
        core.begin(Emit(event("to nobody yet", rooms=("room",)))),
        core.begin(JoinRoom(session, "room")),
        core.begin(Emit(event("to room", rooms=("room",)))),
        core.begin(EmitVolatile(event("volatile", rooms=("room",)))),
        core.begin(SendPacket(client, "/", Frames('431["reply"]'))),
        core.begin(
            EmitWithAck(event("?", rooms=("room",)), lambda session: Frames(f'427["{session.sid}?"]'))
        ),
        core.begin(LeaveRoom(session, "room")),
        core.begin(Emit(event("to room again", rooms=("room",)))),
        core.begin(Emit(event("to all"))),
    ]
    await core.commits.reached.wait()
    assert client.batches == []
    core.commits.resume()
    await asyncio.gather(*operations)
    assert client.packets == [
        said("to room", 2),
        said("volatile", 2),
        '431["reply"]',
        '427["s1?"]',
        said("to all", 4),
    ]


async def test_packets_wait_for_the_running_commit(core: Core) -> None:
    """Packets that are not stored wait for the commit that runs before them."""
    _, client = await core.live()
    core.commits.pause()
    emit = core.begin(Emit(event("stored")))
    await core.commits.reached.wait()
    core.queue.enqueue(EmitVolatile(event("volatile")))
    core.queue.enqueue(SendPacket(client, "/", Frames("43[]")))
    assert client.batches == []
    core.commits.resume()
    await emit
    assert await client.sent(3) == [said("stored", 1), said("volatile", 1), "43[]"]


async def test_idle_queue_sends_an_unstored_packet_at_once(core: Core) -> None:
    """An idle queue sends a packet that is not stored at once."""
    _, client = await core.live()
    core.commits.pause()
    core.queue.enqueue(EmitVolatile(event("volatile")))
    assert client.packets == [said("volatile", 0)]


async def test_unstored_event_ends_in_current_offset(core: Core) -> None:
    """An event that is not stored ends in the current offset."""
    _, client = await core.live()
    for _ in range(3):
        await core.emit()
    await core.queue.submit(EmitVolatile(event("volatile")))
    assert client.packets[-1] == said("volatile", 3)
    assert await texts(core.log) == ['["message","hello"]'] * 3


async def test_disabled_recovery_has_no_offset() -> None:
    """Without a durable log there is no current offset."""
    assert (await context_of(VolatileLog())).offset is None


async def test_batch_is_one_write_per_connection(core: Core) -> None:
    """All packets of a batch for one connection are one write."""
    _, client = await core.live()
    core.commits.pause()
    first = core.begin(Emit(event("first")))
    await core.commits.reached.wait()
    rest = [core.begin(Emit(event(f"rest {number}"))) for number in range(5)]
    core.commits.resume()
    await asyncio.gather(first, *rest)
    assert [len(batch) for batch in client.batches] == [1, 5]
    assert len(core.commits.transactions[-1]) == 5


async def test_large_batch_yields_and_keeps_its_order(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with many bytes yields to the event loop and keeps its order."""
    monkeypatch.setattr(effects_in_order, "SLICE_BYTES", 1)
    clients = [(await core.live(f"s{number}"))[1] for number in range(3)]
    core.commits.pause()
    emits = [core.begin(Emit(event(f"event {number}"))) for number in range(4)]
    await core.commits.reached.wait()
    emits += [core.begin(Emit(event(f"event {number}"))) for number in range(4, 8)]
    core.commits.resume()
    await emits[4]
    assert not emits[7].done()
    core.queue.enqueue(EmitVolatile(event("volatile")))
    await asyncio.gather(*emits)
    for client in clients:
        expected = [said(f"event {number}", number + 1) for number in range(8)]
        assert await client.sent(9) == [*expected, said("volatile", 8)]
        assert len(client.batches) > 4


async def test_operations_take_effect_in_steps(core: Core) -> None:
    """A batch with hundreds of joins lets the event loop serve others in between."""
    session, _ = await core.live("s1")
    core.commits.pause()
    first = core.begin(JoinRoom(session, "first"))
    await core.commits.reached.wait()
    joins = [core.begin(JoinRoom(session, str(number))) for number in range(3 * SLICE_OPERATIONS)]
    core.commits.resume()
    await first
    done = [0]
    while done[-1] < len(joins):
        await asyncio.sleep(0)
        done.append(sum(join.done() for join in joins))
    steps = [after - before for before, after in pairwise(done) if after > before]
    assert steps == [SLICE_OPERATIONS] * 3


async def test_skip_and_namespace_limit_the_recipients(core: Core) -> None:
    """Skipped sessions and sessions of other namespaces do not receive an event."""
    _, skipped = await core.live("skipped")
    _, other = await core.live("other", namespace="/other")
    _, client = await core.live("client")
    await core.emit("for some", skip=("skipped", "nobody"))
    assert (skipped.packets, other.packets) == ([], [])
    assert client.packets == [said("for some", 1)]


async def test_member_of_several_rooms_receives_once(core: Core) -> None:
    """A member of several addressed rooms receives an event once."""
    _, client = await core.live("s1", "a", "b", 42)
    await core.emit("once", "a", "b", 42, "s1", "nobody's")
    assert client.packets == [said("once", 1)]


async def test_attachments_follow_their_event(core: Core) -> None:
    """The attachments of a binary event follow its text directly."""
    _, client = await core.live()
    await core.queue.submit(Emit(event("binary", attachments=(b"1", b"2"))), Emit(event("next")))
    assert client.packets == ['452-["message","binary","boot.1"]', b"1", b"2", said("next", 2)]


async def test_saved_data_are_on_disk_and_in_memory(core: Core) -> None:
    session, _ = await core.live()
    await core.queue.submit(SaveData(session, '{"a":1}'))
    assert session.data == '{"a":1}'
    assert [stored.data for stored in await stored_sessions(core.log)] == ['{"a":1}']
