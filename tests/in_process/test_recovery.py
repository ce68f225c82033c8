from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from socketio_eventlog.events import MissedSummary
from socketio_eventlog.session_changes import SessionOpened
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.core.operations import Emit, JoinRoom, LeaveRoom, Prune
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits, RecoveryResult, hash_pid
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import Session, State
from support.core import Core
from support.storing import commit, event, opened, stored_sessions

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
    """The cursor from which the session of the pid is recovered, or the reason for a refusal."""
    recovery = Recovery(core.log, core.registry, limits)
    found = recovery.find(namespace, pid, offset, now)
    if isinstance(found, RecoveryResult):
        return found
    assert found is core.registry.get("/", "s1")
    return await recovery.decide(found, offset, core.queue.position, lambda: now)


async def away_in_the_middle(core: Core) -> Session:
    """Two events, the session's start, three events that it misses."""
    for _ in range(2):
        await core.emit()
    session, _ = await core.live()
    await core.away(session)
    for _ in range(3):
        await core.emit()
    return session


# The cursor -----------------------------------------------------------------------------------------


async def test_cursor_is_the_clients_offset(core: Core) -> None:
    """The cursor is the client's offset: the events after it are missed."""
    await away_in_the_middle(core)
    assert await decide(core, "boot.3") == 3
    assert await decide(core, "boot.5") == 5


async def test_missing_offset_means_the_sessions_start(core: Core) -> None:
    """A missing offset means the session's start."""
    await away_in_the_middle(core)
    assert await decide(core, None) == 2


async def test_earlier_offset_means_the_sessions_start(core: Core) -> None:
    """An offset from before the session's start means its start."""
    await away_in_the_middle(core)
    assert await decide(core, "boot.1") == await decide(core, "boot.0") == 2


async def test_confirmed_events_are_not_sent_again(core: Core) -> None:
    """Confirmed events are not sent again, whatever offset the client sends."""
    session = await away_in_the_middle(core)
    session.confirm(4)
    assert await decide(core, "boot.3") == await decide(core, None) == 4
    assert await decide(core, "boot.5") == 5


async def test_cursor_passes_events_of_other_sessions(core: Core) -> None:
    """The cursor passes events that are not addressed to the session."""
    session = await away_in_the_middle(core)
    session.confirm(5)
    for room in ("other", "other", "s1", "other"):
        await core.emit("x", room)
    assert await decide(core, "boot.5") == 7  # only the eighth event is missed
    assert await decide(core, "boot.8") == 9


async def test_offset_of_a_pruned_event_is_valid(core: Core) -> None:
    """The offset of a pruned event is valid: its row need not exist."""
    session = await away_in_the_middle(core)
    session.confirm(4)
    await core.queue.submit(Prune(4))
    assert core.log.pruned_through == 4
    for offset in ("boot.0", "boot.1", "boot.3", "boot.4", None):
        assert await decide(core, offset) == 4


async def test_former_offset_means_the_sessions_start(
    core: Core,
) -> None:
    """The offset of the client's former session means that no event was received."""
    await core.emit()
    session = await core.open(former="elsewhere.77")
    await core.accept(session)
    await core.away(session)
    await core.emit()
    assert await decide(core, "elsewhere.77") == 1
    assert await decide(core, "elsewhere.78") is RecoveryResult.ROLLED_BACK
    assert await decide(core, "boot.2") == 2


async def test_live_session_can_be_claimed(core: Core) -> None:
    """A live session can be claimed."""
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


# The pid --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pid", ["nobody's", "", "S1", None, 42, ["s1"], {"pid": "s1"}, True, b"s1", "\ud800"]
)
async def test_unknown_pid_opens_no_session(core: Core, pid: object) -> None:
    """An unknown pid opens no session."""
    await core.live()
    assert await decide(core, None, pid=pid) is RecoveryResult.UNKNOWN_SESSION


