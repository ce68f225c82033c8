from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest

from socketio_eventlog.records import Membership, Missed, SessionOpened
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.core.operations import Emit, JoinRoom, LeaveRoom
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits, RecoveryResult, Restore, hash_pid
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import Session, State
from support.core import Core, Recorder
from support.storing import event, opened

LIMITS = RecoveryLimits(max_disconnection_seconds=60.0, max_missed_packets=100, max_missed_bytes=10_000)
SIZE_BYTES = event("hello").size_bytes


async def decide(
    core: Core,
    offset: object,
    *,
    pid: object = "s1",
    namespace: str = "/",
    now: float = 0.0,
    limits: RecoveryLimits = LIMITS,
) -> int | RecoveryResult:
    """The cursor from which the session of the pid is restored, or why it is not."""
    recovery = Recovery(core.log, core.registry, limits)
    answer = await recovery.decide(namespace, pid, offset, core.queue.position, lambda: now)
    if isinstance(answer, Restore):
        assert answer.session is core.registry.get("/", "s1")
        return answer.cursor
    return answer


async def away_in_the_middle(core: Core) -> Session:
    """Two events, the session's start, three events that it misses."""
    for _ in range(2):
        await core.emit()
    session, _ = await core.live()
    await core.away(session)
    for _ in range(3):
        await core.emit()
    return session


# From where -----------------------------------------------------------------------------------------


async def test_what_is_missed_is_what_came_after_the_clients_offset(core: Core) -> None:
    await away_in_the_middle(core)
    assert await decide(core, "boot.3") == 3
    assert await decide(core, "boot.5") == 5


async def test_without_an_offset_it_is_everything_since_the_sessions_start(core: Core) -> None:
    await away_in_the_middle(core)
    assert await decide(core, None) == 2


async def test_an_offset_from_before_the_sessions_start_means_its_start(core: Core) -> None:
    await away_in_the_middle(core)
    assert await decide(core, "boot.1") == await decide(core, "boot.0") == 2


async def test_what_was_confirmed_is_not_sent_again_whatever_the_client_says(core: Core) -> None:
    session = await away_in_the_middle(core)
    session.confirm(4)
    assert await decide(core, "boot.3") == await decide(core, None) == 4
    assert await decide(core, "boot.5") == 5


async def test_what_was_not_for_the_session_is_passed_over(core: Core) -> None:
    session = await away_in_the_middle(core)
    session.confirm(5)
    for room in ("other", "other", "s1", "other"):
        await core.emit("x", room)
    assert await decide(core, "boot.5") == 7  # it misses the eighth only
    assert await decide(core, "boot.8") == 9


async def test_the_rows_of_an_offset_need_not_exist_any_more(core: Core) -> None:
    session = await away_in_the_middle(core)
    session.confirm(4)
    assert await core.log.prune(through=4, emitted_before=2_000.0) == 4
    for offset in ("boot.0", "boot.1", "boot.3", "boot.4", None):
        assert await decide(core, offset) == 4


async def test_the_offset_that_the_client_brought_along_means_that_it_has_received_nothing(
    core: Core,
) -> None:
    await core.emit()
    session = await core.open(former="elsewhere.77")
    await core.accept(session, Recorder())
    await core.away(session)
    await core.emit()
    assert await decide(core, "elsewhere.77") == 1
    assert await decide(core, "elsewhere.78") is RecoveryResult.ROLLED_BACK
    assert await decide(core, "boot.2") == 2


async def test_a_client_that_is_connected_may_be_taken_over(core: Core) -> None:
    session, _ = await core.live()
    await core.emit()
    assert await decide(core, "boot.1", now=1_000_000.0) == 1
    assert session.state is State.LIVE


async def test_deciding_changes_nothing(core: Core) -> None:
    session = await away_in_the_middle(core)
    before, current = (session.state, session.claim, session.confirmed), replace(session.current)
    await decide(core, "boot.3")
    assert (session.state, session.claim, session.confirmed) == before
    assert astuple(session.current) == astuple(current)


# Who ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pid", ["nobody's", "", "S1", None, 42, ["s1"], {"pid": "s1"}, True, b"s1", "\ud800"]
)
async def test_a_pid_that_is_nobodys_opens_nothing(core: Core, pid: object) -> None:
    await core.live()
    assert await decide(core, None, pid=pid) is RecoveryResult.UNKNOWN_SESSION


async def test_a_pid_opens_only_its_own_namespace(core: Core) -> None:
    await core.live()
    assert await decide(core, None, namespace="/other") is RecoveryResult.UNKNOWN_SESSION
    assert await decide(core, None, namespace="/") == 0


async def test_a_session_that_is_over_is_unknown(core: Core) -> None:
    session, _ = await core.live()
    session.move(State.ENDED)
    assert await decide(core, None) is RecoveryResult.UNKNOWN_SESSION


