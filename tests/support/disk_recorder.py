"""Builds the disks that a power cut could have left, from a recording of SQLite's writes and syncs.

A disk after a cut has all bytes of a file written before the last sync of the file. Chance decides about
later records: a part of the writes, in any order, some writes torn at sectors of 512 bytes, with or
without the truncations. Creations and deletions are kept up to some point, at least up to the last sync of
a created file (SQLite syncs the folder with the first sync of a new file).

Not simulated: a disk that reports a sync too early, damage to bytes outside of any write, and the loss of
the directory entry of the database itself, which the store syncs after the creation of the file.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECTOR_BYTES = 512


@dataclass(frozen=True)
class Created:
    """A file was created; ``number`` distinguishes files of the same name."""

    name: str
    number: int


@dataclass(frozen=True)
class Deleted:
    name: str


@dataclass(frozen=True)
class Written:
    number: int
    start: int
    content: bytes


@dataclass(frozen=True)
class Truncated:
    number: int
    size: int


@dataclass(frozen=True)
class Synced:
    number: int


@dataclass(frozen=True)
class Noted:
    """A note of the test."""

    note: object


Record = Created | Deleted | Written | Truncated | Synced | Noted


@dataclass
class Recording:
    """The records of all files in a folder, in order."""

    folder: Path
    records: list[Record] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def note(self, note: object) -> None:
        self.records.append(Noted(note))

    def notes_before(self, end: int) -> list[Any]:
        """The test's notes among the first ``end`` records."""
        return [record.note for record in self.records[:end] if isinstance(record, Noted)]

    def opened(self, name: str) -> int:
        """Record the opening of a file, which may create the file; return the file's number."""
        if name not in self._numbers:
            self._numbers[name] = len(self.records)
            self.records.append(Created(name, self._numbers[name]))
        return self._numbers[name]

    def deleted(self, name: str) -> None:
        if self._numbers.pop(name, None) is not None:
            self.records.append(Deleted(name))

    def cut(self, end: int, chance: random.Random) -> dict[str, bytes]:
        """By name the files of a possible disk after a power cut behind the first ``end`` records."""
        before = self.records[:end]
        entries = self._entries(before, chance)
        # The share of surviving records without a sync differs from cut to cut, from nothing to all.
        luck = chance.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        return {name: _content(before, number, luck, chance) for name, number in entries.items()}

    @staticmethod
    def _entries(before: list[Record], chance: random.Random) -> dict[str, int]:
        """The names in the folder at some point after the last durable creation."""
        created = {record.number: index for index, record in enumerate(before) if isinstance(record, Created)}
        synced = [created[record.number] for record in before if isinstance(record, Synced)]
        changes = [index for index, record in enumerate(before) if isinstance(record, Created | Deleted)]
        last = chance.choice([index for index in changes if index >= max(synced, default=0)])
        names: dict[str, int] = {}
        for record in before[: last + 1]:
            if isinstance(record, Created):
                names[record.name] = record.number
            elif isinstance(record, Deleted):
                names.pop(record.name, None)
        return names


def _content(before: list[Record], number: int, luck: float, chance: random.Random) -> bytes:
    of_file = [r for r in before if not isinstance(r, Noted | Deleted | Created) and r.number == number]
    last_sync = max((index for index, record in enumerate(of_file) if isinstance(record, Synced)), default=-1)
    content = bytearray()
    pending = [record for record in of_file[last_sync + 1 :] if chance.random() < luck]
    if chance.random() < 0.5:
        chance.shuffle(pending)
    for record in of_file[: last_sync + 1]:
        _apply(record, content)
    for record in pending:
        for part in _torn(record, chance) if chance.random() < 0.3 else [record]:
            _apply(part, content)
    return bytes(content)


def _torn(record: Record, chance: random.Random) -> Iterator[Record]:
    """Some of the sectors of a write."""
    if not isinstance(record, Written):
        yield record
        return
    start, end = record.start, record.start + len(record.content)
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if chance.random() < 0.5:
            yield Written(record.number, start, record.content[start - record.start : stop - record.start])
        start = stop


def _apply(record: Record, content: bytearray) -> None:
    if isinstance(record, Written):
        if len(content) < record.start:
            content.extend(bytes(record.start - len(content)))
        content[record.start : record.start + len(record.content)] = record.content
    elif isinstance(record, Truncated):
        del content[record.size :]


def put_disk(folder: Path, files: dict[str, bytes]) -> Path:
    """Replace the files of a folder by the files of a cut; return the path of the database."""
    for file in folder.iterdir():
        file.unlink()
    for name, content in files.items():
        if not name.endswith("-shm"):  # an index of the WAL; SQLite builds a new index
            (folder / name).write_bytes(content)
    return folder / "events.db"
