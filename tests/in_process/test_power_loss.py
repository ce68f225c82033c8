"""The promises of ``synchronous`` after a power cut at any moment of the store's work.

``sqlite_vfs`` records the writes and syncs of real runs on real SQLite files. ``disk_recorder`` builds from a
recording hundreds of disks, each a possible result of a cut. The real store opens each disk, and the test
looks for everything acknowledged before the cut.

``POWER_LOSS_CUTS=3000 POWER_LOSS_SEED=7 pytest tests/in_process/test_power_loss.py`` tries more cuts, or
repeats the cuts of a seed.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from socketio_eventlog.changes import Change, Pruned
from socketio_eventlog.errors import OffsetRefused
from socketio_eventlog.events import Event
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.session_changes import SessionClaimed, SessionOpened
from socketio_eventlog.sqlite import schema
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits, hash_pid
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import Session
from support.disk_recorder import Recording, put_disk
from support.sqlite_vfs import recording, why_not
from support.storing import BEAT, append, commit, event, joined, opened, session, stored_sessions

CUTS = int(os.environ.get("POWER_LOSS_CUTS", "150"))
EPOCHS = 3
COMMITS = 40
"""The number of commits in each epoch."""
Level = Literal["full", "normal"]

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(0),
]


@pytest.fixture(autouse=True)
def own_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite leaves the -shm of an image without a name in the working directory."""
    monkeypatch.chdir(tmp_path)


@dataclass(frozen=True)
class Acknowledgement:
    """The results of one commit: the events' offsets with their payloads, and the sessions' claims."""

    offsets: tuple[tuple[str, str], ...]
    claims: tuple[tuple[str, int], ...]


