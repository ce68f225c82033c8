"""What the store promises when a process ends at any moment, or somebody puts an older file in place."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from socketio_eventlog.errors import OffsetRolledBack, OffsetUnknown
from support.storing import always, event, opened, python, session

WRITER = """
import asyncio, sys
from pathlib import Path
from support.storing import event, joined, left, session
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog

async def main():
    log = await EventLog.open(StoreOptions(path=Path(sys.argv[1]), index_memory=0))
    await log.commit([session(log.epoch)])
    while True:
        batch = [event(rooms=("a",), attachments=(b"x",))] * 99
        batch += [joined("a", log.epoch), event(), left("a", log.epoch)]
        positions = await log.commit(batch)
        print(log.epoch, positions[0], positions[-1], flush=True)

asyncio.run(main())
"""
EVENTS_PER_COMMIT = 100


def write_until_killed(path: Path, commits: int) -> list[tuple[str, int, int]]:
    """Boot, first and last number of each commit that the process acknowledged before it was killed."""
    with python(WRITER, path, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(commits)]
        process.kill()
        lines += process.stdout.readlines()
    fields = [line.split() for line in lines if line.endswith("\n")]
    return [(boot, int(first), int(last)) for boot, first, last in fields]


async def test_a_kill_loses_nothing_acknowledged_and_no_number_is_given_out_twice(path: Path) -> None:
    chance = random.Random(5)
    acknowledged: list[tuple[str, int, int]] = []
    for _ in range(6):
        acknowledged += write_until_killed(path, chance.randint(1, 60))

    last_numbers = [last for _, _, last in acknowledged]
    first_numbers = [first for _, first, _ in acknowledged]
    assert all(first > last for first, last in zip(first_numbers[1:], last_numbers, strict=False))
    async with opened(path) as log:
        assert log.head >= last_numbers[-1]
        stored = await log.read(range(1, log.head + 1))
        assert [found.sequence for found in stored] == list(range(1, log.head + 1))
        assert log.head % EVENTS_PER_COMMIT == 0  # no part of a transaction
        assert {found.event.attachments for found in stored} == {(b"x",), ()}
        for boot, first, last in acknowledged:
            assert log.locate(f"{boot}.{last}").sequence == last
            assert log.offset_of(first).epoch == boot
        in_room_a = tuple(found.sequence for found in stored if found.event.rooms)
        assert (await log.missed("/", always("a"), 0, log.head)).sequences == in_room_a
        assert {found.sid for found in await log.load_sessions()} == {boot for boot, _, _ in acknowledged}
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_offsets_from_a_future_that_an_older_copy_does_not_have_are_refused(path: Path) -> None:
    copy = path.with_suffix(".copy")
    async with opened(path) as first:
        await first.commit([session(), event(), event()])
        before_copy = str(first.offset_at(2))
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        await first.commit([event("lost")] * 3)
        lost = str(first.offset_at(5))
    async with opened(path) as second:
        await second.commit([event("lost as well")])
        of_lost_boot = str(second.offset_at(6))
    copy.replace(path)
    async with opened(path) as third:
        assert third.head == 2
        assert await third.commit([event("new")] * 9) == list(range(3, 12))
        assert third.locate(before_copy).sequence == 2
        with pytest.raises(OffsetRolledBack):
            third.locate(lost)  # although a number 5 is there again
        with pytest.raises(OffsetUnknown):
            third.locate(of_lost_boot)


async def test_a_tail_that_a_power_cut_took_is_recognised(path: Path) -> None:
    """What synchronous = normal may lose: the last commits, but not the row of the boot."""
    copy = path.with_suffix(".copy")
    async with opened(path, synchronous="normal") as log:
        await log.commit([event()] * 3)
        # The disk as it would be without the commits that follow.
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        await log.commit([event("lost")] * 3)
        boot = log.epoch
    for suffix in ("", "-wal"):
        shutil.move(f"{copy}{suffix}", f"{path}{suffix}")
    async with opened(path) as log:
        assert log.head == 3
        assert log.locate(f"{boot}.3").sequence == 3
        await log.commit([event("other")] * 3)
        with pytest.raises(OffsetRolledBack):
            log.locate(f"{boot}.4")


async def test_a_program_that_forgets_to_close_ends_all_the_same(path: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from support.storing import event
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.sqlite.log import EventLog

async def main():
    log = await EventLog.open(StoreOptions(path=Path(sys.argv[1])))
    await log.commit([event()])
    raise SystemExit(7)

asyncio.run(main())
"""
    with python(code, path, cwd=Path(__file__).parents[1]) as process:
        assert process.wait(timeout=60) == 7
    async with opened(path) as log:
        assert log.head == 1
