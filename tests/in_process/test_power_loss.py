"""The power goes while the store works: what ``synchronous`` promises of every disk that this may leave.

The real SQLite files of real runs are recorded write by write and sync by sync (``disk_recorder``). From a
recording hundreds of disks are built as a cut at any moment could have left them, each is opened by the
real store, and what was acknowledged before the cut is looked for.

``POWER_LOSS_CUTS=3000 POWER_LOSS_SEED=7 pytest tests/test_power_loss.py`` tries more, or the same again.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from socketio_eventlog.errors import OffsetRefused
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.records import Change, Event, SessionOpened
from socketio_eventlog.sqlite import schema
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits, Restore, hash_pid
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import Session
from support.disk_recorder import Recording, Synced, recording, why_not
from support.storing import event, joined, opened, session

CUTS = int(os.environ.get("POWER_LOSS_CUTS", "150"))
BOOTS = 3
COMMITS = 40
"""Of each boot."""
Level = Literal["full", "normal"]

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(0),
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite leaves a -shm of an image that it could not name where the test runs."""
    monkeypatch.chdir(tmp_path)


@dataclass(frozen=True)
class EmitWithAck:
    """What a commit said: the events' offsets with their texts, and the sessions that were opened."""

    offsets: tuple[tuple[str, str], ...]
    sids: tuple[str, ...]


@dataclass
class Claims:
    """All that a run had acknowledged before a cut."""

    offsets: dict[str, str] = field(default_factory=dict)
    sids: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, noted: Sequence[EmitWithAck]) -> Claims:
        claims = cls()
        for note in noted:
            claims.offsets.update(note.offsets)
            claims.sids += note.sids
        return claims


def seeded(level: str) -> random.Random:
    seed = os.environ.get("POWER_LOSS_SEED") or str(random.randrange(2**32))
    print(f"POWER_LOSS_SEED={seed}")
    return random.Random(f"{seed} {level}")


def with_pid(sid: str) -> SessionOpened:
    opened = session(sid)
    return SessionOpened(opened.namespace, sid, hash_pid(sid), None, opened.opened_at)


