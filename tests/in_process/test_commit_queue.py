from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_hex

import pytest

from socketio_eventlog.errors import (
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreRejected,
    StoreUnavailable,
)
from socketio_eventlog.records import EventHandled
from socketio_eventstore.core import commit_queue
from socketio_eventstore.core.commit_queue import Dispatcher, Operation, QueueFull
from socketio_eventstore.core.operations import (
    BindIdentity,
    CloseRoom,
    Emit,
    EmitVolatile,
    EmitWithAck,
    JoinRoom,
    LeaveRoom,
    SaveData,
    SendPacket,
    StoreIdempotencyKey,
)
from socketio_eventstore.core.packets import Frames, TextEncoder
from socketio_eventstore.core.session_operations import DisconnectSession
from socketio_eventstore.core.sessions import Registry, Session, State
from support.core import BAD, Core, HeldLog, Recorder, said, texts
from support.storing import event, opened

# One order ------------------------------------------------------------------------------------------


async def test_everything_takes_effect_in_the_order_in_which_it_was_asked_for(core: Core) -> None:
    session, client = await core.live()
    core.held.hold()
    turns = [
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
    await core.held.reached.wait()
    assert client.batches == []
    core.held.release()
    await asyncio.gather(*turns)
    assert client.packets == [
        said("to room", 2),
        said("volatile", 2),
        '431["reply"]',
        '427["s1?"]',
        said("to all", 4),
    ]


async def test_nothing_overtakes_the_commit_that_runs(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    emit = core.begin(Emit(event("stored")))
    await core.held.reached.wait()
    core.dispatcher.enqueue(EmitVolatile(event("volatile")))
    core.dispatcher.enqueue(SendPacket(client, "/", Frames("43[]")))
    assert client.batches == []
    core.held.release()
    await emit
    assert await client.sent(3) == [said("stored", 1), said("volatile", 1), "43[]"]


async def test_an_unstored_packet_goes_at_once_when_nothing_is_before_it(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    core.dispatcher.enqueue(EmitVolatile(event("volatile")))
    assert client.packets == [said("volatile", 0)]


async def test_an_unstored_event_ends_in_the_present_offset(core: Core) -> None:
    _, client = await core.live()
    for _ in range(3):
        await core.emit()
    await core.dispatcher.submit(EmitVolatile(event("volatile")))
    assert client.packets[-1] == said("volatile", 3)
    assert await texts(core.log) == ['["message","hello"]'] * 3


async def test_without_offsets_no_event_carries_one(tmp_path: Path) -> None:
    async with opened(tmp_path / "events.db") as log:
        dispatcher = Dispatcher(
            log, Registry(), TextEncoder(), tail_bytes=1, offsets=False, catch_up=lambda _: None
        )
        assert dispatcher.offset is None


async def test_what_one_batch_has_for_a_connection_is_written_at_once(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    first = core.begin(Emit(event("first")))
    await core.held.reached.wait()
    rest = [core.begin(Emit(event(f"rest {number}"))) for number in range(5)]
    core.held.release()
    await asyncio.gather(first, *rest)
    assert [len(batch) for batch in client.batches] == [1, 5]
    assert len(core.held.committed[-1]) == 5


async def test_a_batch_with_very_much_to_send_lets_others_run_and_keeps_its_order(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_queue, "SLICE_BYTES", 1)
    clients = [(await core.live(f"s{number}"))[1] for number in range(3)]
    core.held.hold()
    emits = [core.begin(Emit(event(f"event {number}"))) for number in range(4)]
    await core.held.reached.wait()
    emits += [core.begin(Emit(event(f"event {number}"))) for number in range(4, 8)]
    core.held.release()
    await emits[4]
    assert not emits[7].done()
    core.dispatcher.enqueue(EmitVolatile(event("volatile")))
    await asyncio.gather(*emits)
    for client in clients:
        expected = [said(f"event {number}", number + 1) for number in range(8)]
        assert await client.sent(9) == [*expected, said("volatile", 8)]
        assert len(client.batches) > 4


async def test_a_skipped_session_and_other_namespaces_receive_nothing(core: Core) -> None:
    _, skipped = await core.live("skipped")
    _, other = await core.live("other", namespace="/other")
    _, client = await core.live("client")
    await core.emit("for some", skip=("skipped", "nobody"))
    assert (skipped.packets, other.packets) == ([], [])
    assert client.packets == [said("for some", 1)]


async def test_a_session_in_several_of_the_rooms_receives_an_event_once(core: Core) -> None:
    _, client = await core.live("s1", "a", "b", 42)
    await core.emit("once", "a", "b", 42, "s1", "nobody's")
    assert client.packets == [said("once", 1)]


async def test_text_and_attachments_of_a_binary_event_are_next_to_each_other(core: Core) -> None:
    _, client = await core.live()
    await core.dispatcher.submit(Emit(event("binary", attachments=(b"1", b"2"))), Emit(event("next")))
    assert client.packets == ['452-["message","binary","boot.1"]', b"1", b"2", said("next", 2)]


async def test_saved_data_are_on_disk_and_in_memory(core: Core) -> None:
    session, _ = await core.live()
    await core.dispatcher.submit(SaveData(session, '{"a":1}'))
    assert session.data == '{"a":1}'
    assert [stored.data for stored in await core.log.load_sessions()] == ['{"a":1}']


# Groups ---------------------------------------------------------------------------------------------


async def test_a_group_is_one_transaction_and_gives_what_its_last_turn_gives(core: Core) -> None:
    session, client = await core.live()
    group = (Emit(event("one")), JoinRoom(session, "room"), Emit(event("two", rooms=("room",))))
    assert await core.dispatcher.submit(*group) == "boot.2"
    assert len(core.held.committed[-1]) == 3
    assert client.packets == [said("one", 1), said("two", 2)]


async def test_of_a_group_with_a_bad_turn_nothing_happens_and_the_groups_beside_it_do(core: Core) -> None:
    session, client = await core.live()
    core.held.hold()
    before = core.begin(Emit(event("before")))
    await core.held.reached.wait()
    group = core.begin(
        Emit(event("one")),
        JoinRoom(session, "room"),
        Emit(BAD),
        DisconnectSession(session),
    )
    after = core.begin(Emit(event("after")))
    core.held.release()
    with pytest.raises(StoreRejected):
        await group
    offset = await after
    assert client.packets == [said("before", 1), f'42["message","after","{offset}"]']
    assert session.state is State.LIVE and session.joined == {}
    assert await texts(core.log) == ['["message","before"]', '["message","after"]']
    assert [stored.memberships for stored in await core.log.load_sessions()] == [()]
    await before


async def test_closing_a_room_sees_who_joined_before_it_in_the_queue(core: Core) -> None:
    early, first = await core.live("early", "room")
    late, second = await core.live("late")
    await core.emit("to early", "room")
    core.held.hold()
    turns = [
        core.begin(JoinRoom(late, "room")),
        core.begin(CloseRoom("/", "room")),
        core.begin(Emit(event("to nobody", rooms=("room",)))),
        core.begin(JoinRoom(late, "room")),
        core.begin(Emit(event("to one", rooms=("room",)))),
    ]
    await core.held.reached.wait()
    core.held.release()
    await asyncio.gather(*turns)
    assert first.packets == [said("to early", 1)] and second.packets == [said("to one", 3)]
    assert (list(early.joined), list(late.joined)) == ([], ["room"])
    stored = {session.sid: session.memberships for session in await core.log.load_sessions()}
    assert [interval.through for interval in stored["early"]] == [1]
    assert [(interval.after, interval.through) for interval in stored["late"]][-1] == (2, None)


async def test_closing_a_room_takes_out_those_who_are_away(core: Core) -> None:
    session, _ = await core.live("s1", "room")
    await core.away(session)
    await core.dispatcher.submit(CloseRoom("/", "room"))
    assert session.joined == {}
    await core.dispatcher.submit(CloseRoom("/", "nobody's"))


# Bounds and the end ---------------------------------------------------------------------------------


async def test_what_the_queue_cannot_hold_is_refused_and_the_rest_is_not_harmed(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_queue, "QUEUE_OPERATIONS", 2)
    core.held.hold()
    turns = [core.begin(Emit(event("being committed")))]
    await core.held.reached.wait()
    turns += [core.begin(Emit(event(f"waiting {number}"))) for number in range(2)]
    with pytest.raises(QueueFull, match="2 turns of "):
        await core.emit("too many")
    core.held.release()
    assert await asyncio.gather(*turns) == ["boot.1", "boot.2", "boot.3"]
    assert await core.emit("fits again") == "boot.4"


LARGE: list[Callable[[Session], Operation]] = [
    lambda _: Emit(event("x" * 900)),
    lambda _: EmitVolatile(event("x" * 900)),
    lambda _: EmitWithAck(event("x" * 900), lambda _: Frames("421[]")),
    lambda session: SaveData(session, json.dumps({"x": "x" * 900})),
    lambda session: BindIdentity(session, "x" * 900),
    lambda _: StoreIdempotencyKey(EventHandled("/", "event", "", token_hex(), json.dumps(["x" * 900]), 0.0)),
]


@pytest.mark.parametrize("large", LARGE)
async def test_very_large_turns_that_wait_are_refused_beyond_their_bytes(
    core: Core, monkeypatch: pytest.MonkeyPatch, large: Callable[[Session], Operation]
) -> None:
    monkeypatch.setattr(commit_queue, "QUEUE_BYTES", 1_000)
    session, _ = await core.live()
    core.held.hold()
    turns = [core.begin(Emit(event("is being committed")))]
    await core.held.reached.wait()
    turns += [core.begin(large(session)) for _ in range(2)]
    with pytest.raises(QueueFull, match=r"2 turns of 1\d\d\d bytes"):
        await core.emit("too much")
    core.held.release()
    await asyncio.gather(*turns)
    assert await core.emit("fits again")


async def test_closing_lets_everything_in_the_queue_take_effect_and_nothing_more(core: Core) -> None:
    _, client = await core.live()
    core.held.hold()
    turns = [core.begin(Emit(event("one"))), core.begin(Emit(event("two")))]
    await core.held.reached.wait()
    turns.append(core.begin(EmitVolatile(event("three"))))
    core.dispatcher.close()
    with pytest.raises(StoreClosed):
        await core.emit("too late")
    with pytest.raises(StoreClosed):
        core.dispatcher.enqueue(EmitVolatile(event("too late")))
    core.held.release()
    await asyncio.gather(*turns)
    assert client.packets == [said("one", 1), said("two", 2), said("three", 2)]


async def test_a_busy_store_does_not_hold_up_the_end(core: Core) -> None:
    core.held.hold()
    emit = core.begin(Emit(event()))
    await core.held.reached.wait()
    core.held.failure = lambda _: StoreBusy()
    core.dispatcher.close()
    core.held.release()
    with pytest.raises(StoreBusy):
        await emit


async def test_when_the_dispatcher_is_cancelled_those_who_wait_hear_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "events.db") as log:
        held = HeldLog(log)
        dispatcher = Dispatcher(
            held, Registry(), TextEncoder(), tail_bytes=0, offsets=True, catch_up=lambda _: None
        )
        task, turns = asyncio.create_task(dispatcher.run()), [Emit(event()), Emit(event())]
        held.hold()
        for turn in turns:  # the first is being committed, the second waits
            turn.settled = asyncio.get_running_loop().create_future()
            dispatcher.enqueue(turn)
            await held.reached.wait()
        task.cancel()
        await asyncio.wait([task])
        for turn in turns:
            assert turn.settled is not None and turn.settled.done()
            assert isinstance(turn.settled.exception(), StoreClosed)
        with pytest.raises(StoreClosed):
            await dispatcher.submit(Emit(event()))


@pytest.mark.parametrize("error", [StoreUnavailable(), StoreRejected("a bad change")])
async def test_a_turn_that_nobody_waits_for_is_logged_when_it_fails(
    core: Core, caplog: pytest.LogCaptureFixture, error: StoreError
) -> None:
    core.held.fail_with(error, error)  # for the batch, then for the turn alone
    core.dispatcher.enqueue(Emit(event()))
    await core.emit()
    assert str(error) in caplog.text


async def test_a_connection_that_cannot_be_written_to_costs_nobody_else_an_event(core: Core) -> None:
    class Broken(Recorder):
        def write(self, batch: Sequence[Frames]) -> None:
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    broken = Broken("broken")
    assert await core.accept(await core.open("s1"), broken)
    _, client = await core.live("s2")
    await core.emit("for both")
    assert client.packets == [said("for both", 1)]
    assert broken.aborted == ["it could not be written to"] * 2  # with its CONNECT and with the event


async def test_answers_do_not_pile_up_without_bound_behind_a_store_that_is_stuck(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_queue, "QUEUE_BYTES", 1_000)
    _, client = await core.live()
    core.held.hold()
    emit = core.begin(Emit(event("stored")))
    await core.held.reached.wait()
    core.dispatcher.post(SendPacket(client, "/", Frames("43" + "x" * 2_000)))
    with pytest.raises(QueueFull):
        core.dispatcher.post(SendPacket(client, "/", Frames("43[]")))
    core.held.release()
    await emit


async def test_a_session_that_ends_while_others_are_written_to_harms_nobody(core: Core) -> None:
    class EndsAnother(Recorder):
        def write(self, batch: Sequence[Frames]) -> None:
            super().write(batch)
            if (gone := core.registry.get("/", "s2")) is not None:
                core.registry.remove(gone)
                gone.detach()

    first = EndsAnother()
    assert await core.accept(await core.open("s1"), first)
    first.batches.clear()
    _, second = await core.live("s2")
    _, third = await core.live("s3")
    await core.emit()
    assert (first.packets, second.packets, third.packets) == ([said("hello", 1)], [], [said("hello", 1)])
