from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from socketio_eventlog.errors import StoreUnavailable
from socketio_eventlog.records import Event, SessionAway, SessionEnded
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.core.operations import Emit, EmitVolatile, SendPacket
from socketio_eventstore.core.packets import Frames
from socketio_eventstore.core.session_operations import (
    AcceptSession,
    DisconnectSession,
    EndSession,
    RefuseSession,
    RevokeSession,
)
from socketio_eventstore.core.sessions import State
from support.core import Core, Recorder, holding, said
from support.embedded import serving
from support.storing import event


async def only_away_since(log: EventLog) -> float | None:
    (stored,) = await log.load_sessions()
    return stored.away_since


async def test_a_disconnection_that_cannot_be_stored_is_written_with_the_next_commit(core: Core) -> None:
    session, _ = await core.live()
    core.held.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.away(session, at=7.5)
    assert session.state is State.AWAY
    assert await only_away_since(core.log) is None
    await core.emit("next")
    assert await only_away_since(core.log) == 7.5
    assert [type(change) for change in core.held.committed[-1]] == [SessionAway, Event]


async def test_what_is_owed_is_kept_over_several_failures_and_written_once(core: Core) -> None:
    session, _ = await core.live()
    core.held.fail_with(*[StoreUnavailable() for _ in range(3)])
    with pytest.raises(StoreUnavailable):
        await core.away(session, at=7.5)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await core.emit("lost")
    await core.emit("one")
    await core.emit("two")
    assert [len(changes) for changes in core.held.committed[-2:]] == [2, 1]
    assert await only_away_since(core.log) == 7.5


async def test_an_unstored_packet_writes_what_is_owed_and_is_sent_after_it(core: Core) -> None:
    gone, _ = await core.live("gone")
    _, client = await core.live("here")
    core.held.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.away(gone, at=7.5)
    core.held.hold()
    reply = core.begin(SendPacket(client, "/", Frames("43[]")))
    await core.held.reached.wait()
    assert client.batches == []
    core.held.release()
    await reply
    assert client.packets == ["43[]"]
    assert [type(change) for change in core.held.committed[-1]] == [SessionAway]


async def test_a_client_that_is_back_before_its_departure_could_be_stored_stays_connected(
    core: Core,
) -> None:
    session, _ = await core.live()
    core.held.hold()
    core.held.fail_with(StoreUnavailable(), StoreUnavailable())
    away, back = core.begin(core.leave(session)), Recorder("back")
    await core.held.reached.wait()
    session.attach(back, 0)
    core.held.release()
    await asyncio.gather(away, return_exceptions=True)
    core.held.fail_with()
    await core.dispatcher.submit(AcceptSession(session, session.claim, "s1", 1_003.0))
    assert await only_away_since(core.log) is None
    assert session.state is State.LIVE and back.packets == ['40{"sid":"s1","pid":"s1"}']


async def test_an_acceptance_that_cannot_be_stored_closes_the_transport_without_a_packet(core: Core) -> None:
    session, _ = await core.live()
    await core.away(session)
    again = Recorder("again")
    core.held.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.recover(session, again, cursor=0)
    assert again.packets == [] and again.aborted == ["the store is not available"]
    assert session.state is State.CONNECTING


async def test_a_refusal_that_cannot_be_stored_closes_the_transport_without_a_packet_and_is_owed(
    core: Core,
) -> None:
    session, connection = await core.open(), Recorder()
    claim = session.attach(connection, 0)
    core.held.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.dispatcher.submit(RefuseSession(session, claim, Frames("44{}"), 1_001.0))
    assert connection.packets == [] and connection.aborted == ["the store is not available"]
    assert session.state is State.ENDED and core.registry.get("/", "s1") is None
    await core.emit()
    assert [type(change) for change in core.held.committed[-1]] == [SessionEnded, Event]
    assert await core.log.load_sessions() == []


async def test_a_transport_is_not_given_connect_error_or_disconnect_when_the_store_fails(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path / "events.db") as server, holding(server) as held:
        first = await server.socket()
        pid = (await first.connect())["pid"]
        held.failure = lambda _: StoreUnavailable("The disk is full.")
        for auth in (None, {"pid": pid}):  # a new session, and one that takes over its own
            client = await server.socket()
            await client.send("40" + ("" if auth is None else f'{{"pid":"{pid}"}}'))
            assert await client.rest() == []
        assert await first.rest() == []  # it was displaced, and comes back for its session
        held.fail_with()
        again = await server.socket()
        answer = await again.connect(auth={"pid": pid})
        assert (answer["pid"], answer["sid"]) == (pid, first.sid)


@pytest.mark.parametrize("wanted", [RevokeSession, DisconnectSession])
async def test_an_end_that_happened_is_owed_and_one_that_is_wanted_changes_nothing(
    core: Core, wanted: type[EndSession]
) -> None:
    kept, client = await core.live("kept")
    gone, other = await core.live("gone")
    core.held.fail_with(StoreUnavailable(), StoreUnavailable())
    for turn in (wanted(kept), EndSession(gone)):
        with pytest.raises(StoreUnavailable):
            await core.dispatcher.submit(turn)
    assert kept.state is State.LIVE and client.packets == []
    assert gone.state is State.ENDED and other.packets == []
    assert await core.emit() == "boot.1"
    assert client.packets == [said("hello", 1)] and other.packets == []
    assert [stored.sid for stored in await core.log.load_sessions()] == ["kept"]
    await core.dispatcher.submit(wanted(kept))
    assert client.packets[1:] == (["41"] if wanted is DisconnectSession else [])
    assert await core.log.load_sessions() == []


async def test_of_a_session_that_went_and_ended_only_the_end_is_owed(core: Core) -> None:
    session, _ = await core.live()
    core.held.fail_with(StoreUnavailable(), StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.away(session)
    with pytest.raises(StoreUnavailable):
        await core.dispatcher.submit(EndSession(session))
    await core.emit()
    assert [type(change) for change in core.held.committed[-1]] == [SessionEnded, Event]
    assert await core.log.load_sessions() == []


async def test_what_is_owed_can_be_tried_again_without_any_turn(core: Core) -> None:
    session, _ = await core.live()
    core.held.fail_with(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        await core.away(session, at=7.5)
    core.held.reached.clear()
    core.dispatcher.retry_pending_changes()
    await core.held.reached.wait()
    await core.emit()
    assert [type(change) for change in core.held.committed[-2]] == [SessionAway]
    core.dispatcher.retry_pending_changes()  # nothing is left
    await core.emit()
    assert [len(changes) for changes in core.held.committed[-2:]] == [1, 1]


async def test_packets_that_are_not_stored_are_sent_in_their_place_although_the_store_fails(
    core: Core,
) -> None:
    _, client = await core.live()
    core.held.failure = lambda _: StoreUnavailable()
    core.held.hold()
    turns = [
        core.begin(Emit(event("lost"))),
        core.begin(SendPacket(client, "/", Frames("431[]"))),
        core.begin(EmitVolatile(event("volatile"))),
        core.begin(Emit(event("lost, too"))),
        core.begin(SendPacket(client, "/", Frames("432[]"))),
    ]
    await core.held.reached.wait()
    core.held.release()
    results = await asyncio.gather(*turns, return_exceptions=True)
    assert [isinstance(result, StoreUnavailable) for result in results] == [True, False, False, True, False]
    assert client.packets == ["431[]", said("volatile", 0), "432[]"]