@dataclass
class Acknowledged:
    """All offsets and claims of a run acknowledged before a cut."""

    offsets: dict[str, str] = field(default_factory=dict)
    claims: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, notes: Sequence[Acknowledgement]) -> Acknowledged:
        acknowledged = cls()
        for note in notes:
            acknowledged.offsets.update(note.offsets)
            acknowledged.claims.update(note.claims)
        return acknowledged


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
    """Several epochs of a server with commits, prunings and checkpoints."""
    texts = iter(range(10**6))
    for epoch in range(EPOCHS):
        async with opened(path, synchronous=level) as log:
            # A short run needs many checkpoints and many beginnings of the WAL.
            await log._writer_database.run(checkpoint_often)
            for number in range(COMMITS):
                earlier = f"sid{chance.randint(0, epoch)}.{chance.randint(0, number)}"
                claims = [SessionClaimed("/", earlier)] if chance.random() < 0.5 else []
                await commit_and_note(log, f"sid{epoch}.{number}", claims, texts, chance, record)
                if chance.random() < 0.1:
                    await commit(log, [BEAT])
                if chance.random() < 0.05:
                    await commit(log, [Pruned(log.head // 4)])


async def commit_and_note(
    log: EventLog,
    sid: str,
    claims: Sequence[SessionClaimed],
    texts: Iterator[int],
    chance: random.Random,
    record: Recording,
) -> None:
    count = chance.choice([1, 1, 2, 20])
    size = chance.choice([1, 50, 5_000])
    changes: list[Change] = [event(f"{next(texts)} {'x' * size}", rooms=("room",)) for _ in range(count)]
    if chance.random() < 0.3:
        changes = [with_pid(sid), joined("room", sid), *changes]
    batch = await append(log, [*changes, *claims])
    record.note(
        Acknowledgement(
            tuple(
                (str(log.offset_at(position)), change.payload)
                for change, position, _, _ in batch.changes
                if isinstance(change, Event)
            ),
            tuple(
                (change.sid, claim)
                for change, _, took_effect, claim in batch.changes
                if isinstance(change, SessionOpened | SessionClaimed) and took_effect
            ),
        )
    )


def moments(record: Recording, chance: random.Random) -> list[int]:
    """The ends of the recordings at the power cuts, after the first acknowledgement of the first epoch."""
    first = next(end for end in range(len(record.records)) if record.notes_before(end))
    return [chance.randint(first, len(record.records)) for _ in range(CUTS)]


async def stored(log: EventLog) -> dict[int, str]:
    return {logged.sequence: logged.event.payload for logged in await log.read(range(1, log.head + 1))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "disk").mkdir()
    return tmp_path


async def test_full_loses_nothing_acknowledged(folder: Path) -> None:
    """With "full" a power cut at any moment loses nothing acknowledged."""
    chance = seeded("full")
    with recording(folder / "run") as record:
        await work(folder / "run" / "events.db", "full", chance, record)
    for end in moments(record, chance):
        acknowledged = Acknowledged.of(record.notes_before(end))
        async with opened(put_disk(folder / "disk", record.cut(end, chance))) as log:
            found = await stored(log)
            for offset, text in acknowledged.offsets.items():
                sequence = log.locate(offset).sequence
                assert sequence <= log.pruned_through or found[sequence] == text
            claims = {session.sid: session.claim for session in await stored_sessions(log)}
            assert list(acknowledged.claims) == list(claims)[: len(acknowledged.claims)]
            assert all(claims[sid] >= claim for sid, claim in acknowledged.claims.items())


async def test_normal_recognises_a_lost_future(folder: Path) -> None:
    """With "normal" a power cut may lose the end of the log, and the log then refuses the lost offsets."""
    chance = seeded("normal")
    lost: Counter[str] = Counter()
    with recording(folder / "run") as record:
        await work(folder / "run" / "events.db", "normal", chance, record)
    for end in moments(record, chance):
        path = put_disk(folder / "disk", record.cut(end, chance))
        lost.update(await check_the_lost_future(path, Acknowledged.of(record.notes_before(end))))
    print(dict(lost))
    # Without a loss the cuts were too gentle, and the test showed nothing.
    assert lost["cuts with a loss"] > CUTS // 20 and lost["offsets kept"] > 0


async def check_the_lost_future(path: Path, acknowledged: Acknowledged) -> Counter[str]:
    counted: Counter[str] = Counter()
    async with opened(path, synchronous="normal") as log:
        kept = await stored(log)
        assert list(kept) == sorted(kept)
        # The log grows again over the sequences of the lost events.
        new = await commit(log, [event(f"new {n}", rooms=("room",)) for n in range(50)])
        new_offsets = {str(log.offset_at(sequence)) for sequence in new}
        assert new_offsets.isdisjoint(acknowledged.offsets), "an offset was given out twice"
        found = await stored(log)
        registry = Registry()
        for row in await stored_sessions(log):
            registry.add(Session.restore(row))
        for offset, text in acknowledged.offsets.items():
            sequence = int(offset.rpartition(".")[2])
            if sequence <= log.pruned_through:
                continue
            if kept.get(sequence) == text:
                counted["offsets kept"] += 1
                assert log.locate(offset).sequence == sequence and str(log.offset_of(sequence)) == offset
            else:
                counted["offsets lost"] += 1
                with pytest.raises(OffsetRefused):
                    log.locate(offset)
        await check_recoveries(log, registry, acknowledged, kept, found)
    counted["cuts with a loss"] += counted["offsets lost"] > 0
    return counted


async def check_recoveries(
    log: EventLog, registry: Registry, acknowledged: Acknowledged, kept: dict[int, str], found: dict[int, str]
) -> None:
    """A client with a lost offset is not recovered, and any other client misses no event."""
    recovery = Recovery(log, registry, RecoveryLimits(60.0, 10**6, 10**9))
    for session_ in list(registry)[-3:]:
        for offset, text in [*acknowledged.offsets.items()][-40::8]:
            sequence = int(offset.rpartition(".")[2])
            cursor = await recovery.decide(session_, offset, log.head, lambda: 0.0)
            if kept.get(sequence) != text and sequence > log.pruned_through:
                assert not isinstance(cursor, int), f"{offset} was lost"
            elif sequence > session_.start.sequence:
                assert isinstance(cursor, int)
                missed = await log.missed("/", list(session_.memberships()), cursor, log.head)
                expected = [n for n in found if n > max(sequence, log.pruned_through)]
                assert list(missed.sequences) == expected


# The checks can fail ---------------------------------------------------------------------------------


async def test_full_without_syncs_is_found_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of "full" fails for a store without a sync for each commit."""
    normal = schema._SYNCHRONOUS["normal"]
    monkeypatch.setattr(schema, "_SYNCHRONOUS", {"full": normal, "normal": normal})
    with pytest.raises((AssertionError, OffsetRefused, KeyError)):
        await test_full_loses_nothing_acknowledged(folder)


async def test_normal_without_the_check_is_found_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of "normal" fails for a store that accepts every offset."""
    monkeypatch.setattr(Epochs, "check", lambda self, offset, head: offset)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await test_normal_recognises_a_lost_future(folder)