def checkpoint_often(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_autocheckpoint = 16").fetchone()


async def work(path: Path, level: Level, chance: random.Random, record: Recording) -> None:
    """Some starts of a server, and what it commits, prunes and checkpoints."""
    texts = iter(range(10**6))
    for boot in range(BOOTS):
        async with opened(path, synchronous=level) as log:
            # So that the WAL is checkpointed, and begins anew, many times in a short run.
            await log._writer_database.run(checkpoint_often)
            for number in range(COMMITS):
                await commit(log, f"sid{boot}.{number}", texts, chance, record)
                if chance.random() < 0.1:
                    await log.heartbeat(float(number))
                if chance.random() < 0.05:
                    await log.prune(through=log.head // 4, emitted_before=2_000.0)


async def commit(
    log: EventLog, sid: str, texts: Iterator[int], chance: random.Random, record: Recording
) -> None:
    count = chance.choice([1, 1, 2, 20])
    size = chance.choice([1, 50, 5_000])
    changes: list[Change] = [event(f"{next(texts)} {'x' * size}", rooms=("room",)) for _ in range(count)]
    if chance.random() < 0.3:
        changes = [with_pid(sid), joined("room", sid), *changes]
    positions = await log.commit(changes)
    record.note(
        EmitWithAck(
            tuple(
                (str(log.offset_at(position)), change.payload)
                for position, change in zip(positions, changes, strict=True)
                if isinstance(change, Event)
            ),
            tuple(change.sid for change in changes if isinstance(change, SessionOpened)),
        )
    )


def moments(record: Recording, chance: random.Random) -> list[int]:
    """Where the power goes; the first boot must have come to its first acknowledgement."""
    first = next(place for place in range(len(record.records)) if record.noted_before(place))
    return [chance.randint(first, len(record.records)) for _ in range(CUTS)]


def put_disk(folder: Path, files: dict[str, bytes]) -> Path:
    for file in folder.iterdir():
        file.unlink()
    for name, content in files.items():
        if not name.endswith("-shm"):  # an index of the WAL, which is made anew
            (folder / name).write_bytes(content)
    return folder / "events.db"


async def stored(log: EventLog) -> dict[int, str]:
    return {logged.sequence: logged.event.payload for logged in await log.read(range(1, log.head + 1))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "disk").mkdir()
    return tmp_path


async def test_full_loses_nothing_that_was_acknowledged_whenever_the_power_goes(folder: Path) -> None:
    chance = seeded("full")
    with recording(folder / "run") as record:
        await work(folder / "run" / "events.db", "full", chance, record)
    for end in moments(record, chance):
        claims = Claims.of(record.noted_before(end))
        async with opened(put_disk(folder / "disk", record.cut(end, chance))) as log:
            found = await stored(log)
            for offset, text in claims.offsets.items():
                place = log.locate(offset)
                assert place.sequence <= log.pruned_through or found[place.sequence] == text
            assert claims.sids == [s.sid for s in await log.load_sessions()][: len(claims.sids)]


async def test_normal_may_lose_the_end_and_then_knows_it(folder: Path) -> None:
    chance = seeded("normal")
    lost: Counter[str] = Counter()
    with recording(folder / "run") as record:
        await work(folder / "run" / "events.db", "normal", chance, record)
    for end in moments(record, chance):
        path = put_disk(folder / "disk", record.cut(end, chance))
        lost.update(await check_that_the_lost_future_is_known(path, Claims.of(record.noted_before(end))))
    print(dict(lost))
    # Otherwise the cuts were too gentle, and nothing was shown.
    assert lost["cuts with a loss"] > CUTS // 20 and lost["offsets kept"] > 0


async def check_that_the_lost_future_is_known(path: Path, claims: Claims) -> Counter[str]:
    counted: Counter[str] = Counter()
    async with opened(path, synchronous="normal") as log:
        kept = await stored(log)
        assert list(kept) == sorted(kept)
        # The log grows again over the place of what was lost.
        new = await log.commit([event(f"new {n}", rooms=("room",)) for n in range(50)])
        given_anew = {str(log.offset_at(number)) for number in new}
        assert given_anew.isdisjoint(claims.offsets), "an offset was given out twice"
        found = await stored(log)
        registry = Registry()
        for row in await log.load_sessions():
            registry.add(Session.restore(row, away_since=0.0))
        for offset, text in claims.offsets.items():
            number = int(offset.rpartition(".")[2])
            if number <= log.pruned_through:
                continue
            if kept.get(number) == text:
                counted["offsets kept"] += 1
                assert log.locate(offset).sequence == number and str(log.offset_of(number)) == offset
            else:
                counted["offsets lost"] += 1
                with pytest.raises(OffsetRefused):
                    log.locate(offset)
        await check_recoveries(log, registry, claims, kept, found)
    counted["cuts with a loss"] += counted["offsets lost"] > 0
    return counted


async def check_recoveries(
    log: EventLog, registry: Registry, claims: Claims, kept: dict[int, str], found: dict[int, str]
) -> None:
    """A client that has seen the lost future is told so, and another lacks nothing."""
    recovery = Recovery(log, registry, RecoveryLimits(60.0, 10**6, 10**9))
    for session_ in list(registry)[-3:]:
        for offset, text in [*claims.offsets.items()][-40::8]:
            number = int(offset.rpartition(".")[2])
            answer = await recovery.decide("/", session_.sid, offset, log.head, lambda: 0.0)
            if kept.get(number) != text and number > log.pruned_through:
                assert not isinstance(answer, Restore), f"{offset} was lost"
            elif number > session_.start.sequence:
                assert isinstance(answer, Restore)
                missed = await log.missed("/", list(session_.memberships()), answer.cursor, log.head)
                wanted = [n for n in found if n > max(number, log.pruned_through)]
                assert list(missed.sequences) == wanted


# It must be able to fail ----------------------------------------------------------------------------


async def test_full_without_a_sync_for_each_commit_is_found_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    normal = schema._SYNCHRONOUS["normal"]
    monkeypatch.setattr(schema, "_SYNCHRONOUS", {"full": normal, "normal": normal})
    with pytest.raises((AssertionError, OffsetRefused, KeyError)):
        await test_full_loses_nothing_that_was_acknowledged_whenever_the_power_goes(folder)


async def test_normal_that_believes_every_offset_is_found_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Epochs, "check", lambda self, place, head: place)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await test_normal_may_lose_the_end_and_then_knows_it(folder)


def test_the_recorder_sees_what_sqlite_writes_and_syncs(folder: Path) -> None:
    path = folder / "run" / "events.db"
    with recording(folder / "run") as record, closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE numbers (number)")
        connection.commit()
        before = len(record.records)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("INSERT INTO numbers VALUES (1)")
        connection.commit()
        assert not [r for r in record.records[before:] if isinstance(r, Synced)]
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("INSERT INTO numbers VALUES (2)")
        connection.commit()
        assert isinstance(record.records[-1], Synced)
        end = len(record.records)
    for seed in range(20):
        left = put_disk(folder / "disk", record.cut(end, random.Random(seed)))
        with closing(sqlite3.connect(left)) as connection:
            assert connection.execute("SELECT number FROM numbers").fetchall() == [(1,), (2,)]
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    content = path.read_bytes()
    assert record.cut(len(record.records), random.Random(0)).get("events.db") == content
    assert {file.name for file in path.parent.iterdir()} == {"events.db"}
