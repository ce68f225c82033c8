"""The history of sessions in the store: its rows, in the transactions of the changes, and their pruning."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from socketio_eventlog.changes import Change
from socketio_eventlog.history import ENTRIES_KEPT, HistoryKind, SessionHistory
from socketio_eventlog.log import Log
from socketio_eventlog.session_changes import (
    DataSaved,
    IdentityRevoked,
    RefusedRecovery,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionAway,
    SessionBound,
    SessionClaimed,
    SessionEnd,
    SessionEnded,
    SessionOpened,
    SessionResumed,
)
from socketio_eventlog.snapshot import Membership
from support.log_engines import Store
from support.storing import Clock, append, commit, event, joined, left, opened, python, session, sqlite

Entry = tuple[str, str | None, str | int | None]
"""Kind, reason and detail."""


async def history(log: Log, sid: str = "s1") -> SessionHistory:
    found = await log.session_history("/", sid)
    assert found is not None
    return found


async def entries(log: Log, sid: str = "s1") -> list[Entry]:
    return [(str(entry.kind), entry.reason, entry.detail) for entry in (await history(log, sid)).entries]


def opening(sid: str, instead_of: RefusedRecovery | None) -> SessionOpened:
    return SessionOpened("/", sid, sid.encode().ljust(32), None, 1_000.0, instead_of=instead_of)


async def test_each_kind_of_entry(store: Store) -> None:
    """Each change of a session has its entry, with what only the store knows: what had an effect."""
    life: Sequence[Change] = [
        session(),
        SessionBound("/", "s1", "ann"),
        joined("red"),
        joined("red"),
        joined(7),
        event(),
        left("red"),
        left("red"),
        event(),
        RoomLeft("/", "s1", 7, through=1),
        SessionAway("/", "s1", 1, 2_000.0, 0, reason="ping timeout"),
        SessionClaimed("/", "s1"),
        SessionAway("/", "s1", 1, 2_000.0, 0, reason="too late"),
        SessionAway("/", "s1", 2, 2_001.0, 0, refusal="refused"),
        SessionClaimed("/", "s1"),
        SessionResumed(
            "/", "s1", 3, 2_002.0, (joined(7), joined("blue"), SessionBound("/", "s1", "ann")), missed=4
        ),
        RoomClosed("/", "blue"),
        DataSaved("/", "s1", "{}"),
        SessionEnded("/", "s1", SessionEnd.EXPIRED, claim=1),
    ]
    async with store.open() as log:
        await commit(log, life)
        expected: list[Entry] = [
            ("opened", None, None),
            ("connected", None, None),
            ("bound", None, "ann"),
            ("joined", None, "red"),
            ("joined", None, 7),
            ("left", None, "red"),
            ("left", "the client's new token does not name the room", 7),
            ("away", "ping timeout", None),
            ("refused", "refused", None),
            ("recovered", None, 4),
            ("joined", None, 7),
            ("joined", None, "blue"),
            ("left", "the room was closed", "blue"),
        ]
        assert await entries(log) == expected
        found = await history(log)
        assert found.ended is None and found.is_complete
        assert [entry.at for entry in found.entries if entry.kind in ("away", "recovered")] == [2_000, 2_002]
        assert [entry.sequence for entry in found.entries] == [0] * 5 + [1, 1] + [2] * 6
        nodes = {entry.kind: entry.node for entry in found.entries if entry.node is not None}
        assert nodes == {HistoryKind.CONNECTED: log.node, HistoryKind.RECOVERED: log.node}
        await commit(log, [SessionEnded("/", "s1", SessionEnd.REVOKED)])
        assert await entries(log) == [*expected, ("ended", "revoked", None)]
        ended = (await history(log)).ended
        assert ended is not None and (ended.identity, ended.start, ended.confirmed) == ("ann", 0, 0)
        memberships = set(ended.memberships)
        assert memberships == {Membership("red", 0, 1), Membership(7, 0, 1), Membership(7, 2, None)}


async def test_sessions_that_end_together(store: Store) -> None:
    """A closed room and a revoked identity have an entry in the history of each session concerned."""
    async with store.open() as log:
        changes: list[Change] = [session("s1"), session("s2"), session("s3")]
        changes += [SessionBound("/", sid, "ann") for sid in ("s1", "s2")]
        changes += [joined("red", sid) for sid in ("s2", "s3")]
        await commit(log, [*changes, RoomClosed("/", "red"), IdentityRevoked("ann")])
        ends = [(await entries(log, sid))[-1] for sid in ("s1", "s2", "s3")]
        revoked = ("ended", "revoked", None)
        assert ends == [revoked, revoked, ("left", "the room was closed", "red")]
        assert (await entries(log, "s2"))[-2] == ("left", "the room was closed", "red")


async def test_a_client_that_was_not_recovered(store: Store) -> None:
    """Both sessions name each other and the reason, also when the former one is over."""
    async with store.open() as log:
        await commit(log, [session("old"), session("over"), SessionEnded("/", "over", SessionEnd.EXPIRED)])
        over = RefusedRecovery("unknown_session", pid_hash=session("over").pid_hash)
        stranger = RefusedRecovery("unknown_session", pid_hash=b"?" * 32)
        await commit(
            log,
            [
                opening("new", RefusedRecovery("expired", "old")),
                opening("late", over),
                opening("other", stranger),
            ],
        )
        assert (await entries(log, "old"))[-1] == ("replaced", "expired", "new")
        assert (await entries(log, "new"))[0] == ("opened", "expired", "old")
        assert (await entries(log, "over"))[-2:] == [
            ("ended", "expired", None),
            ("replaced", "unknown_session", "late"),
        ]
        assert (await entries(log, "late"))[0] == ("opened", "unknown_session", "over")
        assert (await entries(log, "other"))[0] == ("opened", "unknown_session", None)


async def test_a_number_with_a_history_is_not_reused(store: Store) -> None:
    """A new session has no entries of the session that had its row before."""
    async with store.open() as log:
        await commit(log, [session("s1"), SessionEnded("/", "s1", SessionEnd.TRANSPORT), session("s2")])
        assert [kind for kind, _, _ in await entries(log, "s1")] == ["opened", "connected", "ended"]
        assert [kind for kind, _, _ in await entries(log, "s2")] == ["opened", "connected"]


async def test_sessions_that_a_crash_left_open(path: Path) -> None:
    """A start notes that the sessions of the server before are away, since its last sign of life."""
    clock = Clock(5_000.0)
    async with opened(path, wall_clock=clock) as log:
        await commit(log, [session("s1"), session("s2")])
        await commit(log, [SessionAway("/", "s2", 1, 5_001.0, 0)])
    clock.now = 6_000.0
    async with opened(path, wall_clock=clock) as log:
        (*_, last) = (await history(log, "s1")).entries
        assert (last.kind, last.reason, last.at) == (HistoryKind.AWAY, "the server is gone", 5_001.0)
        assert [kind for kind, _, _ in await entries(log, "s2")] == ["opened", "connected", "away"]


LIVES = """
import asyncio, sys
from pathlib import Path
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.events import *
from socketio_eventlog.session_changes import *
from socketio_eventlog.changes import *
from socketio_eventlog.snapshot import *
from socketio_eventlog.sqlite.log import EventLog