async def test_a_pid_opens_only_its_own_namespace(core: Core) -> None:
    await core.live()
    assert await decide(core, None, namespace="/other") is RecoveryResult.UNKNOWN_SESSION
    assert await decide(core, None, namespace="/") == 0


async def test_ended_session_is_unknown(core: Core) -> None:
    """An ended session is unknown."""
    session, _ = await core.live()
    session.move(State.ENDED)
    assert await decide(core, None) is RecoveryResult.UNKNOWN_SESSION


class AskedLog:
    """A real log that calls a function during each look-up."""

    def __init__(self, log: EventLog, meanwhile: Callable[[], None]) -> None:
        self._log = log
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def summarise_missed(self, *question: Any, **limits: Any) -> MissedSummary:
        summary = await self._log.summarise_missed(*question, **limits)
        self._meanwhile()
        return summary


async def test_session_that_ends_meanwhile_is_unknown(core: Core) -> None:
    """A session that ends during the look-up in the log is unknown."""
    session = await away_in_the_middle(core)
    log: Any = AskedLog(core.log, lambda: session.move(State.ENDED))
    recovery = Recovery(log, core.registry, LIMITS)
    assert await recovery.decide(session, None, 5, lambda: 0.0) is RecoveryResult.UNKNOWN_SESSION


async def test_session_that_expires_meanwhile_has_expired(core: Core) -> None:
    """A session that expires during the look-up in the log has expired."""
    session = await away_in_the_middle(core)
    now = [0.0]
    log: Any = AskedLog(core.log, lambda: now.append(61.0))
    recovery = Recovery(log, core.registry, LIMITS)
    assert await recovery.decide(session, None, 5, lambda: now[-1]) is RecoveryResult.EXPIRED


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
async def test_malformed_offset_is_bad(core: Core, offset: object) -> None:
    """A malformed offset is a bad offset."""
    await away_in_the_middle(core)
    assert await decide(core, offset) is RecoveryResult.BAD_OFFSET


@pytest.mark.parametrize("offset", ["boot.6", "boot.999999999", "another.3", "another.0"])
async def test_offset_of_a_lost_future_is_rolled_back(core: Core, offset: str) -> None:
    """An offset of a lost future or of another database is rolled back."""
    await away_in_the_middle(core)
    assert await decide(core, offset) is RecoveryResult.ROLLED_BACK


async def sessions_of(log: EventLog) -> Registry:
    registry = Registry()
    for stored in await stored_sessions(log):
        registry.add(Session.restore(stored))
    return registry


async def answer_of(log: EventLog, offset: str | None) -> int | RecoveryResult:
    """The answer to the only client, in a server that has just begun with this log."""
    recovery = Recovery(log, await sessions_of(log), LIMITS)
    found = recovery.find("/", "s1", offset, 0.0)
    if isinstance(found, RecoveryResult):
        return found
    return await recovery.decide(found, offset, log.head, lambda: 0.0)


def opening(former_offset: str | None = None) -> SessionOpened:
    return SessionOpened("/", "s1", hash_pid("s1"), former_offset, 1_000.0)


async def test_offsets_of_earlier_epochs_are_known(path: Path) -> None:
    """Offsets of earlier epochs are known, within the sequences of their epoch."""
    async with opened(path, new_epoch=lambda: "one") as log:
        await commit(log, [event("a"), opening(), event("b"), event("c")])
    async with opened(path, new_epoch=lambda: "two") as log:
        await commit(log, [event("d"), event("e")])
        cursor = partial(answer_of, log)
        assert [await cursor(f"one.{number}") for number in range(4)] == [1, 1, 2, 3]
        assert [await cursor(f"two.{number}") for number in (3, 4, 5)] == [3, 4, 5]
        assert await cursor(None) == 1
        assert await cursor("one.4") is RecoveryResult.ROLLED_BACK  # its epoch ended before that
        assert await cursor("two.6") is RecoveryResult.ROLLED_BACK
        assert await cursor("two.2") is RecoveryResult.ROLLED_BACK  # the epoch began after that


