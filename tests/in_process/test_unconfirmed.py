"""Who never confirms what it was sent does not hold up pruning for ever; who is honest never notices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from socketio_eventstore.core.position_history import POSITIONS_KEPT, PositionHistory
from socketio_eventstore.core.recovery import RecoveryLimits, RecoveryResult, Restore
from socketio_eventstore.core.session_operations import RevokeSession
from socketio_eventstore.core.sessions import ClientConnection, Session, State
from support.core import Core, Recorder, running
from support.embedded import Server, serving
from support.retaining import LIMIT_SECONDS, Kept

PATIENCE_SECONDS = RecoveryLimits(LIMIT_SECONDS, 1, 1).max_unconfirmed_seconds
STEP_SECONDS = 10.0


class Returning(Kept):
    """A client that comes back every few seconds, while a server sweeps."""

    def __init__(self, core: Core) -> None:
        async def end(session: Session) -> None:
            await core.dispatcher.submit(RevokeSession(session))

        super().__init__(core, end)
        self.recovery = self.retention._recovery
        self.now = self.monotonic

    async def pass_time(self, seconds: float = STEP_SECONDS) -> None:
        self.now.now += seconds
        self.wall.now += seconds
        await self.sweep()

    async def decide(self, offset: str | None = None) -> Restore | RecoveryResult:
        return await self.recovery.decide("/", "s1", offset, self.core.dispatcher.position, self.now)

    async def come_back(self, offset: str | None = None) -> ClientConnection | RecoveryResult:
        """The connection, or why there is none."""
        answer = await self.decide(offset)
        if isinstance(answer, RecoveryResult):
            return answer
        connection = Recorder()
        await self.core.recover(answer.session, connection, answer.cursor)
        return connection

    async def visit(self, offset: str | None = None) -> RecoveryResult:
        """Come back, and be gone again before any heartbeat."""
        answer = await self.come_back(offset)
        if isinstance(answer, RecoveryResult):
            return answer
        await self.core.away(answer.sessions["/"], self.now())
        return RecoveryResult.RECOVERED


@pytest.fixture(name="client")
async def returning_client(tmp_path: Path) -> AsyncIterator[Returning]:
    """It has missed the first event, and nobody else is there."""
    async with running(tmp_path / "events.db") as core:
        client = Returning(core)
        session, _ = await core.live()
        await core.away(session)
        await core.emit("missed")
        yield client


async def test_who_returns_for_ever_without_confirming_is_refused_and_pruning_goes_on(
    client: Returning,
) -> None:
    await client.pass_time()
    while client.now() <= PATIENCE_SECONDS:
        assert await client.visit() is RecoveryResult.RECOVERED
        assert client.core.log.pruned_through == 0
        await client.pass_time()
    await client.pass_time()
    assert await client.visit() is RecoveryResult.EXPIRED
    while client.core.log.pruned_through == 0:
        assert client.now() < PATIENCE_SECONDS + LIMIT_SECONDS + 5 * STEP_SECONDS
        await client.pass_time()
    assert client.seen.all == ["s1"] and list(client.core.registry) == []


async def test_a_takeover_without_an_end_helps_it_no_more(client: Returning) -> None:
    await client.pass_time()
    connection = await client.come_back()
    for _ in range(int(PATIENCE_SECONDS // STEP_SECONDS)):
        await client.pass_time()
        connection = await client.come_back()
        assert isinstance(connection, ClientConnection)
    await client.pass_time(2 * STEP_SECONDS)
    assert await client.come_back() is RecoveryResult.EXPIRED
    (session,) = client.core.registry
    assert session.state is State.LIVE  # its last connection ends as any that answers no heartbeat


async def test_who_answers_a_heartbeat_may_take_as_long_as_it_needs(client: Returning) -> None:
    """A replay over a slow line: the heartbeats say that it goes on, the offset says how far."""
    (session,) = client.core.registry
    await client.pass_time()
    for _ in range(int(3 * PATIENCE_SECONDS // STEP_SECONDS)):
        connection = await client.come_back()
        assert isinstance(connection, ClientConnection)
        session.state, session.sent = State.REPLAYING, 0
        connection.ping_written(client.core.dispatcher.position, client.now())
        connection.pong_received()
        session.state = State.LIVE
        await client.core.away(session, client.now())
        await client.pass_time()
    assert (session.confirmed, client.core.log.pruned_through) == (0, 0)


async def test_who_says_by_its_offset_what_it_received_is_believed(client: Returning) -> None:
    """Every connection is too short for a heartbeat, and each time there is something new."""
    for number in range(1, int(3 * PATIENCE_SECONDS // LIMIT_SECONDS)):
        await client.pass_time(LIMIT_SECONDS - 1.0)
        assert await client.visit(f"boot.{number - 1}") is RecoveryResult.RECOVERED
        await client.core.emit("another")
    assert client.core.log.pruned_through > 0


async def test_a_quiet_client_is_not_waited_for(client: Returning) -> None:
    for _ in range(int(3 * PATIENCE_SECONDS // STEP_SECONDS)):
        await client.pass_time()
        assert await client.visit("boot.1") is RecoveryResult.RECOVERED
    assert client.core.log.pruned_through == 1


async def test_events_that_a_client_is_not_sent_are_neither_waited_for_nor_held_against_it(
    client: Returning,
) -> None:
    """What it says itself and others hear: it is among its missed events, but never sent to it."""
    await client.pass_time()
    assert await client.visit("boot.1") is RecoveryResult.RECOVERED
    await client.core.emit("its own", skip=("s1",))
    while client.core.log.pruned_through < 2:
        assert client.now() < PATIENCE_SECONDS + 10 * STEP_SECONDS
        await client.pass_time()
        assert await client.visit("boot.1") is RecoveryResult.RECOVERED


async def test_while_it_connects_the_time_in_which_to_return_goes_on(client: Returning) -> None:
    """Or one attempt after the other, none of which is ever accepted, would keep what it missed."""
    (session,) = client.core.registry
    while client.now() <= LIMIT_SECONDS:
        assert isinstance(await client.decide(), Restore)
        session.attach(Recorder(), 0)
        await client.pass_time()
    assert session.state is State.CONNECTING
    assert await client.decide() is RecoveryResult.EXPIRED


async def test_the_client_gets_a_new_session_and_the_reason_is_counted(tmp_path: Path) -> None:
    async def come_and_go(server: Server, pid: str) -> str:
        client = await server.socket()
        answer = await client.connect(auth={"pid": pid})
        await client.leave()
        return str(answer["pid"])

    async with serving(tmp_path / "events.db", ping_interval=5.0, ping_timeout=3.0) as server:
        runtime = await server.manager.start()
        limits = runtime.recovery._limits
        assert limits.heartbeat_seconds == 8.0
        pid = str((await (await server.socket()).connect())["pid"])
        await server.sio.emit("missed")
        now = runtime.clock()
        assert await come_and_go(server, pid) == pid
        runtime.recovery.position_history.note(
            now - limits.max_unconfirmed_seconds, runtime.dispatcher.position
        )
        (session,) = runtime.registry
        session.pong_at = now - limits.max_unconfirmed_seconds - 1.0
        assert await come_and_go(server, pid) != pid
        assert runtime.recovery.results == {RecoveryResult.RECOVERED: 1, RecoveryResult.EXPIRED: 1}


# Milestones -----------------------------------------------------------------------------------------


def test_a_milestone_counts_when_it_is_far_enough() -> None:
    milestones = PositionHistory(100.0)
    assert milestones.passed(1_000.0) == 0
    for at, position in ((0.0, 5), (50.0, 7), (120.0, 9)):
        milestones.note(at, position)
    assert [milestones.passed(now) for now in (99.0, 100.0, 149.0, 150.0, 219.0, 220.0)] == [0, 5, 5, 7, 7, 9]


def test_milestones_are_few_however_often_they_are_noted() -> None:
    milestones = PositionHistory(100.0)
    for step in range(10_000):
        milestones.note(step / 10, step)
    assert len(milestones._noted) <= POSITIONS_KEPT + 2
    assert 8_950 <= milestones.passed(1_000.0) <= 9_000
