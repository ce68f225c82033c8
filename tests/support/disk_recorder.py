"""Records what SQLite writes and syncs, and builds the disks that a power cut could have left.

SQLite reaches its files through a table of functions, its VFS (https://sqlite.org/vfs.html). Here a copy of
the table is made the default for a while, in which writes, truncations, syncs, creations and deletions are
noted before they go on to the real functions: no privileges, no compiler and no other program is needed,
and what is recorded is what the real store does. SQLite's own crash tests work in the same way.

The disk that a cut leaves has of each file all that was written before its last sync, and of what came
after it as much as chance likes: a part of the writes, in any order, single writes torn at sectors of 512
bytes, truncations or not. Creations and deletions are kept up to some point, and at least up to the last
sync of the file that they made (SQLite syncs the folder with the first sync of a new file).

Not simulated: a disk that reports a sync before it is done, damage to bytes that nobody was writing, and
the loss of the folder's entry of the database itself, which the store syncs when it creates the file.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECTOR_BYTES = 512

# Paths as pointers: SQLite keeps them, and they must not become those of a copy that Python throws away.
_OPEN = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_DELETE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_CLOSE = ctypes.CFUNCTYPE(c_int, c_void_p)
_WRITE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = ctypes.CFUNCTYPE(c_int, c_void_p, c_int)


class _Methods(Structure):
    """sqlite3_io_methods, version 3."""

    _fields_ = [
        ("iVersion", c_int),
        ("xClose", _CLOSE),
        ("xRead", c_void_p),
        ("xWrite", _WRITE),
        ("xTruncate", _TRUNCATE),
        ("xSync", _SYNC),
        ("others", c_void_p * 13),
    ]


class _File(Structure):
    """sqlite3_file: what the VFS keeps of it lies behind."""

    _fields_ = [("pMethods", POINTER(_Methods))]


class _Vfs(Structure):
    """sqlite3_vfs, version 3."""

    _fields_ = [
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", _OPEN),
        ("xDelete", _DELETE),
        ("others", c_void_p * 14),
    ]


@dataclass(frozen=True)
class Created:
    """A file came into being; ``number`` tells it from others of the same name."""

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
    """Something that the test said."""

    what: object


Record = Created | Deleted | Written | Truncated | Synced | Noted


@dataclass
class Recording:
    """What happened to the files in one folder, in order."""

    folder: Path
    records: list[Record] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def note(self, what: object) -> None:
        self.records.append(Noted(what))

    def noted_before(self, end: int) -> list[Any]:
        """What the test had said by then."""
        return [record.what for record in self.records[:end] if isinstance(record, Noted)]

    def opened(self, name: str) -> int:
        """A file was opened, and perhaps created by that."""
        if name not in self._numbers:
            self._numbers[name] = len(self.records)
            self.records.append(Created(name, self._numbers[name]))
        return self._numbers[name]

    def deleted(self, name: str) -> None:
        if self._numbers.pop(name, None) is not None:
            self.records.append(Deleted(name))

    def cut(self, end: int, chance: random.Random) -> dict[str, bytes]:
        """By name the files that may be on the disk if the power went when so many records were made."""
        before = self.records[:end]
        entries = self._entries(before, chance)
        # How much of what was not synced gets through differs from cut to cut, from nothing to all.
        luck = chance.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        return {name: _content(before, number, luck, chance) for name, number in entries.items()}

    @staticmethod
    def _entries(before: list[Record], chance: random.Random) -> dict[str, int]:
        """The names in the folder: those of a point after the last one that a sync made durable."""
        created = {record.number: place for place, record in enumerate(before) if isinstance(record, Created)}
        synced = [created[record.number] for record in before if isinstance(record, Synced)]
        changes = [place for place, record in enumerate(before) if isinstance(record, Created | Deleted)]
        last = chance.choice([place for place in changes if place >= max(synced, default=0)])
        names: dict[str, int] = {}
        for record in before[: last + 1]:
            if isinstance(record, Created):
                names[record.name] = record.number
            elif isinstance(record, Deleted):
                names.pop(record.name, None)
        return names


def _content(before: list[Record], number: int, luck: float, chance: random.Random) -> bytes:
    mine = [r for r in before if not isinstance(r, Noted | Deleted | Created) and r.number == number]
    last_sync = max((place for place, record in enumerate(mine) if isinstance(record, Synced)), default=-1)
    content = bytearray()
    pending = [record for record in mine[last_sync + 1 :] if chance.random() < luck]
    if chance.random() < 0.5:
        chance.shuffle(pending)
    for record in mine[: last_sync + 1]:
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
    place, end = record.start, record.start + len(record.content)
    while place < end:
        stop = min(end, (place // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if chance.random() < 0.5:
            yield Written(record.number, place, record.content[place - record.start : stop - record.start])
        place = stop


def _apply(record: Record, content: bytearray) -> None:
    if isinstance(record, Written):
        if len(content) < record.start:
            content.extend(bytes(record.start - len(content)))
        content[record.start : record.start + len(record.content)] = record.content
    elif isinstance(record, Truncated):
        del content[record.size :]


def why_not() -> str | None:
    """Why nothing can be recorded here, if it is so."""
    try:
        assert ctypes.CDLL(_sqlite3.__file__).sqlite3_vfs_find is not None
    except (AttributeError, OSError, TypeError) as error:
        return f"this Python's SQLite gives no access to its VFS: {error}"
    return None


@contextmanager
def recording(folder: Path) -> Iterator[Recording]:
    """Record all that connections that are opened meanwhile do to the files in a folder."""
    shim = _Shim(Recording(folder))
    shim.register()
    try:
        yield shim.recording
    finally:
        shim.unregister()


class _Shim:
    """The copy of the default VFS; it must live as long as any connection made with it."""

    _kept: list[_Shim] = []  # noqa: RUF012 -- SQLite keeps pointers into them

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._kept.append(self)
        self._library = ctypes.CDLL(_sqlite3.__file__)
        self._library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        self._default = self._library.sqlite3_vfs_find(None)
        self._vfs = _Vfs()
        ctypes.memmove(ctypes.byref(self._vfs), self._default, ctypes.sizeof(_Vfs))
        self._vfs.zName = f"recorder{len(self._kept)}".encode()
        self._vfs.xOpen = _OPEN(self._open)
        self._vfs.xDelete = _DELETE(self._delete)
        self._tables: dict[int, _Methods] = {}
        self._numbers: dict[int, int] = {}
        self._real: dict[int, Any] = {}

    def register(self) -> None:
        assert self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1) == 0

    def unregister(self) -> None:
        assert self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs)) == 0
        assert self._library.sqlite3_vfs_register(self._default, 1) == 0

    def _name(self, path: int | None) -> str | None:
        if path is None:
            return None
        found = Path(os.fsdecode(ctypes.string_at(path)))
        return found.name if found.parent == self.recording.folder.resolve() else None

    def _open(self, vfs: int, path: int | None, file: int, flags: int, out: Any) -> int:
        code: int = self._default.contents.xOpen(vfs, path, file, flags, out)
        name = self._name(path)
        handle = ctypes.cast(file, POINTER(_File)).contents
        if code == 0 and name is not None and handle.pMethods:
            self._numbers[file] = self.recording.opened(name)
            real = handle.pMethods.contents
            self._real[file] = real
            handle.pMethods = ctypes.pointer(self._table_for(real))
        return code

    def _table_for(self, real: _Methods) -> _Methods:
        address = ctypes.addressof(real)
        if address not in self._tables:
            table = _Methods()
            ctypes.memmove(ctypes.byref(table), ctypes.byref(real), ctypes.sizeof(_Methods))
            table.xClose = _CLOSE(self._close)
            table.xWrite = _WRITE(self._write)
            table.xTruncate = _TRUNCATE(self._truncate)
            table.xSync = _SYNC(self._sync)
            self._tables[address] = table
        return self._tables[address]

    def _note(self, file: int, code: int, record: Callable[[int], Record]) -> int:
        if code == 0:
            self.recording.records.append(record(self._numbers[file]))
        return code

    def _write(self, file: int, content: int, size: int, start: int) -> int:
        written = ctypes.string_at(content, size)
        code = self._real[file].xWrite(file, content, size, start)
        return self._note(file, code, lambda number: Written(number, start, written))

    def _truncate(self, file: int, size: int) -> int:
        code = self._real[file].xTruncate(file, size)
        return self._note(file, code, lambda number: Truncated(number, size))

    def _sync(self, file: int, flags: int) -> int:
        return self._note(file, self._real[file].xSync(file, flags), Synced)

    def _close(self, file: int) -> int:
        del self._numbers[file]
        code: int = self._real.pop(file).xClose(file)
        return code

    def _delete(self, vfs: int, path: int, sync: int) -> int:
        code: int = self._default.contents.xDelete(vfs, path, sync)
        if code == 0 and (name := self._name(path)) is not None:
            self.recording.deleted(name)
        return code