class AskedLog:
    """A real log that does something while it is asked."""

    def __init__(self, log: EventLog, meanwhile: Callable[[], None]) -> None:
        self._log = log
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def missed(
        self, namespace: str, memberships: Sequence[Membership], after: int, through: int, **options: Any
    ) -> Missed:
        missed = await self._log.missed(namespace, memberships, after, through, **options)
        self._meanwhile()
        return missed


async def test_a_session_that_ends_while_the_log_is_asked_is_unknown(core: Core) -> None:
    session = await away_in_the_middle(core)
    log: Any = AskedLog(core.log, lambda: session.move(State.ENDED))
    recovery = Recovery(log, core.registry, LIMITS)
    assert await recovery.decide("/", "s1", None, 5, lambda: 0.0) is RecoveryResult.UNKNOWN_SESSION


async def test_a_session_that_expires_while_the_log_is_asked_has_expired(core: Core) -> None:
    await away_in_the_middle(core)
    now = [0.0]
    log: Any = AskedLog(core.log, lambda: now.append(61.0))
    recovery = Recovery(log, core.registry, LIMITS)
    assert await recovery.decide("/", "s1", None, 5, lambda: now[-1]) is RecoveryResult.EXPIRED


def test_a_pid_is_known_by_its_hash_only() -> None:
    assert hash_pid("pid") == hashlib.sha256(b"pid").digest()
    assert len({hash_pid("\ud800"), hash_pid("\ud801"), hash_pid("")}) == 3


# Refused offsets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offset",
    [
        *("", "boot", "boot.", ".1", "boot.-1", "boot.1.2", "boot.x", "boot.01", "boot.1 ", "1", "boot.1\n"),
        *("é.1", "boot.é", "boot.¹", "boot." + "9" * 5_000, "\ud800.1"),
        *(3, 3.0, True, ["boot.3"], {"offset": "boot.3"}, b"boot.3"),
    ],
)
async def test_what_is_not_of_our_form_is_a_bad_offset(core: Core, offset: object) -> None:
    await away_in_the_middle(core)
    assert await decide(core, offset) is RecoveryResult.BAD_OFFSET


@pytest.mark.parametrize("offset", ["boot.6", "boot.999999999", "another.3", "another.0"])
async def test_an_offset_of_another_future_is_recognised(core: Core, offset: str) -> None:
    await away_in_the_middle(core)
    assert await decide(core, offset) is RecoveryResult.ROLLED_BACK


async def sessions_of(log: EventLog) -> Registry:
    registry = Registry()
    for stored in await log.load_sessions():
        registry.add(Session.restore(stored, 0.0))
    return registry


def opening(former_offset: str | None = None) -> SessionOpened:
    return SessionOpened("/", "s1", hash_pid("s1"), former_offset, 1_000.0)


async def test_offsets_of_earlier_starts_of_the_server_are_known(path: Path) -> None:
    async with opened(path, new_epoch=lambda: "one") as log:
        await log.commit([event("a"), opening(), event("b"), event("c")])
    async with opened(path, new_epoch=lambda: "two") as log:
        await log.commit([event("d"), event("e")])
        recovery = Recovery(log, await sessions_of(log), LIMITS)

        async def cursor(offset: str | None) -> int | RecoveryResult:
            answer = await recovery.decide("/", "s1", offset, 5, lambda: 0.0)
            return answer.cursor if isinstance(answer, Restore) else answer

        assert [await cursor(f"one.{number}") for number in range(4)] == [1, 1, 2, 3]
        assert [await cursor(f"two.{number}") for number in (3, 4, 5)] == [3, 4, 5]
        assert await cursor(None) == 1
        assert await cursor("one.4") is RecoveryResult.ROLLED_BACK  # its boot did not write that far
        assert await cursor("two.6") is RecoveryResult.ROLLED_BACK
        assert await cursor("two.2") is RecoveryResult.ROLLED_BACK  # nor did this one begin so early


async def test_a_lost_future_from_before_the_session_means_its_start(path: Path) -> None:
    async with opened(path, new_epoch=lambda: "one") as log:
        await log.commit([event("a"), event("b")])
    async with opened(path, new_epoch=lambda: "two") as log:
        await log.commit([opening(), event("c")])
        recovery = Recovery(log, await sessions_of(log), LIMITS)
        answer = await recovery.decide("/", "s1", "one.99", 3, lambda: 0.0)
        assert isinstance(answer, Restore) and answer.cursor == 2