async def test_lost_future_before_the_session(path: Path) -> None:
    """An offset of a future that was lost before the session means its start."""
    async with opened(path, new_epoch=lambda: "one") as log:
        await commit(log, [event("a"), event("b")])
    async with opened(path, new_epoch=lambda: "two") as log:
        await commit(log, [opening(), event("c")])
        assert await answer_of(log, "one.99") == 2


async def test_older_copy_knows_its_own_offsets_only(tmp_path: Path) -> None:
    """An older copy of the database knows its own offsets only."""
    original, copy = tmp_path / "events.db", tmp_path / "copy.db"
    async with opened(original, new_epoch=lambda: "one") as log:
        await commit(log, [opening(), event("a")])
    copy.write_bytes(original.read_bytes())
    async with opened(original, new_epoch=lambda: "two") as log:
        await commit(log, [event("lost")])
        lost = str(log.offset_at(2))
    async with opened(copy, new_epoch=lambda: "three") as log:
        await commit(log, [event("b")])
        assert await answer_of(log, lost) is RecoveryResult.ROLLED_BACK
        assert await answer_of(log, "one.1") == 1


# Limits ---------------------------------------------------------------------------------------------


async def test_session_expires_by_the_uptime_clock(core: Core) -> None:
    """A session expires by the uptime clock."""
    session, _ = await core.live()
    await core.away(session)
    session.away_since = 10.0
    assert await decide(core, None, now=70.0) == 0
    assert await decide(core, None, now=70.001) is RecoveryResult.EXPIRED


async def test_only_away_sessions_expire(core: Core) -> None:
    """Only away sessions expire."""
    recovery = Recovery(core.log, core.registry, LIMITS)
    session = await core.open()
    assert not recovery.is_expired(session, 1_000.0)
    await core.accept(session)
    assert not recovery.is_expired(session, 1_000.0)
    await core.away(session)
    session.away_since = 0.0
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


async def test_limits_ignore_events_of_other_sessions(core: Core) -> None:
    """Events that are not addressed to the session do not count against its limits."""
    session, _ = await core.live("s1", "room")
    await core.away(session)
    for number in range(20):
        await core.emit("x", "room" if number in (4, 14) else "other")
    assert await decide(core, "boot.0", limits=RecoveryLimits(60.0, 2, 10_000)) == 4


async def test_limits_ignore_confirmed_events(core: Core) -> None:
    """Confirmed events do not count against the limits."""
    session = await away_in_the_middle(core)
    session.confirm(4)
    for offset in ("boot.0", "boot.2", None):
        assert await decide(core, offset, limits=RecoveryLimits(60.0, 1, SIZE_BYTES)) == 4


async def test_membership_at_the_time_of_the_event_counts(core: Core) -> None:
    """The memberships at the time of an event decide whether it is missed."""
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
    for operation in changes:
        await core.queue.submit(operation)
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
        "auth_changed",
        "poisoned",
        "incomplete",
    ]


async def test_results_are_counted_and_logged(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    """Results are counted and logged; private ids that are unknown share a line."""
    caplog.set_level(logging.INFO)
    recovery = Recovery(core.log, core.registry, LIMITS)
    recovery.count(RecoveryResult.EXPIRED, "s1")
    for _ in range(50):
        recovery.count(RecoveryResult.EXPIRED)
        recovery.count(RecoveryResult.BAD_OFFSET)
    recovery.count(RecoveryResult.RECOVERED, "s2")
    assert recovery.results == {
        RecoveryResult.EXPIRED: 51,
        RecoveryResult.BAD_OFFSET: 50,
        RecoveryResult.RECOVERED: 1,
    }
    assert caplog.messages == [
        "reconnection of s1: expired",
        "reconnection of an unknown session: expired",
        "reconnection of an unknown session: bad_offset",
    ]
