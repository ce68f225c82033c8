"""A client that never confirms its events does not stop pruning for ever; an honest client is not limited."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from socketio_eventstore.core.position_history import POSITIONS_KEPT, PositionHistory
from socketio_eventstore.core.recovery import RecoveryLimits, RecoveryResult
from socketio_eventstore.core.session_operations import RefuseSession
from socketio_eventstore.core.sessions import Session, State
from support.core import Recorder
from support.embedded import Server, serving
from support.retaining import LIMIT_SECONDS, Kept, keeping

MAX_UNCONFIRMED_SECONDS = RecoveryLimits(LIMIT_SECONDS, 1, 1).max_unconfirmed_seconds
STEP_SECONDS = 10.0


class Returning:
    """A client that comes back every few seconds, while a server sweeps."""

    def __init__(self, kept: Kept) -> None:
        self.core = kept.core
        self.seen = kept.seen
        self._kept = kept

    def now(self) -> float:
        return self._kept.uptime

    async def pass_time(self, seconds: float = STEP_SECONDS) -> None:
        await self._kept.pass_time(seconds)
        await self._kept.sweep()

    def find(self, offset: str | None = None) -> Session | RecoveryResult:
        return self._kept.recovery.find("/", "s1", offset, self.now())

    async def come_back(self, offset: str | None = None) -> Recorder | RecoveryResult:
        """The connection, or the reason for its refusal."""
        found = self.find(offset)
        if isinstance(found, RecoveryResult):
            return found
        connection = Recorder()
        attached = await self.core.claim(found, connection)
        answer = await self._kept.recovery.decide(found, offset, self.core.queue.position, self.now)
        if isinstance(answer, RecoveryResult):
            await self.core.queue.submit(RefuseSession(found, attached, None, 1_001.0))
            return answer
        assert await self.core.resume(found, attached, answer)
        return connection

    async def visit(self, offset: str | None = None) -> RecoveryResult:
        """Connect, and disconnect before any heartbeat."""
        answer = await self.come_back(offset)
        if isinstance(answer, RecoveryResult):
            return answer
        await self.core.away(answer.sessions["/"])
        return RecoveryResult.RECOVERED


@pytest.fixture(name="client")
async def returning_client(tmp_path: Path) -> AsyncIterator[Returning]:
    """The only client; it has missed the first event."""
    async with keeping(tmp_path / "events.db") as kept:
        session, _ = await kept.core.live()
        await kept.core.away(session)
        await kept.core.emit("missed")
        yield Returning(kept)


async def test_unconfirming_client_is_refused(
    client: Returning,
) -> None:
    """A client that returns without confirming is refused at last, and pruning goes on."""
    await client.pass_time()
    while client.now() <= MAX_UNCONFIRMED_SECONDS:
        assert await client.visit() is RecoveryResult.RECOVERED
        assert client.core.log.pruned_through == 0
        await client.pass_time()
    await client.pass_time()
    assert await client.visit() is RecoveryResult.EXPIRED
    while client.core.log.pruned_through == 0:
        assert client.now() < MAX_UNCONFIRMED_SECONDS + LIMIT_SECONDS + 5 * STEP_SECONDS
        await client.pass_time()
    assert client.seen.all == ["s1"] and list(client.core.registry) == []


async def test_takeovers_do_not_extend_the_time(client: Returning) -> None:
    """Takeovers do not extend the time in which a client must confirm its events."""
    await client.pass_time()
    connection = await client.come_back()
    for _ in range(int(MAX_UNCONFIRMED_SECONDS // STEP_SECONDS)):
        await client.pass_time()
        connection = await client.come_back()
        assert isinstance(connection, Recorder)
    await client.pass_time(2 * STEP_SECONDS)
    assert await client.come_back() is RecoveryResult.EXPIRED
    (session,) = client.core.registry
    # The owner has not lost it: the connection is closed without a DISCONNECT packet.
    assert session.state is State.AWAY and isinstance(connection, Recorder)
    assert connection.aborted != [] and "41" not in connection.packets


async def test_answered_heartbeats_extend_the_time(client: Returning) -> None:
    """A client that answers heartbeats may replay as long as it needs.

    A replay over a slow line: heartbeats show that it goes on, the offset shows how far it came.
    """
    (session,) = client.core.registry
    await client.pass_time()
    for _ in range(int(3 * MAX_UNCONFIRMED_SECONDS // STEP_SECONDS)):
        connection = await client.come_back()
        assert isinstance(connection, Recorder)
        session.state, session.current.sent = State.REPLAYING, 0
        connection.ping_written(client.core.queue.position, client.now())
        connection.pong_received()
        session.state = State.LIVE
        await client.core.away(session)
        await client.pass_time()
    assert (session.confirmed, client.core.log.pruned_through) == (0, 0)


async def test_offset_of_returning_client_confirms(client: Returning) -> None:
    """The offset of a returning client confirms its events.

    Every connection is too short for a heartbeat, and each time there is a new event.
    """
    for number in range(1, int(3 * MAX_UNCONFIRMED_SECONDS // LIMIT_SECONDS)):
        await client.pass_time(LIMIT_SECONDS - 1.0)
        assert await client.visit(f"boot.{number - 1}") is RecoveryResult.RECOVERED
        await client.core.emit("another")
    assert client.core.log.pruned_through > 0


async def test_quiet_client_does_not_delay_pruning(client: Returning) -> None:
    """A client without missed events does not delay pruning."""
    for _ in range(int(3 * MAX_UNCONFIRMED_SECONDS // STEP_SECONDS)):
        await client.pass_time()
        assert await client.visit("boot.1") is RecoveryResult.RECOVERED
    assert client.core.log.pruned_through == 1


async def test_skipped_events_need_no_confirmation(
    client: Returning,
) -> None:
    """Events that skip a client need no confirmation of it.

    An event that a client emits to all others is among its missed events, but is never sent to it.
    """
    await client.pass_time()
    assert await client.visit("boot.1") is RecoveryResult.RECOVERED
    await client.core.emit("its own", skip=("s1",))
    while client.core.log.pruned_through < 2:
        assert client.now() < MAX_UNCONFIRMED_SECONDS + 10 * STEP_SECONDS
        await client.pass_time()
        assert await client.visit("boot.1") is RecoveryResult.RECOVERED


async def test_connecting_does_not_extend_the_time(client: Returning) -> None:
    """The time in which to return goes on while a session connects.

    Otherwise attempts that are never accepted would keep the missed events for ever.
    """
    (session,) = client.core.registry
    while client.now() <= LIMIT_SECONDS:
        assert client.find() is session
        await client.core.claim(session, Recorder())
        await client.pass_time()
    assert session.state is State.CONNECTING
    assert client.find() is RecoveryResult.EXPIRED


async def test_refused_client_gets_a_new_session(tmp_path: Path) -> None:
    """The refused client gets a new session, and the result is counted."""

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
        now = runtime.context.uptime
        assert await come_and_go(server, pid) == pid
        runtime.recovery.position_history.note(now - limits.max_unconfirmed_seconds, runtime.queue.position)
        (session,) = runtime.registry
        session.pong_at = now - limits.max_unconfirmed_seconds - 1.0
        assert await come_and_go(server, pid) != pid
        assert runtime.recovery.results == {RecoveryResult.RECOVERED: 1, RecoveryResult.EXPIRED: 1}


# The position history -------------------------------------------------------------------------------


def test_position_passes_after_the_reach() -> None:
    """A noted position has passed when it is older than the reach."""
    history = PositionHistory(100.0)
    assert history.passed(1_000.0) == 0
    for at, position in ((0.0, 5), (50.0, 7), (120.0, 9)):
        history.note(at, position)
    assert [history.passed(now) for now in (99.0, 100.0, 149.0, 150.0, 219.0, 220.0)] == [0, 5, 5, 7, 7, 9]


def test_position_history_is_bounded() -> None:
    """The position history is bounded, however often positions are noted."""
    history = PositionHistory(100.0)
    for step in range(10_000):
        if history.is_due(step / 10, step):
            history.note(step / 10, step)
    assert len(history._noted) <= POSITIONS_KEPT + 2
    assert 8_950 <= history.passed(1_000.0) <= 9_000
