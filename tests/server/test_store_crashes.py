"""The store after a kill at any moment, and after an older file was put back."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from socketio_eventlog.errors import OffsetRolledBack, OffsetUnknown
from support.storing import always, commit, event, opened, python, session, stored_sessions

WRITER = """
import asyncio, sys
from pathlib import Path
from support.storing import commit, event, joined, left, session
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog

async def main():
    log = await EventLog.open(StoreOptions(path=Path(sys.argv[1]), index_memory=0))
    await commit(log, [session(log.node)])
    while True:
        batch = [event(rooms=("a",), attachments=(b"x",))] * 99
        batch += [joined("a", log.node), event(), left("a", log.node)]
        heads = await commit(log, batch)
        print(log.node, heads[0], heads[-1], flush=True)

asyncio.run(main())
"""
EVENTS_PER_COMMIT = 100


def write_until_killed(path: Path, commits: int) -> list[tuple[str, int, int]]:
    """Epoch, first and last sequence of each commit acknowledged before the kill."""
    with python(WRITER, path, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(commits)]
        process.kill()
        lines += process.stdout.readlines()
    fields = [line.split() for line in lines if line.endswith("\n")]
    return [(epoch, int(first), int(last)) for epoch, first, last in fields]


async def test_a_kill_loses_nothing_acknowledged(path: Path) -> None:
    """A kill loses no acknowledged event, and no sequence is assigned twice."""
    chance = random.Random(5)
    acknowledged: list[tuple[str, int, int]] = []
    for _ in range(6):
        acknowledged += write_until_killed(path, chance.randint(1, 60))

    last_sequences = [last for _, _, last in acknowledged]
    first_sequences = [first for _, first, _ in acknowledged]
    assert all(first > last for first, last in zip(first_sequences[1:], last_sequences, strict=False))
    async with opened(path) as log:
        assert log.head >= last_sequences[-1]
        stored = await log.read(range(1, log.head + 1))
        assert [found.sequence for found in stored] == list(range(1, log.head + 1))
        assert log.head % EVENTS_PER_COMMIT == 0  # no part of a transaction
        assert {found.event.attachments for found in stored} == {(b"x",), ()}
        for epoch, first, last in acknowledged:
            assert log.locate(f"{epoch}.{last}").sequence == last
            assert log.offset_of(first).epoch == epoch
        in_room_a = tuple(found.sequence for found in stored if found.event.rooms)
        assert (await log.missed("/", always("a"), 0, log.head)).sequences == in_room_a
        assert {found.sid for found in await stored_sessions(log)} == {epoch for epoch, _, _ in acknowledged}
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


COMES_AND_GOES = """
import asyncio, sys
from pathlib import Path
from support.storing import commit, event, session
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.changes import Heartbeat
from socketio_eventlog.session_changes import SessionAway, SessionClaimed
from socketio_eventlog.sqlite.log import EventLog

async def main():
    log = await EventLog.open(StoreOptions(path=Path(sys.argv[1])))
    found = {stored.sid: stored.claim for stored in (await log.join()).sessions}
    if not found:
        await commit(log, [session(sid) for sid in ("opened", "away", "claimed")])
    await commit(log, [SessionAway("/", sid, found.get(sid, 1), 1_001.0, 0) for sid in ("away", "claimed")])
    await commit(log, [SessionClaimed("/", "claimed"), Heartbeat(0, 0, notes_position=True)])
    print((await log.join()).uptime, flush=True)
    while True:
        await commit(log, [event(), SessionClaimed("/", "claimed"), Heartbeat(0, 0)])

asyncio.run(main())
"""


async def test_killed_sessions_are_away(path: Path) -> None:
    """The sessions of a killed server are away, from when they were; claims and uptime go on."""
    claims, reached = 1, 0.0
    away_since: list[float | None] = []
    for _ in range(3):
        with python(COMES_AND_GOES, path, cwd=Path(__file__).parents[1]) as process:
            assert process.stdout is not None
            uptime = float(process.stdout.readline())
            process.kill()
        async with opened(path) as log:
            snapshot = await log.join()
            opened_, away, claimed = snapshot.sessions
            assert (opened_.node, away.node, claimed.node) == (None, None, None)
            assert claimed.claim > claims and (opened_.claim, away.claim) == (1, 1)
            if not away_since:
                assert 0.0 < (away.away_since or 0.0) <= uptime <= (opened_.away_since or 0.0)
                away_since = [opened_.away_since, away.away_since, away.away_since]
            assert [stored.away_since for stored in snapshot.sessions] == away_since
            assert reached < snapshot.positions[-1][0] <= uptime <= snapshot.uptime
            claims, reached = claimed.claim, snapshot.uptime


async def test_an_older_copy_refuses_later_offsets(path: Path) -> None:
    """After an older copy is put back, offsets of the lost future are refused."""
    copy = path.with_suffix(".copy")
    async with opened(path) as first:
        await commit(first, [session(), event(), event()])
        before_copy = str(first.offset_at(2))
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        await commit(first, [event("lost")] * 3)
        lost = str(first.offset_at(5))
    async with opened(path) as second:
        await commit(second, [event("lost as well")])
        of_lost_epoch = str(second.offset_at(6))
    copy.replace(path)
    async with opened(path) as third:
        assert third.head == 2
        assert await commit(third, [event("new")] * 9) == list(range(3, 12))
        assert third.locate(before_copy).sequence == 2
        with pytest.raises(OffsetRolledBack):
            third.locate(lost)  # although the new log has a sequence 5, too
        with pytest.raises(OffsetUnknown):
            third.locate(of_lost_epoch)


async def test_a_lost_tail_is_recognised(path: Path) -> None:
    """With synchronous = normal a power cut may take the last commits, but never the row of the epoch."""
    copy = path.with_suffix(".copy")
    async with opened(path, synchronous="normal") as log:
        await commit(log, [event()] * 3)
        # The disk without the later commits.
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        await commit(log, [event("lost")] * 3)
        epoch = log.node
    for suffix in ("", "-wal"):
        shutil.move(f"{copy}{suffix}", f"{path}{suffix}")
    async with opened(path) as log:
        assert log.head == 3
        assert log.locate(f"{epoch}.3").sequence == 3
        await commit(log, [event("other")] * 3)
        with pytest.raises(OffsetRolledBack):
            log.locate(f"{epoch}.4")


async def test_a_program_without_close_ends(path: Path) -> None:
    """A program that never closes its log ends nevertheless."""
    code = """
import asyncio, sys
from pathlib import Path
from support.storing import commit, event
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog

async def main():
    log = await EventLog.open(StoreOptions(path=Path(sys.argv[1])))
    await commit(log, [event()])
    raise SystemExit(7)

asyncio.run(main())
"""
    with python(code, path, cwd=Path(__file__).parents[1]) as process:
        assert process.wait(timeout=60) == 7
    async with opened(path) as log:
        assert log.head == 1