async def main():
    log = await EventLog.open(StoreOptions(path=Path(sys.argv[1])))
    print("open", flush=True)
    for number in range(1_000_000):
        sid = f"s{number}"
        opening = SessionOpened("/", sid, sid.encode().ljust(32), None, 1.0)
        await log.append([opening, RoomJoined("/", sid, "a")])
        if number % 2:
            await log.append([SessionEnded("/", sid, SessionEnd.TRANSPORT)])
        if number == 100:
            print("running", flush=True)

asyncio.run(main())
"""

KINDS = "SELECT group_concat(kind) FROM session_history AS h WHERE h.session ="


async def test_a_kill_leaves_history_and_state_in_agreement(path: Path) -> None:
    """After SIGKILL each session has exactly the entries of its rows: all were written together."""
    with python(LIVES, path) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["open\n", "running\n"]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with closing(sqlite3.connect(path)) as database:
        present, ended = (
            database.execute(f"SELECT DISTINCT ({KINDS} {number}) FROM {number.split('.')[0]}").fetchall()
            for number in ("sessions.number", "ended_sessions.session")
        )
        members = database.execute("SELECT count(*) FROM rooms").fetchone()
        sessions = database.execute("SELECT count(*) FROM sessions").fetchone()
    assert present == [("opened,connected,joined",)] and ended == [("opened,connected,joined,ended",)]
    assert members == sessions


async def test_pruning_by_age(store: Store) -> None:
    """Entries from before an uptime go; with the last entry of a session that is over, all of it goes."""
    clock = store.clock
    async with store.open() as log:
        await commit(log, [session("s1"), session("s2"), SessionEnded("/", "s1", SessionEnd.TRANSPORT)])
        clock.now += 3.0
        batch = await append(log, [joined("red", "s2")])
        while await log.prune_session_history(batch.uptime, limit=2):
            pass
        assert await log.session_history("/", "s1") is None
        assert await entries(log, "s2") == [("joined", None, "red")]
        assert not (await history(log, "s2")).is_complete
        assert store.sql("SELECT count(*) FROM ended_sessions") == "0\n"


async def test_a_session_with_very_many_entries(store: Store) -> None:
    """Pruning leaves the newest entries of each session, and the newest of all sessions."""
    async with store.open(max_size=1_000_000) as log:
        await log.prune_session_history(0.0)
        await commit(log, [session("s1"), session("s2"), joined("kept", "s2")])
        for number in range(ENTRIES_KEPT):
            await commit(log, [joined(number), left(number)])
        while await log.prune_session_history(0.0, limit=50):
            pass
        found = await entries(log)
        assert len(found) == ENTRIES_KEPT and found[-1] == ("left", None, ENTRIES_KEPT - 1)
        assert len(await entries(log, "s2")) == 3
        for number in range(9):
            await commit(log, [session(f"more{number}")])
            await commit(log, [joined(room, f"more{number}") for room in range(100)])
        while await log.prune_session_history(0.0):
            pass
        assert await log.session_history("/", "s2") is None  # max_size has room for a thousand entries


@pytest.mark.parametrize("reason", [SessionEnd.REFUSED, SessionEnd.NEVER_ACCEPTED])
async def test_strangers_push_nobody_out(store: Store, reason: SessionEnd) -> None:
    """Clients that nobody let in leave no rows, and their numbers cost no others theirs."""
    async with store.open(max_size=1_000_000) as log:
        await commit(log, [session("s1"), joined("red", "s1")])
        for number in range(5):
            sids = [f"{number}.{place}" for place in range(250)]
            await commit(log, [*map(session, sids), joined("red", sids[0])])
            await commit(log, [left("red", "s1"), joined("red", "s1")])
            await commit(log, [SessionEnded("/", sids[0], reason, claim=9)])
            assert len(await entries(log, sids[0])) == 3
            await commit(log, [SessionEnded("/", sid, reason, claim=1) for sid in sids])
            while await log.prune_session_history(0.0):
                pass
        assert len(await entries(log, "s1")) == 3 + 2 * 5
        assert store.sql("SELECT count(*) FROM session_history") == "13\n"
        assert store.sql("SELECT count(*) FROM ended_sessions") == "0\n"


async def test_numbers_go_on_after_a_pruning(store: Store) -> None:
    """A reader that continues behind a number misses nothing, although all older entries are gone."""
    async with store.open() as log:
        await commit(log, [session("s1"), joined("red")])
        last = (await history(log)).entries[-1].number
        await log.prune_session_history(1e9)
        await commit(log, [left("red")])
        assert (await history(log)).entries[-1].number > last


async def test_no_history(store: Store) -> None:
    """Without session_history nothing is written, and what was written before is deleted."""
    async with store.open() as log:
        await commit(log, [session("s1"), session("s2"), SessionEnded("/", "s2", SessionEnd.TRANSPORT)])
    async with store.open(session_history=False) as log:
        await commit(log, [session("s3"), RoomJoined("/", "s3", "red"), SessionClaimed("/", "s1")])
        await commit(log, [SessionEnded("/", "s3", SessionEnd.TRANSPORT), IdentityRevoked("ann")])
        assert not await log.prune_session_history(0.0)
        for table in ("session_history", "ended_sessions"):
            assert store.sql(f"SELECT count(*) FROM {table}") == "0\n"


@pytest.mark.parametrize("sid", ["s1", "s2"])
async def test_the_view_session_timelines(path: Path, sid: str) -> None:
    """People read times, names and offsets, of sessions that are over, too."""
    async with opened(path, new_epoch=lambda: "boot", wall_clock=Clock(2_000.0)) as log:
        await commit(log, [event(), session(sid), SessionBound("/", sid, "ann"), joined(7, sid)])
        await commit(log, [SessionEnded("/", sid, SessionEnd.EXPIRED)])
        columns = "time, namespace, sid, identity, kind, reason, detail, offset"
        time = "1970-01-01T00:33:20.000Z"
        assert sqlite(path, f"SELECT {columns} FROM session_timelines LIMIT 3").splitlines() == [
            f"{time}|/|{sid}|ann|ended|expired||boot.1",
            f"{time}|/|{sid}|ann|joined||7|boot.1",
            f"{time}|/|{sid}|ann|bound||ann|boot.1",
        ]