async def test_an_older_copy_of_the_database_knows_its_own_offsets_only(tmp_path: Path) -> None:
    original, copy = tmp_path / "events.db", tmp_path / "copy.db"
    async with opened(original, new_epoch=lambda: "one") as log:
        await log.commit([opening(), event("a")])
    copy.write_bytes(original.read_bytes())
    async with opened(original, new_epoch=lambda: "two") as log:
        await log.commit([event("lost")])
        lost = str(log.offset_at(2))
    async with opened(copy, new_epoch=lambda: "three") as log:
        await log.commit([event("b")])
        recovery = Recovery(log, await sessions_of(log), LIMITS)
        assert await recovery.decide("/", "s1", lost, 2, lambda: 0.0) is RecoveryResult.ROLLED_BACK
        answer = await recovery.decide("/", "s1", "one.1", 2, lambda: 0.0)
        assert isinstance(answer, Restore) and answer.cursor == 1


# Limits ---------------------------------------------------------------------------------------------


async def test_a_session_expires_by_the_service_clock(core: Core) -> None:
    session, _ = await core.live()
    await core.away(session, at=10.0)
    assert await decide(core, None, now=70.0) == 0
    assert await decide(core, None, now=70.001) is RecoveryResult.EXPIRED


async def test_only_what_is_away_expires(core: Core) -> None:
    recovery = Recovery(core.log, core.registry, LIMITS)
    session = await core.open()
    assert not recovery.is_expired(session, 1_000.0)
    await core.accept(session, Recorder())
    assert not recovery.is_expired(session, 1_000.0)
    await core.away(session, at=0.0)
    assert recovery.is_expired(session, 1_000.0) and not recovery.is_expired(session, 60.0)
    session.move(State.ENDED)
    assert not recovery.is_expired(session, 1_000.0)


async def test_more_packets_than_the_limit_are_too_many(core: Core) -> None:
    await away_in_the_middle(core)
    three, two = RecoveryLimits(60.0, 3, 10_000), RecoveryLimits(60.0, 2, 10_000)
    assert await decide(core, "boot.2", limits=three) == 2
    assert await decide(core, "boot.2", limits=two) is RecoveryResult.TOO_MANY_MISSED
    assert await decide(core, "boot.3", limits=two) == 3


async def test_more_bytes_than_the_limit_are_too_many(core: Core) -> None:
    await away_in_the_middle(core)
    enough, short = RecoveryLimits(60.0, 100, 3 * SIZE_BYTES), RecoveryLimits(60.0, 100, 3 * SIZE_BYTES - 1)
    assert await decide(core, "boot.2", limits=enough) == 2
    assert await decide(core, "boot.2", limits=short) is RecoveryResult.TOO_MANY_MISSED
    attached = Emit(event("x", attachments=(b"y" * 3 * SIZE_BYTES,)))
    await core.queue.submit(attached)
    assert await decide(core, "boot.5", limits=enough) is RecoveryResult.TOO_MANY_MISSED


async def test_what_is_not_for_the_session_does_not_count_against_its_limits(core: Core) -> None:
    session, _ = await core.live("s1", "room")
    await core.away(session)
    for number in range(20):
        await core.emit("x", "room" if number in (4, 14) else "other")
    assert await decide(core, "boot.0", limits=RecoveryLimits(60.0, 2, 10_000)) == 4


async def test_what_was_confirmed_does_not_count_against_the_limits(core: Core) -> None:
    session = await away_in_the_middle(core)
    session.confirm(4)
    for offset in ("boot.0", "boot.2", None):
        assert await decide(core, offset, limits=RecoveryLimits(60.0, 1, SIZE_BYTES)) == 4


async def test_memberships_of_the_time_of_the_event_count(core: Core) -> None:
    session, _ = await core.live("s1", "left")
    await core.away(session)
    changes = [
        Emit(event("before", rooms=("joined",))),
        Emit(event("hers 1", rooms=("left",))),
        LeaveRoom(session, "left"),
        JoinRoom(session, "joined"),
        Emit(event("after", rooms=("left",))),
        Emit(event("hers 2", rooms=("joined",))),
    ]
    for turn in changes:
        await core.queue.submit(turn)
    assert await decide(core, "boot.0", limits=RecoveryLimits(60.0, 2, 10_000)) == 1
    assert (
        await decide(core, "boot.0", limits=RecoveryLimits(60.0, 1, 10_000)) is RecoveryResult.TOO_MANY_MISSED
    )


# Counting -------------------------------------------------------------------------------------------


def test_the_results_have_the_names_of_the_metric() -> None:
    assert [str(result) for result in RecoveryResult] == [
        "recovered",
        "unknown_session",
        "expired",
        "bad_offset",
        "rolled_back",
        "too_many_missed",
        "refused",
    ]


async def test_answers_are_counted_and_logged(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    recovery = Recovery(core.log, core.registry, LIMITS)
    recovery.count(RecoveryResult.EXPIRED, "s1")
    recovery.count(RecoveryResult.EXPIRED)
    recovery.count(RecoveryResult.RECOVERED, "s2")
    assert recovery.results == {RecoveryResult.EXPIRED: 2, RecoveryResult.RECOVERED: 1}
    assert caplog.messages == ["reconnection of s1: expired", "reconnection of an unknown session: expired"]
